// Ẑ = C[rows] M' as a tiled product that gathers rows of C and live rows of Z on the way into shared memory.
//
//            d                 A block owns a 64 × 64 tile of Ẑ and walks over the samples j of its split in steps of
//            16:
//        ┌───────┐             A tile (64 rows of C) and B tile (16 rows of M or Z) are fetched by cp.async while the
//      N │  M'   │             previous pair is multiplied, 4 × 4 products a thread.
//   ┌──┐ └───────┘
// B │C │ ┌───────┐             Floor: 2·B·N·d FLOP; bytes 4·(B·N·⌈d/64⌉ + N·d·⌈B/64⌉). FFMA-bound from d ≈ 32 up.
//   └──┘ │  Ẑ    │             Deterministic: splits are summed in order by a second kernel, no atomics on values.
//        └───────┘
#include "common/ptx.cuh"
#include "self_expression.h"

namespace dsc::cuda {

namespace {

constexpr int kTileRows = 64;
constexpr int kTileColumns = 64;
constexpr int kStep = 16;
constexpr int kThreads = 256;
constexpr int kPerThread = 4;  // a thread owns 4 × 4 of the tile
constexpr int kAcross = kTileColumns / kPerThread;
constexpr int64_t kBlocksToFill = 264;  // two blocks on each of an H100's 132 multiprocessors

template <class T>
struct Operands {
    const T* C;
    int64_t C_stride, n, row_offset;
    const T* M;
    int64_t M_stride, N, d;
    const int64_t* rows;
    int64_t B;
    const T* Z;
    int64_t Z_stride;
    const int32_t* slot;
    bool zero_diagonal;
    int64_t split_length;
    T* partial;
};

// Fetches columns [j0, j0 + 16) of the tile's rows of C; outside the matrix and on the diagonal the tile is zero.
template <class T>
__device__ void fetch_coefficients(const Operands<T>& p, const int64_t* row_of, int64_t j0, int64_t j_end, T* A) {
    for (int e = threadIdx.x; e < kTileRows * kStep; e += kThreads) {
        const int64_t row = row_of[e / kStep], j = j0 + e % kStep;
        if (row >= 0 && j < j_end && !(p.zero_diagonal && j == row)) {
            cp_async<sizeof(T)>(A + e, p.C + (row - p.row_offset) * p.C_stride + j);
        } else {
            A[e] = T(0);
        }
    }
}

// Fetches samples [j0, j0 + 16) of the spliced bank, columns [c0, c0 + 64).
template <class T>
__device__ void fetch_bank(const Operands<T>& p, int64_t j0, int64_t j_end, int64_t c0, T* B) {
    for (int e = threadIdx.x; e < kStep * kTileColumns; e += kThreads) {
        const int64_t j = j0 + e / kTileColumns, c = c0 + e % kTileColumns;
        if (j < j_end && c < p.d) {
            const int32_t live = p.slot ? p.slot[j] : -1;
            cp_async<sizeof(T)>(B + e, live >= 0 ? p.Z + live * p.Z_stride + c : p.M + j * p.M_stride + c);
        } else {
            B[e] = T(0);
        }
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) self_expression_kernel(Operands<T> p) {
    __shared__ T A[2][kTileRows * kStep];
    __shared__ T B[2][kStep * kTileColumns];
    __shared__ int64_t row_of[kTileRows];
    const int64_t b0 = int64_t(blockIdx.x) * kTileRows, c0 = int64_t(blockIdx.y) * kTileColumns;
    const int64_t j_begin = blockIdx.z * p.split_length;
    const int64_t j_end = j_begin + p.split_length < p.N ? j_begin + p.split_length : p.N;

    if (threadIdx.x < kTileRows) {
        const int64_t b = b0 + threadIdx.x;
        const int64_t row = b < p.B ? p.rows[b] : -1;
        DSC_DEVICE_ASSERT(b >= p.B || (row >= p.row_offset && row - p.row_offset < p.n),
                          "self_expression: rows must lie in C");
        row_of[threadIdx.x] = row;
    }
    __syncthreads();

    const int across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;
    T sum[kPerThread][kPerThread] = {};
    fetch_coefficients(p, row_of, j_begin, j_end, A[0]);
    fetch_bank(p, j_begin, j_end, c0, B[0]);
    cp_async_commit();
    int stage = 0;
    for (int64_t j0 = j_begin; j0 < j_end; j0 += kStep, stage ^= 1) {
        if (j0 + kStep < j_end) {
            fetch_coefficients(p, row_of, j0 + kStep, j_end, A[stage ^ 1]);
            fetch_bank(p, j0 + kStep, j_end, c0, B[stage ^ 1]);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();  // the whole tile has arrived
        for (int k = 0; k < kStep; ++k) {
            T a[kPerThread], b[kPerThread];
            for (int i = 0; i < kPerThread; ++i) a[i] = A[stage][(down * kPerThread + i) * kStep + k];
            for (int i = 0; i < kPerThread; ++i) b[i] = B[stage][k * kTileColumns + across + i * kAcross];
            for (int i = 0; i < kPerThread; ++i) {
                for (int c = 0; c < kPerThread; ++c) sum[i][c] += a[i] * b[c];
            }
        }
        __syncthreads();  // and has been read, before the next fetch overwrites it
    }

    T* out = p.partial + blockIdx.z * p.B * p.d;
    for (int i = 0; i < kPerThread; ++i) {
        const int64_t b = b0 + down * kPerThread + i;
        for (int c = 0; c < kPerThread; ++c) {
            const int64_t column = c0 + across + c * kAcross;
            if (b < p.B && column < p.d) out[b * p.d + column] = sum[i][c];
        }
    }
}

template <class T>
__global__ void sum_splits_kernel(const T* partial, int64_t splits, int64_t size, T* out) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += int64_t(gridDim.x) * blockDim.x) {
        T total = partial[i];
        for (int64_t s = 1; s < splits; ++s) total += partial[s * size + i];
        out[i] = total;
    }
}

__global__ void clear_slots_kernel(int32_t* slot, int64_t N) {
    for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < N; j += int64_t(gridDim.x) * blockDim.x)
        slot[j] = -1;
}

// The last of duplicate rows wins: the largest b.
__global__ void claim_slots_kernel(const int64_t* rows, int64_t B, int32_t* slot, int64_t N) {
    for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < B; b += int64_t(gridDim.x) * blockDim.x) {
        DSC_DEVICE_ASSERT(rows[b] >= 0 && rows[b] < N, "self_expression: rows must lie in the bank");
        atomicMax(&slot[rows[b]], static_cast<int32_t>(b));
    }
}

template <class T>
__global__ void block_kernel(const T* C, int64_t C_stride, int64_t row_offset, const int64_t* rows, int64_t B,
                             const int32_t* slot, bool zero_diagonal, T* block) {
    for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < B * B; e += int64_t(gridDim.x) * blockDim.x) {
        const int64_t a = e / B, b = e % B;
        const int64_t row = rows[a], column = rows[b];
        const bool counts = slot[column] == b && !(zero_diagonal && row == column);
        block[e] = counts ? C[(row - row_offset) * C_stride + column] : T(0);
    }
}

Status fill_slots(Queue queue, const int64_t* rows, int64_t B, int32_t* slot, int64_t N) {
    if (Status s = launch(clear_slots_kernel, dim3(blocks_for(N, kThreads)), dim3(kThreads), 0, queue, slot, N); !s) {
        return s;
    }
    return launch(claim_slots_kernel, dim3(blocks_for(B, kThreads)), dim3(kThreads), 0, queue, rows, B, slot, N);
}

template <class T>
Status run(Operands<T> p, Queue queue, int32_t* slot, int64_t splits, T* out) {
    if (slot) {
        if (Status s = fill_slots(queue, p.rows, p.B, slot, p.N); !s) return s;
    }
    const int64_t steps = (p.N + kStep - 1) / kStep;
    p.split_length = (steps + splits - 1) / splits * kStep;
    const dim3 grid(blocks_for(p.B, kTileRows), blocks_for(p.d, kTileColumns), static_cast<unsigned>(splits));
    if (Status s = launch(self_expression_kernel<T>, grid, dim3(kThreads), 0, queue, p); !s) return s;
    if (splits == 1) return {};
    const int64_t size = p.B * p.d;
    return launch(sum_splits_kernel<T>, dim3(blocks_for(size, kThreads)), dim3(kThreads), 0, queue,
                  static_cast<const T*>(p.partial), splits, size, out);
}

}  // namespace

int64_t self_expression_splits(int64_t B, int64_t N, int64_t d) {
    const int64_t tiles = ((B + kTileRows - 1) / kTileRows) * ((d + kTileColumns - 1) / kTileColumns);
    const int64_t wanted = tiles > 0 ? kBlocksToFill / tiles : 1;
    const int64_t longest = N / (16 * kStep);  // below 16 steps a split costs more in its partial sums than it gains
    const int64_t splits = wanted < longest ? wanted : longest;
    return splits < 1 ? 1 : splits;
}

Status self_expression(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n, int64_t row_offset,
                       const void* M, int64_t M_stride, int64_t N, int64_t d, const int64_t* rows, int64_t B,
                       const void* Z, int64_t Z_stride, int32_t* slot, bool zero_diagonal, int64_t splits,
                       void* partial, void* out) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return run(
            Operands<T>{static_cast<const T*>(C), C_stride, n, row_offset, static_cast<const T*>(M), M_stride, N, d,
                        rows, B, static_cast<const T*>(Z), Z_stride, slot, zero_diagonal, 0, static_cast<T*>(partial)},
            queue, slot, splits, static_cast<T*>(out));
    });
}

Status self_expression_block(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t, int64_t row_offset,
                             int64_t N, const int64_t* rows, int64_t B, int32_t* slot, bool zero_diagonal,
                             void* block) {
    if (Status s = fill_slots(queue, rows, B, slot, N); !s) return s;
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(block_kernel<T>, dim3(blocks_for(B * B, kThreads)), dim3(kThreads), 0, queue,
                      static_cast<const T*>(C), C_stride, row_offset, rows, B, static_cast<const int32_t*>(slot),
                      zero_diagonal, static_cast<T*>(block));
    });
}

}  // namespace dsc::cuda
