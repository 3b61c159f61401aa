// Kernels that use csrc/cuda/tile.cuh and do nothing else, each an example of it; test_tile.py compares them with
// NumPy. Called through ctypes; buffers are the caller's, sizes as named.
#include <cstdio>
#include <exception>

#include "common/launch.cuh"
#include "cuda/tile.cuh"

using namespace dsc;
using namespace dsc::cuda;

namespace {

constexpr int kDepth = 32;

// S = A · Bᵀ, (n,d) (N,d) -> (n,N), and the sum and the largest of each row's S over each 64 columns: (n, ceil(N /
// 64)).
template <class SA, class SB, bool kExact, int kStages>
__global__ void __launch_bounds__(128, 3)
    scores(const SA* A, const SB* B, int64_t n, int64_t N, int64_t d, int64_t A_stride, int64_t B_stride,
           Computed<SA>* S, Computed<SA>* sums, Computed<SA>* largest) {
    using T = Computed<SA>;
    using Shape = TileShape<4, 1, 1, 8>;
    constexpr int kStride = row_stride(kDepth);
    DSC_DYNAMIC_SHARED(T, shared);
    const int64_t n0 = int64_t(blockIdx.x) * Shape::kRows, N0 = int64_t(blockIdx.y) * Shape::kColumns;
    const bool wide = wide_rows(A, A_stride) && wide_rows(B, B_stride);
    const auto A_of = [&](int stage) { return shared + stage * (Shape::kRows + Shape::kColumns) * kStride; };
    const auto B_of = [&](int stage) { return A_of(stage) + Shape::kRows * kStride; };

    Tile<T, 1, 8> tile;
    pipeline<kStages>(
        (d + kDepth - 1) / kDepth,
        [&](int64_t step, int stage) {
            const int64_t k = step * kDepth;
            fetch_rows<Shape::kThreads, Shape::kRows, kDepth>(A_of(stage), kStride, d - k, wide, [&](int r) {
                return Row<SA>{n0 + r < n ? A + (n0 + r) * A_stride + k : nullptr};
            });
            fetch_rows<Shape::kThreads, Shape::kColumns, kDepth>(B_of(stage), kStride, d - k, wide, [&](int r) {
                return Row<SB>{N0 + r < N ? B + (N0 + r) * B_stride + k : nullptr};
            });
        },
        [&](int64_t, int stage) {
            multiply_rows<kDepth, tf32_of<SA, kExact>, tf32_of<SB, kExact>>(
                tile, A_of(stage) + Shape::first_row() * kStride, kStride,
                B_of(stage) + Shape::first_column() * kStride, kStride);
        });

    const int64_t row0 = n0 + Shape::first_row(), column0 = N0 + Shape::first_column();
    for_each(tile, [&](int row, int column, T& value) {
        if (row0 + row < n && column0 + column < N) S[(row0 + row) * N + column0 + column] = value;
        if (column0 + column >= N) value = T(-1e30);
    });
    auto most = reduce_rows(tile, T(-1e30), [](T a, T b) { return a < b ? b : a; });
    for_each(tile, [&](int, int column, T& value) { value = column0 + column < N ? value : T(0); });
    auto total = reduce_rows(tile, T(0), [](T a, T b) { return a + b; });
    const auto save = [&](T* to) {
        return [&, to](int row, T value) {
            if (leads_row() && row0 + row < n) to[(row0 + row) * gridDim.y + blockIdx.y] = value;
        };
    };
    for_each_row(total, save(sums));
    for_each_row(most, save(largest));
}

// O = max(Q · Kᵀ, 0) · V, (n,d) (N,d) (N,e) -> (n,e), d and e at most 64, a block for 64 rows; K and V as they are
// fetched.
template <class S, bool kExact>
__global__ void __launch_bounds__(128, 3) attention(const Computed<S>* Q, const S* K, const S* V, int64_t n, int64_t N,
                                                    int64_t d, int64_t e, Computed<S>* O) {
    using T = Computed<S>;
    using Shape = TileShape<4, 1, 1, 4>;  // of scores: 64 rows, 32 columns
    constexpr int kWidth = 64, kStride = row_stride(kWidth), kStep = Shape::kColumns;
    constexpr Tf32 kQ = tf32_of<T, kExact>, kBank = tf32_of<S, kExact>;
    DSC_DYNAMIC_SHARED(T, shared);
    T* const Q_tile = shared;
    const auto K_of = [&](int stage) { return shared + (Shape::kRows + stage * 2 * kStep) * kStride; };
    const auto V_of = [&](int stage) { return K_of(stage) + kStep * kStride; };
    const int64_t n0 = int64_t(blockIdx.x) * Shape::kRows;

    fetch_rows<Shape::kThreads, Shape::kRows, kWidth>(
        Q_tile, kStride, d, wide_rows(Q, d), [&](int r) { return Row<T>{n0 + r < n ? Q + (n0 + r) * d : nullptr}; });
    Tile<T, 1, 8> out;
    pipeline<2>((N + kStep - 1) / kStep,
                [&](int64_t step, int stage) {
                    const int64_t j = step * kStep;
                    fetch_rows<Shape::kThreads, kStep, kWidth>(K_of(stage), kStride, d, wide_rows(K, d), [&](int r) {
                        return Row<S>{j + r < N ? K + (j + r) * d : nullptr};
                    });
                    fetch_rows<Shape::kThreads, kStep, kWidth>(V_of(stage), kStride, e, wide_rows(V, e), [&](int r) {
                        return Row<S>{j + r < N ? V + (j + r) * e : nullptr};
                    });
                },
                [&](int64_t, int stage) {
                    Tile<T, 1, 4> scores;
                    multiply_rows<kWidth, kQ, kBank>(scores, Q_tile + Shape::first_row() * kStride, kStride,
                                                     K_of(stage), kStride);
                    for_each(scores, [](int, int, T& value) { value = value > T(0) ? value : T(0); });
                    multiply_scores<kQ, kBank>(out, scores, V_of(stage), kStride);
                });
    for_each(out, [&](int row, int column, T& value) {
        row += Shape::first_row();
        if (n0 + row < n && column < e) O[(n0 + row) * e + column] = value;
    });
}

// O = C[rows] · M, C's element (rows[b], rows[b]) taken as zero; rows -1 are rows of zeros: (n,N) (N,d) -> (B,d).
template <class S, bool kExact>
__global__ void __launch_bounds__(128, 3)
    product(const Computed<S>* C, const S* M, const int64_t* rows, int64_t B, int64_t N, int64_t d, int64_t C_stride,
            int64_t M_stride, Computed<S>* O) {
    using T = Computed<S>;
    using Shape = TileShape<2, 2, 2, 2>;
    constexpr int kC = row_stride(kDepth), kM = column_stride<T>(Shape::kColumns);
    DSC_DYNAMIC_SHARED(T, shared);
    const auto C_of = [&](int stage) { return shared + stage * (Shape::kRows * kC + kDepth * kM); };
    const auto M_of = [&](int stage) { return C_of(stage) + Shape::kRows * kC; };
    const int64_t b0 = int64_t(blockIdx.x) * Shape::kRows, c0 = int64_t(blockIdx.y) * Shape::kColumns;

    Tile<T, 2, 2> tile;
    pipeline<2>((N + kDepth - 1) / kDepth,
                [&](int64_t step, int stage) {
                    const int64_t j = step * kDepth;
                    fetch_rows<Shape::kThreads, Shape::kRows, kDepth>(
                        C_of(stage), kC, N - j, wide_rows(C, C_stride), [&](int r) {
                            const int64_t row = b0 + r < B ? rows[b0 + r] : -1;
                            return Row<T>{row >= 0 ? C + row * C_stride + j : nullptr, row - j};
                        });
                    fetch_rows<Shape::kThreads, kDepth, Shape::kColumns>(
                        M_of(stage), kM, d - c0, wide_rows(M, M_stride),
                        [&](int r) { return Row<S>{j + r < N ? M + (j + r) * M_stride + c0 : nullptr}; });
                },
                [&](int64_t, int stage) {
                    multiply<kDepth, tf32_of<T, kExact>, tf32_of<S, kExact>>(
                        tile, C_of(stage) + Shape::first_row() * kC, kC, M_of(stage) + Shape::first_column(), kM);
                });
    for_each_pair(tile, [&](int row, int column, T& first, T& second) {
        const int64_t b = b0 + Shape::first_row() + row, c = c0 + Shape::first_column() + column;
        if (b < B && c < d) O[b * d + c] = first;
        if (b < B && c + 1 < d) O[b * d + c + 1] = second;
    });
}

thread_local char last_message[1024];

template <class... Params, class... Args>
int run(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
    try {
        launch(kernel, grid, block, shared_bytes, 0, args...);
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(last_message, sizeof(last_message), "%s", error.what());
        return 1;
    }
}

template <class SA, class SB>
int launch_scores(const void* A, const void* B, int64_t n, int64_t N, int64_t d, int64_t A_stride, int64_t B_stride,
                  void* S, void* sums, void* largest, bool tf32, int stages) {
    using T = Computed<SA>;
    const auto with = [&](auto kernel) {
        return run(kernel, dim3(blocks_for(n, 64), blocks_for(N, 64)), dim3(128),
                   size_t(stages) * 128 * row_stride(kDepth) * sizeof(T), static_cast<const SA*>(A),
                   static_cast<const SB*>(B), n, N, d, A_stride, B_stride, static_cast<T*>(S), static_cast<T*>(sums),
                   static_cast<T*>(largest));
    };
    if (std::is_same_v<SB, float> && stages == 3) return with(scores<SA, SB, true, 3>);
    return with_exactness<T>(tf32, [&](auto exact) { return with(scores<SA, SB, exact.value, 2>); });
}

template <class S>
int launch_attention(const void* Q, const void* K, const void* V, int64_t n, int64_t N, int64_t d, int64_t e, void* O,
                     bool tf32) {
    using T = Computed<S>;
    return with_exactness<T>(tf32, [&](auto exact) {
        return run(attention<S, exact.value>, dim3(blocks_for(n, 64)), dim3(128),
                   size_t(64 + 4 * 32) * row_stride(64) * sizeof(T), static_cast<const T*>(Q), static_cast<const S*>(K),
                   static_cast<const S*>(V), n, N, d, e, static_cast<T*>(O));
    });
}

template <class S>
int launch_product(const void* C, const void* M, const int64_t* rows, int64_t B, int64_t N, int64_t d, int64_t C_stride,
                   int64_t M_stride, void* O, bool tf32) {
    using T = Computed<S>;
    return with_exactness<T>(tf32, [&](auto exact) {
        return run(product<S, exact.value>, dim3(blocks_for(B, 64), blocks_for(d, 32)), dim3(128),
                   2 * size_t(64 * row_stride(kDepth) + kDepth * column_stride<T>(32)) * sizeof(T),
                   static_cast<const T*>(C), static_cast<const S*>(M), rows, B, N, d, C_stride, M_stride,
                   static_cast<T*>(O));
    });
}

template <class Visit>
int with_storage(DType dtype, Visit&& visit) {
    if (dtype == DType::f64) return visit(double{});
    if (dtype == DType::f16) return visit(Float16{});
    if (dtype == DType::bf16) return visit(BFloat16{});
    return visit(float{});
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* message() { return last_message; }
EXPORT int run_row_stride(int columns) { return row_stride(columns); }
EXPORT int run_column_stride(int columns, int is_double) {
    return is_double ? column_stride<double>(columns) : column_stride<float>(columns);
}
EXPORT int64_t run_splits(int64_t tiles, int64_t steps) { return splits_to_fill(tiles, steps); }
EXPORT int run_scores(DType dtype, const void* A, const void* B, int64_t n, int64_t N, int64_t d, int64_t A_stride,
                      int64_t B_stride, void* S, void* sums, void* largest, int tf32, int stages) {
    return with_storage(dtype, [&](auto zero) {
        using SB = decltype(zero);
        using SA = std::conditional_t<std::is_same_v<SB, BFloat16>, BFloat16, Computed<SB>>;  // a pair of each kind
        return launch_scores<SA, SB>(A, B, n, N, d, A_stride, B_stride, S, sums, largest, tf32 != 0, stages);
    });
}
EXPORT int run_attention(DType dtype, const void* Q, const void* K, const void* V, int64_t n, int64_t N, int64_t d,
                         int64_t e, void* O, int tf32) {
    return with_storage(dtype,
                        [&](auto zero) { return launch_attention<decltype(zero)>(Q, K, V, n, N, d, e, O, tf32 != 0); });
}
EXPORT int run_product(DType dtype, const void* C, const void* M, const int64_t* rows, int64_t B, int64_t N, int64_t d,
                       int64_t C_stride, int64_t M_stride, void* O, int tf32) {
    return with_storage(dtype, [&](auto zero) {
        return launch_product<decltype(zero)>(C, M, rows, B, N, d, C_stride, M_stride, O, tf32 != 0);
    });
}
