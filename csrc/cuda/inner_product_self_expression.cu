// Self-expression by thresholded inner products, and its gradients, on the GPU.
//
// Attention without softmax: a block owns 64 rows of one side, walks over the rows of the other side 32 at a time, and
// turns their scores into coefficients, or into the gradient of the scores, in the registers that then multiply the
// values. One kernel, four passes over the same pairs of queries and samples:
//
//    pass        own       scores          from               times     sums
//    forward     queries   S = Q·Kᵀ        C = scale · φ(S)   V         Ẑ, ‖c‖₁, ‖c‖₂²
//    dV          samples   Sᵀ = K·Qᵀ       Cᵀ                 G
//    dQ          queries   S, dP = G·Vᵀ    dS                 K         dQ, dthreshold
//    dK          samples   Sᵀ, dPᵀ         dSᵀ                Q
//
// Floor: 2·B·N·(dq + dv) FLOP forward, B·N·(6·dq + 4·dv) backward with the scores computed once more. The three passes
// share nothing and take B·N·(10·dq + 6·dv): the price of sums without atomics and without B·N numbers in memory. Each
// tile of 64 × 32 pairs moves 4·96 bytes of every feature from L2 for 4096 FLOP: bound by the tensor cores in 3xTF32,
// by L2 in TF32. What limits a block's columns of values, 128 of float and 64 of double, are registers; where there are
// more, blocks share them out and compute the scores again.
//
// 16-bit inputs are exact in TF32; coefficients are rounded to it before they meet the values, but not in the norms.
//
// Deterministic: who owns a row sums it; splits over the other side and the threshold's partial sums are added in
// order.
#include <initializer_list>

#include "common/dtype.h"
#include "cuda/block.cuh"
#include "cuda/tile.cuh"
#include "inner_product_self_expression.h"

namespace dsc::cuda {

namespace {

constexpr int kPieces = 4;                  // of 8 columns
using Shape = TileShape<4, 1, 1, kPieces>;  // a warp has whole rows of the scores, so they can be its left factor
constexpr int kThreads = Shape::kThreads, kRows = Shape::kRows, kColumns = Shape::kColumns;
constexpr int kWidth = 64;  // features, or columns of values, fetched at a time
constexpr int kStages = 2;
constexpr int kStride = row_stride(kWidth);
constexpr int kStageSize = (kRows + kColumns) * kStride;
template <class T>
constexpr int kSums = sizeof(T) == 4 ? 2 : 1;  // so many times 64 columns of values a block can take
constexpr int kSumThreads = 256;

template <class S>
struct Matrix {
    const S* at;
    int64_t stride, rows, columns;
};

template <class S>
struct Pass {
    using T = Computed<S>;
    Matrix<S> own, other;            // scores = own · otherᵀ
    Matrix<S> own_side, other_side;  // gradient of the coefficients, but for the norms' part = own_side · other_sideᵀ
    Matrix<S> values;                // (other.rows, …) what is multiplied; columns is 0 where nothing is
    bool own_queries;
    const int64_t* rows;  // of query b the sample that it is, or null
    const T* threshold;
    T scale;
    const T *G1, *G2;  // of query b the gradient of its norms
    int64_t split_length;
    T *out, *l1, *l2, *dthreshold;  // each for one split after the other; l1 and dthreshold may be null
};

__device__ inline int parts_of(int64_t columns) { return columns > 0 ? int(divide_up(columns, kWidth)) : 0; }

// visit(piece, number, row, column) for each number of the lane's tile.
template <class Visit>
__device__ __forceinline__ void for_each_score(Visit&& visit) {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) visit(n, i, i / 2 * 8 + g, n * 8 + t * 2 + i % 2);
    }
}

// Sets the warp's scores of queries with themselves to 0: a score of 0 gives a coefficient of 0, and no gradient, with
// every threshold. A lane looks up one query of the tile; few tiles hold any.
template <class S>
__device__ __forceinline__ void leave_out_own(const Pass<S>& p, Tile<Computed<S>, 1, kPieces>& scores, int64_t row0,
                                              int64_t column0) {
    const int lane = threadIdx.x % kWarp;
    const int64_t query = (p.own_queries ? row0 : column0) + lane;
    const int64_t queries = p.own_queries ? p.own.rows : p.other.rows,
                  samples = p.own_queries ? p.other.rows : p.own.rows;
    bool found = false;
    int own = 0;
    if (query < queries && lane < (p.own_queries ? Shape::kWarpRows : kColumns)) {
        const int64_t sample = p.rows[query], first = p.own_queries ? column0 : row0;
        DSC_DEVICE_ASSERT(sample >= 0 && sample < samples, "inner_product_self_expression: rows must lie in [0, N)");
        found = sample >= first && sample < first + (p.own_queries ? kColumns : Shape::kWarpRows);
        own = static_cast<int>(sample - first);
    }
    for (unsigned left = __ballot_sync(kFullMask, found); left; left &= left - 1) {
        const int from = __ffs(static_cast<int>(left)) - 1, its = __shfl_sync(kFullMask, own, from);
        const int own_row = p.own_queries ? from : its, own_column = p.own_queries ? its : from;
        for_each_score([&](int n, int i, int row, int column) {
            if (row == own_row && column == own_column) scores.value[0][n][i] = 0;
        });
    }
}

// |φ(s)|. Not max(|s| − threshold, 0), which would make 0 of NaN.
template <class T>
__device__ __forceinline__ T shrunk(T s, T threshold) {
    const T m = (s < 0 ? -s : s) - threshold;
    return m <= 0 || s == 0 ? T(0) : m;
}

template <class S, bool kExact, bool kGradient>
__global__ void __launch_bounds__(kThreads, sizeof(Computed<S>) == 4 ? 2 : 1) pairs_kernel(Pass<S> p) {
    using T = Computed<S>;
    constexpr Tf32 kInput = tf32_of<S, kExact>;
    constexpr Tf32 kScores = kInput == Tf32::exact ? Tf32::rounded : kInput;  // of 16-bit inputs
    DSC_DYNAMIC_SHARED(T, shared);

    const int64_t own0 = int64_t(blockIdx.x) * kRows, row0 = own0 + Shape::first_row();
    const int64_t begin = blockIdx.z * p.split_length;
    const int64_t end = begin + p.split_length < p.other.rows ? begin + p.split_length : p.other.rows;
    const int64_t value0 = int64_t(blockIdx.y) * (kSums<T> * kWidth);
    // A tile of the other side takes this many steps: the features of the scores, those of their gradient, the values.
    const int score_parts = p.own.columns > 0 ? parts_of(p.own.columns) : 1;
    const int before_values = score_parts + (kGradient ? parts_of(p.own_side.columns) : 0);
    const int wanted = parts_of(p.values.columns - value0);
    const int parts = before_values + (wanted < kSums<T> ? wanted : kSums<T>);
    const bool wide = wide_rows(p.own.at, p.own.stride) && wide_rows(p.other.at, p.other.stride);
    const bool side_wide =
        kGradient && wide_rows(p.own_side.at, p.own_side.stride) && wide_rows(p.other_side.at, p.other_side.stride);
    const bool values_wide = wide_rows(p.values.at, p.values.stride);

    int fetched = 0;  // of the parts of the tile at fetch0
    int64_t fetch0 = begin;
    const auto fetch = [&](int64_t, int stage) {
        T* const buffer = shared + stage * kStageSize;
        const bool values = fetched >= before_values, side = kGradient && fetched >= score_parts;
        const Matrix<S>& other = values ? p.values : side ? p.other_side : p.other;
        const int64_t c = values ? value0 + (fetched - before_values) * kWidth
                                 : int64_t(side ? fetched - score_parts : fetched) * kWidth;
        const bool aligned = values ? values_wide : side ? side_wide : wide;
        fetch_rows<kThreads, kColumns, kWidth>(buffer, kStride, other.columns - c, aligned, [&](int r) {
            return Row<S>{fetch0 + r < end ? other.at + (fetch0 + r) * other.stride + c : nullptr};
        });
        if (!values) {
            const Matrix<S>& own = side ? p.own_side : p.own;
            fetch_rows<kThreads, kRows, kWidth>(
                buffer + kColumns * kStride, kStride, own.columns - c, aligned,
                [&](int r) { return Row<S>{own0 + r < own.rows ? own.at + (own0 + r) * own.stride + c : nullptr}; });
        }
        if (++fetched == parts) fetched = 0, fetch0 += kColumns;
    };

    const T threshold = *p.threshold, scale = p.scale;
    Tile<T, 1, kPieces> scores, gradient;
    Tile<T, 1, kWidth / 8> sums[kSums<T>];
    T l1[2] = {}, l2[2] = {}, dthreshold = 0;

    // The lane's scores, complete now, become what the values are multiplied with.
    const auto complete = [&](int64_t column0) {
        if (p.rows) leave_out_own(p, scores, row0, column0);
        if constexpr (!kGradient) {
            for_each_score([&](int n, int i, int, int) {
                const T s = scores.value[0][n][i], m = shrunk(s, threshold);
                const T c = s < 0 ? -m * scale : m * scale;
                scores.value[0][n][i] = c;
                l1[i / 2] += c < 0 ? -c : c;
                l2[i / 2] += c * c;
            });
        } else {
            const int64_t query0 = p.own_queries ? row0 : column0, left = (p.own_queries ? p.own.rows : end) - query0;
            const int queries = left < kRows ? static_cast<int>(left) : kRows;
            const T *const G1 = p.G1 + query0, *const G2 = p.G2 + query0;
            for_each_score([&](int n, int i, int row, int column) {
                const T s = scores.value[0][n][i], m = shrunk(s, threshold);
                const T c = s < 0 ? -m * scale : m * scale;
                const int b = p.own_queries ? row : column;
                const T g1 = b < queries ? G1[b] : T(0), g2 = b < queries ? G2[b] : T(0);
                const T dc = gradient.value[0][n][i] + (c < 0 ? -g1 : g1) + 2 * g2 * c;
                const T ds = m == 0 ? T(0) : scale * dc;
                scores.value[0][n][i] = ds;
                dthreshold -= s < 0 ? -ds : ds;
            });
        }
    };

    int used = 0;
    int64_t use0 = begin;
    const auto use = [&](int64_t, int stage) {
        T* const buffer = shared + stage * kStageSize;
        if (used == 0) scores = {}, gradient = {};
        const T* const own = buffer + (kColumns + Shape::first_row()) * kStride;
        if (used < score_parts) {
            multiply_rows<kWidth, kInput, kInput>(scores, own, kStride, buffer, kStride);
        } else if (kGradient && used < before_values) {
            multiply_rows<kWidth, kInput, kInput>(gradient, own, kStride, buffer, kStride);
        } else if (kSums<T> == 1 || used == before_values) {
            multiply_scores<kScores, kInput>(sums[0], scores, buffer, kStride);
        } else {
            multiply_scores<kScores, kInput>(sums[kSums<T> - 1], scores, buffer, kStride);
        }
        if (++used == before_values) complete(use0);
        if (used == parts) used = 0, use0 += kColumns;
    };

    const int64_t tiles = end > begin ? divide_up(end - begin, kColumns) : 0;
    pipeline<kStages>(tiles * parts, fetch, use);

    T* const out = p.out + blockIdx.z * p.own.rows * p.values.columns;
#pragma unroll
    for (int i = 0; i < kSums<T>; ++i) {
        for_each(sums[i], [&](int row, int column, T value) {
            const int64_t b = row0 + row, c = value0 + i * kWidth + column;
            if (b < p.own.rows && c < p.values.columns) out[b * p.values.columns + c] = value;
        });
    }
    if (blockIdx.y > 0) return;
    if (p.l1) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int step = 1; step < 4; step *= 2) {
                l1[half] += __shfl_xor_sync(kFullMask, l1[half], step);
                l2[half] += __shfl_xor_sync(kFullMask, l2[half], step);
            }
            const int64_t b = row0 + half * 8 + threadIdx.x % kWarp / 4;
            if (threadIdx.x % 4 == 0 && b < p.own.rows) {
                p.l1[blockIdx.z * p.own.rows + b] = l1[half];
                p.l2[blockIdx.z * p.own.rows + b] = l2[half];
            }
        }
    }
    if (p.dthreshold) {
        dthreshold = warp_sum(dthreshold);
        if (threadIdx.x % kWarp == 0) {
            p.dthreshold[(blockIdx.z * gridDim.x + blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp] = dthreshold;
        }
    }
}

template <class T>
__global__ void add_splits_kernel(const T* partial, int64_t splits, int64_t size, T* out) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += int64_t(gridDim.x) * blockDim.x) {
        T total = partial[i];
        for (int64_t s = 1; s < splits; ++s) total += partial[s * size + i];
        out[i] = total;
    }
}

template <class T>
__global__ void __launch_bounds__(kSumThreads) add_all_kernel(const T* partial, int64_t count, T* out) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < count; i += kSumThreads) total += static_cast<double>(partial[i]);
    total = block_sum<kSumThreads>(total);
    if (threadIdx.x == 0) *out = static_cast<T>(total);
}

template <class T>
Status add_splits(Queue queue, const T* partial, int64_t splits, int64_t size, T* out) {
    return launch(add_splits_kernel<T>, dim3(blocks_for(size, kSumThreads)), dim3(kSumThreads), 0, queue, partial,
                  splits, size, out);
}

struct Plan {
    int64_t tiles, chunks, splits, split_length;
};

template <class T>
Plan plan_of(int64_t own, int64_t other, int64_t columns) {
    Plan plan;
    plan.tiles = divide_up(own, kRows);
    plan.chunks = columns > 0 ? divide_up(columns, kSums<T> * kWidth) : 1;
    const int64_t steps = divide_up(other, kColumns);
    plan.splits = splits_to_fill(plan.tiles * plan.chunks, steps);
    plan.split_length = divide_up(steps, plan.splits) * kColumns;
    return plan;
}

// Numbers of scratch that a pass needs for its splits: the sums, and two norms of each row.
inline int64_t partial_sums(const Plan& plan, int64_t own, int64_t columns) {
    return plan.splits > 1 ? plan.splits * own * columns : 0;
}
inline int64_t threshold_sums(const Plan& plan) { return plan.tiles * plan.splits * (kThreads / kWarp); }

template <bool kGradient, class S>
Status run_pass(Queue queue, bool tf32, const Plan& plan, const Pass<S>& p) {
    using T = Computed<S>;
    const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.chunks),
                    static_cast<unsigned>(plan.splits));
    constexpr size_t shared = kStages * kStageSize * sizeof(T);
    if constexpr (sizeof(S) == 2) {
        return launch(pairs_kernel<S, true, kGradient>, grid, dim3(kThreads), shared, queue, p);
    } else {
        return with_exactness<S>(tf32, [&](auto exact) {
            return launch(pairs_kernel<S, decltype(exact)::value, kGradient>, grid, dim3(kThreads), shared, queue, p);
        });
    }
}

template <class S>
Status forward(Queue queue, bool tf32, Pass<S> p, Computed<S>* scratch) {
    using T = Computed<S>;
    const int64_t B = p.own.rows, columns = p.values.columns;
    const Plan plan = plan_of<T>(B, p.other.rows, columns);
    p.split_length = plan.split_length;
    if (plan.splits == 1) return run_pass<false>(queue, tf32, plan, p);
    T *const out = p.out, *const l1 = p.l1, *const l2 = p.l2;
    p.out = scratch;
    p.l1 = p.out + partial_sums(plan, B, columns);
    p.l2 = p.l1 + partial_sums(plan, B, 1);
    if (Status s = run_pass<false>(queue, tf32, plan, p); !s) return s;
    if (Status s = add_splits<T>(queue, p.out, plan.splits, B * columns, out); !s) return s;
    if (Status s = add_splits<T>(queue, p.l1, plan.splits, B, l1); !s) return s;
    return add_splits<T>(queue, p.l2, plan.splits, B, l2);
}

// One of the backward's passes, whose sums go to `out`; those of the threshold to dthreshold, where it is wanted.
template <bool kGradient, class S>
Status backward_pass(Queue queue, bool tf32, Pass<S> p, Computed<S>* out, Computed<S>* dthreshold,
                     Computed<S>* scratch) {
    using T = Computed<S>;
    const int64_t own = p.own.rows, columns = p.values.columns;
    const Plan plan = plan_of<T>(own, p.other.rows, columns);
    p.split_length = plan.split_length;
    p.out = plan.splits > 1 ? scratch : out;
    p.dthreshold = dthreshold ? scratch + partial_sums(plan, own, columns) : nullptr;
    if (Status s = run_pass<kGradient>(queue, tf32, plan, p); !s) return s;
    if (plan.splits > 1) {
        if (Status s = add_splits<T>(queue, p.out, plan.splits, own * columns, out); !s) return s;
    }
    if (!dthreshold) return {};
    return launch(add_all_kernel<T>, dim3(1), dim3(kSumThreads), 0, queue, static_cast<const T*>(p.dthreshold),
                  threshold_sums(plan), dthreshold);
}

template <class T>
int64_t scratch_of(int64_t B, int64_t N, int64_t dq, int64_t dv, bool backward) {
    if (!backward) {
        const Plan plan = plan_of<T>(B, N, dv);
        return partial_sums(plan, B, dv + 2);
    }
    // The passes follow one another on the queue and use the same scratch. Without dQ, its pass has no columns.
    int64_t most = 0;
    for (const int64_t columns : {dq, int64_t(0)}) {
        const Plan plan = plan_of<T>(B, N, columns);
        const int64_t needed = partial_sums(plan, B, columns) + threshold_sums(plan);
        most = needed > most ? needed : most;
    }
    for (const int64_t columns : {dq, dv}) {
        const int64_t needed = partial_sums(plan_of<T>(N, B, columns), N, columns);
        most = needed > most ? needed : most;
    }
    return most;
}

template <class S>
Matrix<S> matrix(const void* at, int64_t stride, int64_t rows, int64_t columns) {
    return {static_cast<const S*>(at), stride, rows, columns};
}

}  // namespace

bool inner_product_self_expression_reads(DType) { return true; }

int64_t inner_product_self_expression_scratch(DType dtype, int64_t B, int64_t N, int64_t dq, int64_t dv,
                                              bool backward) {
    return with_computed_type(dtype, [&](auto zero) { return scratch_of<decltype(zero)>(B, N, dq, dv, backward); });
}

Status inner_product_self_expression(DType dtype, Queue queue, bool tf32, const void* Q, int64_t Q_stride, int64_t B,
                                     int64_t dq, const void* K, int64_t K_stride, int64_t N, const void* V,
                                     int64_t V_stride, int64_t dv, const void* threshold, double scale,
                                     const int64_t* rows, void* scratch, void* out, void* l1, void* l2) {
    return with_storage_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        using T = Computed<S>;
        Pass<S> p = {};
        p.own = matrix<S>(Q, Q_stride, B, dq);
        p.other = matrix<S>(K, K_stride, N, dq);
        p.values = matrix<S>(V, V_stride, N, dv);
        p.own_queries = true;
        p.rows = rows;
        p.threshold = static_cast<const T*>(threshold);
        p.scale = static_cast<T>(scale);
        p.out = static_cast<T*>(out);
        p.l1 = static_cast<T*>(l1);
        p.l2 = static_cast<T*>(l2);
        return forward(queue, tf32, p, static_cast<T*>(scratch));
    });
}

Status inner_product_self_expression_backward(DType dtype, Queue queue, bool tf32, const void* Q, int64_t Q_stride,
                                              int64_t B, int64_t dq, const void* K, int64_t K_stride, int64_t N,
                                              const void* V, int64_t V_stride, int64_t dv, const void* threshold,
                                              double scale, const int64_t* rows, const void* G, int64_t G_stride,
                                              const void* G1, const void* G2, void* scratch, void* dQ, void* dK,
                                              void* dV, void* dthreshold) {
    return with_storage_type(dtype, [&](auto zero) -> Status {
        using S = decltype(zero);
        using T = Computed<S>;
        const auto queries = matrix<S>(Q, Q_stride, B, dq), keys = matrix<S>(K, K_stride, N, dq);
        const auto sides = matrix<S>(G, G_stride, B, dv), values = matrix<S>(V, V_stride, N, dv);
        T* const partial = static_cast<T*>(scratch);
        Pass<S> p = {};
        p.rows = rows;
        p.threshold = static_cast<const T*>(threshold);
        p.scale = static_cast<T>(scale);
        p.G1 = static_cast<const T*>(G1);
        p.G2 = static_cast<const T*>(G2);
        if (dQ || dthreshold) {
            p.own = queries, p.other = keys, p.own_side = sides, p.other_side = values, p.own_queries = true;
            p.values = dQ ? keys : matrix<S>(K, K_stride, N, 0);
            if (Status s =
                    backward_pass<true>(queue, tf32, p, static_cast<T*>(dQ), static_cast<T*>(dthreshold), partial);
                !s)
                return s;
        }
        p.own = keys, p.other = queries, p.own_side = values, p.other_side = sides, p.own_queries = false;
        if (dK) {
            p.values = queries;
            if (Status s = backward_pass<true>(queue, tf32, p, static_cast<T*>(dK), static_cast<T*>(nullptr), partial);
                !s)
                return s;
        }
        if (!dV) return {};
        p.values = sides;
        return backward_pass<false>(queue, tf32, p, static_cast<T*>(dV), static_cast<T*>(nullptr), partial);
    });
}

}  // namespace dsc::cuda
