// The step of C from G: tiles of dC = G M'ᵀ are formed and consumed in registers.
//
// A block owns a 64 × 64 tile of dC (64 rows of the batch, 64 samples of the bank) and walks over the features in steps
// of 16, 4 × 4 products a thread; then each thread steps its 16 elements of C.
//
// Floor: 24·B·N bytes in float32 (reads and writes C and both moments), 2·B·N·d FLOP; FFMA-bound from d ≈ 64 up.
// Deterministic: an element is written by one thread; duplicates of a row are added in the order of the batch first.
#include "cuda/block.cuh"
#include "cuda/row_step.cuh"
#include "self_expression_step.h"

namespace dsc::cuda {

namespace {

constexpr int kTile = 64;
constexpr int kStep = 16;
constexpr int kThreads = 256;
constexpr int kPerThread = 4;
constexpr int kAcross = kTile / kPerThread;
constexpr int kPadded = kStep + 1;  // so that a column of a tile lies in different banks
constexpr int64_t kMaxGridY = 65535;

template <class T>
struct Operands {
    T* C;
    int64_t n, row_offset;
    void *exp_avg, *exp_avg_sq;
    const int64_t* step;
    const T* G;
    int64_t G_stride;
    const int64_t* rows;
    int64_t B;
    const T* M;
    int64_t M_stride, N, d;
    const T* Z;
    int64_t Z_stride;
    const int32_t* slot;
    bool zero_diagonal;
    const float *grad_scale, *found_inf;
    Rates rates;
};

template <class T>
__device__ int64_t row_of(const Operands<T>& p, int64_t b) {
    return p.rows ? p.rows[b] : p.row_offset + b;
}

// Whether position b of the batch steps its row: the last of duplicates does.
template <class T>
__device__ bool steps(const Operands<T>& p, int64_t b) {
    return b < p.B && (!p.rows || p.slot[p.rows[b]] == b);
}

template <class T, class Moment>
__global__ void __launch_bounds__(kThreads) self_expression_step_kernel(Operands<T> p) {
    __shared__ T A[kTile * kPadded];
    __shared__ T B[kTile * kPadded];
    __shared__ RowStep<T> constants[kTile];
    if (p.found_inf && *p.found_inf != 0.0f) return;
    const int64_t b0 = int64_t(blockIdx.x) * kTile;
    const T scale = p.grad_scale ? T(*p.grad_scale) : T(1);
    if (threadIdx.x < kTile && steps(p, b0 + threadIdx.x)) {
        const int64_t row = row_of(p, b0 + threadIdx.x), local = row - p.row_offset;
        constants[threadIdx.x] = row_step<T>(p.rates, row, p.step ? p.step[local] + 1 : 1);
    }
    const int across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;
    for (int64_t j0 = int64_t(blockIdx.y) * kTile; j0 < p.N; j0 += int64_t(gridDim.y) * kTile) {
        T sum[kPerThread][kPerThread] = {};
        for (int64_t f0 = 0; f0 < p.d; f0 += kStep) {
            __syncthreads();  // the previous tiles have been read, the constants are there
            for (int e = threadIdx.x; e < kTile * kStep; e += kThreads) {
                const int64_t i = e / kStep, f = f0 + e % kStep, b = b0 + i, j = j0 + i;
                A[i * kPadded + e % kStep] = b < p.B && f < p.d ? p.G[b * p.G_stride + f] / scale : T(0);
                T value = 0;
                if (j < p.N && f < p.d) {
                    const int32_t live = p.Z ? p.slot[j] : -1;
                    value = live >= 0 ? p.Z[live * p.Z_stride + f] : p.M[j * p.M_stride + f];
                }
                B[i * kPadded + e % kStep] = value;
            }
            __syncthreads();
            for (int k = 0; k < kStep; ++k) {
                T a[kPerThread], m[kPerThread];
                for (int i = 0; i < kPerThread; ++i) a[i] = A[(down * kPerThread + i) * kPadded + k];
                for (int i = 0; i < kPerThread; ++i) m[i] = B[(across + i * kAcross) * kPadded + k];
                for (int i = 0; i < kPerThread; ++i) {
                    for (int c = 0; c < kPerThread; ++c) sum[i][c] += a[i] * m[c];
                }
            }
        }
        __syncthreads();  // the constants are there, where there are no features
        for (int i = 0; i < kPerThread; ++i) {
            const int64_t b = b0 + down * kPerThread + i;
            if (!steps(p, b)) continue;
            const int64_t row = row_of(p, b);
            for (int c = 0; c < kPerThread; ++c) {
                const int64_t j = j0 + across + c * kAcross;
                if (j >= p.N) continue;
                const int64_t at = (row - p.row_offset) * p.N + j;
                step_element(p.C[at], static_cast<Moment*>(p.exp_avg) + at, static_cast<Moment*>(p.exp_avg_sq) + at,
                             p.zero_diagonal && j == row ? T(0) : sum[i][c], j, constants[down * kPerThread + i]);
            }
        }
    }
}

__global__ void clear_slots_kernel(int32_t* slot, int64_t slots) {
    for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < slots; j += int64_t(gridDim.x) * blockDim.x)
        slot[j] = -1;
}

// The last of duplicate rows wins: the largest b.
__global__ void claim_slots_kernel(const int64_t* rows, int64_t B, int64_t row_offset, int64_t n, int32_t* slot) {
    for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < B; b += int64_t(gridDim.x) * blockDim.x) {
        DSC_DEVICE_ASSERT(rows[b] >= row_offset && rows[b] - row_offset < n,
                          "self_expression_step_: rows must lie in C");
        atomicMax(&slot[rows[b]], static_cast<int32_t>(b));
    }
}

// A block a position: gradients of duplicates are added into that of the last one, in the order of the batch.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_duplicates_kernel(const T* G, int64_t G_stride, const int64_t* rows, const int32_t* slot, int64_t d, T* out) {
    const int64_t b = blockIdx.x, row = rows[b];
    if (slot[row] != b) return;
    const bool duplicated = block_finds<kThreads>(rows, 0, b, row);
    for (int64_t f = threadIdx.x; f < d; f += kThreads) {
        T total = 0;
        for (int64_t other = duplicated ? 0 : b; other <= b; ++other) {
            if (rows[other] == row) total += G[other * G_stride + f];
        }
        out[b * d + f] = total;
    }
}

// A launch of its own, since every block of the row has to read the old count.
template <class T>
__global__ void count_steps_of_batch_kernel(Operands<T> p, int64_t* step) {
    if (p.found_inf && *p.found_inf != 0.0f) return;
    for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < p.B; b += int64_t(gridDim.x) * blockDim.x) {
        if (steps(p, b)) ++step[row_of(p, b) - p.row_offset];
    }
}

template <class T>
Status run(Operands<T> p, DType moments, int64_t* step, int32_t* slot, T* sums, Queue queue) {
    if (p.rows) {
        const int64_t slots = p.N > p.row_offset + p.n ? p.N : p.row_offset + p.n;
        if (Status s =
                launch(clear_slots_kernel, dim3(blocks_for(slots, kThreads)), dim3(kThreads), 0, queue, slot, slots);
            !s) {
            return s;
        }
        if (Status s = launch(claim_slots_kernel, dim3(blocks_for(p.B, kThreads)), dim3(kThreads), 0, queue, p.rows,
                              p.B, p.row_offset, p.n, slot);
            !s) {
            return s;
        }
        if (Status s = launch(add_duplicates_kernel<T>, dim3(blocks_for(p.B, 1)), dim3(kThreads), 0, queue, p.G,
                              p.G_stride, p.rows, p.slot, p.d, sums);
            !s) {
            return s;
        }
        p.G = sums;
        p.G_stride = p.d;
    }
    const int64_t across = (p.N + kTile - 1) / kTile;
    const dim3 grid(blocks_for(p.B, kTile), static_cast<unsigned>(across < kMaxGridY ? across : kMaxGridY));
    const auto kernel =
        moments == DType::bf16 ? self_expression_step_kernel<T, uint16_t> : self_expression_step_kernel<T, T>;
    if (Status s = launch(kernel, grid, dim3(kThreads), 0, queue, p); !s) return s;
    if (!step) return {};
    return launch(count_steps_of_batch_kernel<T>, dim3(blocks_for(p.B, kThreads)), dim3(kThreads), 0, queue, p, step);
}

}  // namespace

int64_t self_expression_step_scratch(DType dtype, Queue, int64_t B, int64_t, int64_t d) {
    return B * d * (dtype == DType::f64 ? sizeof(double) : sizeof(float));
}

Status self_expression_step_(DType dtype, Queue queue, bool, void* C, int64_t n, int64_t row_offset, DType moments,
                             void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G, int64_t G_stride,
                             const int64_t* rows, int64_t B, const void* M, int64_t M_stride, int64_t N, int64_t d,
                             const void* Z, int64_t Z_stride, int32_t* slot, Rule rule, double lr, double beta1,
                             double beta2, double eps, double weight_decay, double l1, bool zero_diagonal,
                             const float* grad_scale, const float* found_inf, void* scratch) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Rates rates = {rule, lr, beta1, beta2, eps, weight_decay, l1};
        return run(Operands<T>{static_cast<T*>(C),
                               n,
                               row_offset,
                               exp_avg,
                               exp_avg_sq,
                               step,
                               static_cast<const T*>(G),
                               G_stride,
                               rows,
                               B,
                               static_cast<const T*>(M),
                               M_stride,
                               N,
                               d,
                               static_cast<const T*>(Z),
                               Z_stride,
                               slot,
                               zero_diagonal,
                               grad_scale,
                               found_inf,
                               rates},
                   moments, step, slot, static_cast<T*>(scratch), queue);
    });
}

}  // namespace dsc::cuda
