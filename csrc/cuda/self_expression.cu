// Ẑ = C[rows] M' on tensor cores: a tiled product that gathers rows of C and live rows of Z on the way into shared
// memory.
//
//            d                 A block owns 64 rows of Ẑ and 32, 64 or 128 of its columns, and walks over the samples j
//            of
//        ┌───────┐             its split in steps of 32: 64 rows of C and 32 rows of M or Z are fetched by cp.async
//      N │  M'   │             while the step before is multiplied. The diagonal is left out on the way in, so that
//   ┌──┐ └───────┘             whatever stands there, NaN too, has no effect.
// B │C │ ┌───────┐
//   └──┘ │  Ẑ    │             Floor: 2·B·N·d FLOP; bytes 4·(B·N·⌈d/128⌉ + N·d·⌈B/64⌉), of which B·N from memory. That
//        └───────┘             is d/2 FLOP a byte of C: bandwidth-bound up to d = 128 in TF32, d = 64 in 3xTF32 (A100).
//
// float32 is exact (3xTF32) unless tf32 is allowed; double by FP64 tensor cores. Deterministic: splits are summed in
// order by a second kernel, no atomics on values.
#include "common/dtype.h"
#include "cuda/slots.cuh"
#include "cuda/tile.cuh"
#include "self_expression.h"

namespace dsc::cuda {

namespace {

constexpr int kStep = 32;
constexpr int kThreads = 256;  // of the kernels beside the product

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

// 2 × 2 warps, each 32 rows and 8·NT columns.
template <class T, int NT>
struct Product {
    using Shape = TileShape<2, 2, 2, NT>;
    static constexpr int kC = row_stride(kStep), kM = column_stride<T>(Shape::kColumns);
    static constexpr int kStage = Shape::kRows * kC + kStep * kM;
    static constexpr size_t kSharedBytes = 2 * kStage * sizeof(T);
    static constexpr int kBlocks = sizeof(T) == 8 ? 2 : NT == 8 ? 3 : 4;  // on a multiprocessor, for the registers
};

template <class T, bool kExact, int NT>
__global__ void __launch_bounds__(Product<T, NT>::Shape::kThreads, Product<T, NT>::kBlocks)
    self_expression_kernel(Operands<T> p) {
    using P = Product<T, NT>;
    using Shape = typename P::Shape;
    DSC_DYNAMIC_SHARED(T, shared);
    __shared__ int64_t row_of[Shape::kRows];
    const int64_t b0 = int64_t(blockIdx.x) * Shape::kRows, c0 = int64_t(blockIdx.y) * Shape::kColumns;
    const int64_t j_begin = blockIdx.z * p.split_length;
    const int64_t j_end = j_begin + p.split_length < p.N ? j_begin + p.split_length : p.N;

    if (threadIdx.x < Shape::kRows) {
        const int64_t b = b0 + threadIdx.x;
        const int64_t row = b < p.B ? p.rows[b] : -1;
        DSC_DEVICE_ASSERT(b >= p.B || (row >= p.row_offset && row - p.row_offset < p.n),
                          "self_expression: rows must lie in C");
        row_of[threadIdx.x] = row;
    }
    __syncthreads();

    const bool wide_C = wide_rows(p.C, p.C_stride);
    const bool wide_M = wide_rows(p.M, p.M_stride) && (!p.slot || wide_rows(p.Z, p.Z_stride));
    const auto fetch = [&](int64_t step, int stage) {
        const int64_t j0 = j_begin + step * kStep;
        T* const C_tile = shared + stage * P::kStage;
        fetch_rows<Shape::kThreads, Shape::kRows, kStep>(C_tile, P::kC, j_end - j0, wide_C, [&](int i) -> Row<T> {
            const int64_t row = row_of[i];
            if (row < 0) return {nullptr};
            return {p.C + (row - p.row_offset) * p.C_stride + j0, p.zero_diagonal ? row - j0 : -1};
        });
        fetch_rows<Shape::kThreads, kStep, Shape::kColumns>(
            C_tile + Shape::kRows * P::kC, P::kM, p.d - c0, wide_M, [&](int i) -> Row<T> {
                const int64_t j = j0 + i;
                if (j >= j_end) return {nullptr};
                const int32_t live = p.slot ? p.slot[j] : -1;
                return {c0 + (live >= 0 ? p.Z + live * p.Z_stride : p.M + j * p.M_stride)};
            });
    };
    constexpr Tf32 kTf32 = tf32_of<T, kExact>;
    Tile<T, 2, NT> sum;
    pipeline<2>(divide_up(j_end - j_begin, kStep), fetch, [&](int64_t, int stage) {
        const T* const C_tile = shared + stage * P::kStage;
        multiply<kStep, kTf32, kTf32>(sum, C_tile + Shape::first_row() * P::kC, P::kC,
                                      C_tile + Shape::kRows * P::kC + Shape::first_column(), P::kM);
    });

    T* const out = p.partial + blockIdx.z * p.B * p.d;
    for_each(sum, [&](int row, int column, T value) {
        const int64_t b = b0 + Shape::first_row() + row, c = c0 + Shape::first_column() + column;
        if (b < p.B && c < p.d) out[b * p.d + c] = value;
    });
}

template <class T>
__global__ void sum_splits_kernel(const T* partial, int64_t splits, int64_t size, T* out) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += int64_t(gridDim.x) * blockDim.x) {
        T total = partial[i];
        for (int64_t s = 1; s < splits; ++s) total += partial[s * size + i];
        out[i] = total;
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

// The columns of Ẑ a block takes, as pieces of 8 for each of two warps: no more than d asks for.
int pieces_for(int64_t d, int most) {
    const int wanted = d <= 32 ? 2 : d <= 64 ? 4 : 8;
    return wanted < most ? wanted : most;
}

int64_t tiles_for(int64_t B, int64_t d, int pieces) { return int64_t(blocks_for(B, 64)) * blocks_for(d, 16 * pieces); }

template <class T, int NT>
Status run_product(const Operands<T>& p, bool tf32, Queue queue, int64_t splits) {
    using P = Product<T, NT>;
    const dim3 grid(blocks_for(p.B, P::Shape::kRows), blocks_for(p.d, P::Shape::kColumns),
                    static_cast<unsigned>(splits));
    return with_exactness<T>(tf32, [&](auto exact) {
        return launch(self_expression_kernel<T, exact.value, NT>, grid, dim3(P::Shape::kThreads), P::kSharedBytes,
                      queue, p);
    });
}

template <class T>
Status run(Operands<T> p, bool tf32, Queue queue, int32_t* slot, int64_t splits, T* out) {
    if (slot) {
        if (Status s = fill_slots(queue, p.rows, p.B, 0, p.N, slot, p.N); !s) return s;
    }
    const int64_t steps = divide_up(p.N, kStep);
    p.split_length = divide_up(steps, splits) * kStep;
    constexpr int kMost = sizeof(T) == 8 ? 4 : 8;  // pieces: more accumulators do not fit beside what they need
    const int pieces = pieces_for(p.d, kMost);
    const auto product = pieces == 2 ? run_product<T, 2> : pieces == 4 ? run_product<T, 4> : run_product<T, kMost>;
    if (Status s = product(p, tf32, queue, splits); !s) return s;
    if (splits == 1) return {};
    const int64_t size = p.B * p.d;
    return launch(sum_splits_kernel<T>, dim3(blocks_for(size, kThreads)), dim3(kThreads), 0, queue,
                  static_cast<const T*>(p.partial), splits, size, out);
}

}  // namespace

int64_t self_expression_splits(int64_t B, int64_t N, int64_t d) {
    return splits_to_fill(tiles_for(B, d, pieces_for(d, 8)), divide_up(N, kStep));
}

Status self_expression(DType dtype, Queue queue, bool tf32, const void* C, int64_t C_stride, int64_t n,
                       int64_t row_offset, const void* M, int64_t M_stride, int64_t N, int64_t d, const int64_t* rows,
                       int64_t B, const void* Z, int64_t Z_stride, int32_t* slot, bool zero_diagonal, int64_t splits,
                       void* partial, void* out) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return run(
            Operands<T>{static_cast<const T*>(C), C_stride, n, row_offset, static_cast<const T*>(M), M_stride, N, d,
                        rows, B, static_cast<const T*>(Z), Z_stride, slot, zero_diagonal, 0, static_cast<T*>(partial)},
            tf32, queue, slot, splits, static_cast<T*>(out));
    });
}

Status self_expression_block(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t, int64_t row_offset,
                             int64_t N, const int64_t* rows, int64_t B, int32_t* slot, bool zero_diagonal,
                             void* block) {
    if (Status s = fill_slots(queue, rows, B, 0, N, slot, N); !s) return s;
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(block_kernel<T>, dim3(blocks_for(B * B, kThreads)), dim3(kThreads), 0, queue,
                      static_cast<const T*>(C), C_stride, row_offset, rows, B, static_cast<const int32_t*>(slot),
                      zero_diagonal, static_cast<T*>(block));
    });
}

}  // namespace dsc::cuda
