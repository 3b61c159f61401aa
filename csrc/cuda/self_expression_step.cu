// The step of C from G on tensor cores: tiles of dC = G M'ᵀ are formed and consumed in registers.
//
// A block owns 64 rows of the batch by 64 samples of the bank, and walks over the features in steps of 32; then each
// lane steps the pairs of neighbors it holds. What belongs to a row (its step count, the constants of its step) is
// worked out once a row before, and not once a block.
//
// Floor: 24·B·N bytes in float32, 16 with moments of 16 bits (reads and writes C and both moments, once; past the
// caches, which keep the bank), 2·B·N·d FLOP: d/12 FLOP a byte, bandwidth-bound up to d = 400 in 3xTF32 (A100).
// Deterministic: an element is written by one thread; duplicates of a row are added in the order of the batch first.
#include "common/dtype.h"
#include "cuda/block.cuh"
#include "cuda/row_step.cuh"
#include "cuda/slots.cuh"
#include "cuda/tile.cuh"
#include "self_expression_step.h"

namespace dsc::cuda {

namespace {

using Shape = TileShape<2, 2, 2, 4>;  // 2 × 2 warps of 32 × 32
constexpr int kPieces = Shape::kWarpColumns / 8;
constexpr int kStep = 32;
constexpr int kStride = row_stride(kStep);
constexpr int kStage = (Shape::kRows + Shape::kColumns) * kStride;
constexpr int kThreads = 256;  // of the kernels beside the product
template <class T, bool kExact>
constexpr int kBlocks = sizeof(T) == 8 ? 2
                        : kExact       ? 3
                                       : 4;  // on a multiprocessor, for the registers

template <class T>
struct PreparedRow {
    RowStep<T> step;
    int64_t row;  // global, or -1: nothing to step
};

template <class T>
struct Operands {
    T* C;
    int64_t n, row_offset;
    void *exp_avg, *exp_avg_sq;
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
    PreparedRow<T>* prepared;  // (B)
};

template <class T, class Moment, bool kExact>
__global__ void __launch_bounds__(Shape::kThreads, kBlocks<T, kExact>) self_expression_step_kernel(Operands<T> p) {
    DSC_DYNAMIC_SHARED(T, shared);
    __shared__ PreparedRow<T> prepared[Shape::kRows];
    if (p.found_inf && *p.found_inf != 0.0f) return;
    const int64_t row_tiles = divide_up(p.B, Shape::kRows);
    const int64_t b0 = blockIdx.x % row_tiles * Shape::kRows, j0 = blockIdx.x / row_tiles * Shape::kColumns;

    const bool wide_G = wide_rows(p.G, p.G_stride);
    const bool wide_M = wide_rows(p.M, p.M_stride) && (!p.Z || wide_rows(p.Z, p.Z_stride));
    const auto fetch = [&](int64_t step, int stage) {
        const int64_t f0 = step * kStep;
        T* const G_tile = shared + stage * kStage;
        fetch_rows<Shape::kThreads, Shape::kRows, kStep>(G_tile, kStride, p.d - f0, wide_G, [&](int i) -> Row<T> {
            return {b0 + i < p.B ? p.G + (b0 + i) * p.G_stride + f0 : nullptr};
        });
        fetch_rows<Shape::kThreads, Shape::kColumns, kStep>(
            G_tile + Shape::kRows * kStride, kStride, p.d - f0, wide_M, [&](int i) -> Row<T> {
                const int64_t j = j0 + i;
                if (j >= p.N) return {nullptr};
                const int32_t live = p.Z ? p.slot[j] : -1;
                return {f0 + (live >= 0 ? p.Z + live * p.Z_stride : p.M + j * p.M_stride)};
            });
    };
    constexpr Tf32 kTf32 = tf32_of<T, kExact>;
    Tile<T, 2, kPieces> grad;
    pipeline<2>(divide_up(p.d, kStep), fetch, [&](int64_t, int stage) {
        const T* const G_tile = shared + stage * kStage;
        multiply_rows<kStep, kTf32, kTf32>(grad, G_tile + Shape::first_row() * kStride, kStride,
                                           G_tile + (Shape::kRows + Shape::first_column()) * kStride, kStride);
    });

    if (threadIdx.x < Shape::kRows) {
        if (b0 + threadIdx.x < p.B) {
            prepared[threadIdx.x] = p.prepared[b0 + threadIdx.x];
        } else {
            prepared[threadIdx.x].row = -1;
        }
    }
    __syncthreads();
    Moment* const exp_avg = static_cast<Moment*>(p.exp_avg);
    Moment* const exp_avg_sq = static_cast<Moment*>(p.exp_avg_sq);
    const bool moves = p.rates.rule != Rule::proximal;
    const bool wide = wide_pairs(p.C, p.N) && (!moves || (wide_pairs(exp_avg, p.N) && wide_pairs(exp_avg_sq, p.N)));
    const T unscale = p.grad_scale ? T(1) / T(*p.grad_scale) : T(1);
    for_each_row_of_pairs(grad, [&](int row_of_tile, auto&& pair) {
        const PreparedRow<T>& row = prepared[Shape::first_row() + row_of_tile];
        if (row.row < 0) return;
        const int64_t first = j0 + Shape::first_column() + threadIdx.x % 4 * 2;
        const int64_t at = (row.row - p.row_offset) * p.N + first;
        const auto valid = [&](int n) {
            const int64_t left = p.N - first - n * 8;
            return left < 0 ? 0 : left < 2 ? int(left) : 2;
        };
        Pair<T> c[kPieces];
        Pair<Moment> m[kPieces] = {}, v[kPieces] = {};
#pragma unroll
        for (int n = 0; n < kPieces; ++n) {
            c[n] = load_pair(p.C + at + n * 8, valid(n), wide);
            if (moves) {
                m[n] = load_pair(exp_avg + at + n * 8, valid(n), wide);
                v[n] = load_pair(exp_avg_sq + at + n * 8, valid(n), wide);
            }
        }
#pragma unroll
        for (int n = 0; n < kPieces; ++n) {
            const T* const g = pair(n);
            const int64_t j = first + n * 8;
            const auto data = [&](int e) { return p.zero_diagonal && j + e == row.row ? T(0) : g[e] * unscale; };
            step_element(c[n].x, &m[n].x, &v[n].x, data(0), j, row.step);
            step_element(c[n].y, &m[n].y, &v[n].y, data(1), j + 1, row.step);
            store_pair(p.C + at + n * 8, c[n], valid(n), wide);
            if (moves) {
                store_pair(exp_avg + at + n * 8, m[n], valid(n), wide);
                store_pair(exp_avg_sq + at + n * 8, v[n], valid(n), wide);
            }
        }
    });
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

// The constants of each row's step, and its count; of duplicates the last steps the row.
template <class T>
__global__ void prepare_rows_kernel(Operands<T> p, int64_t* step) {
    if (p.found_inf && *p.found_inf != 0.0f) return;
    for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < p.B; b += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = p.rows ? p.rows[b] : p.row_offset + b;
        if (p.rows && p.slot[row] != b) {
            p.prepared[b].row = -1;
            continue;
        }
        p.prepared[b] = {row_step<T>(p.rates, row, step ? ++step[row - p.row_offset] : 1), row};
    }
}

// Bytes of scratch before the prepared rows: gradients with their duplicates added, (B, d).
int64_t sums_bytes(int64_t B, int64_t d, int64_t element) { return round_up(B * d * element, 64); }

template <class T>
Status run(Operands<T> p, DType moments, bool tf32, int64_t* step, int32_t* slot, T* sums, Queue queue) {
    if (p.rows) {
        const int64_t end = p.row_offset + p.n;
        if (Status s = fill_slots(queue, p.rows, p.B, p.row_offset, end, slot, p.N > end ? p.N : end); !s) return s;
        if (Status s = launch(add_duplicates_kernel<T>, dim3(blocks_for(p.B, 1)), dim3(kThreads), 0, queue, p.G,
                              p.G_stride, p.rows, p.slot, p.d, sums);
            !s) {
            return s;
        }
        p.G = sums;
        p.G_stride = p.d;
    }
    if (Status s = launch(prepare_rows_kernel<T>, dim3(blocks_for(p.B, kThreads)), dim3(kThreads), 0, queue, p, step);
        !s)
        return s;
    const int64_t tiles = int64_t(blocks_for(p.B, Shape::kRows)) * blocks_for(p.N, Shape::kColumns);
    const auto product = [&](auto moment) {
        return with_exactness<T>(tf32, [&](auto exact) {
            return launch(self_expression_step_kernel<T, decltype(moment), exact.value>, dim3(blocks_for(tiles, 1)),
                          dim3(Shape::kThreads), 2 * kStage * sizeof(T), queue, p);
        });
    };
    if constexpr (std::is_same_v<T, float>) {
        if (moments == DType::bf16) return product(uint16_t{});
    }
    return product(T{});
}

}  // namespace

int64_t self_expression_step_scratch(DType dtype, Queue, int64_t B, int64_t, int64_t d) {
    int64_t bytes = 0;
    with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        bytes = sums_bytes(B, d, sizeof(T)) + B * int64_t(sizeof(PreparedRow<T>));
        return Status{};
    });
    return bytes;
}

Status self_expression_step_(DType dtype, Queue queue, bool tf32, void* C, int64_t n, int64_t row_offset, DType moments,
                             void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G, int64_t G_stride,
                             const int64_t* rows, int64_t B, const void* M, int64_t M_stride, int64_t N, int64_t d,
                             const void* Z, int64_t Z_stride, int32_t* slot, Rule rule, double lr, double beta1,
                             double beta2, double eps, double weight_decay, double l1, bool zero_diagonal,
                             const float* grad_scale, const float* found_inf, void* scratch) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Rates rates = {rule, lr, beta1, beta2, eps, weight_decay, l1};
        return run(
            Operands<T>{static_cast<T*>(C),
                        n,
                        row_offset,
                        exp_avg,
                        exp_avg_sq,
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
                        rates,
                        reinterpret_cast<PreparedRow<T>*>(static_cast<char*>(scratch) + sums_bytes(B, d, sizeof(T)))},
            moments, tf32, step, slot, static_cast<T*>(scratch), queue);
    });
}

}  // namespace dsc::cuda
