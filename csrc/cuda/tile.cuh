// The product engine: a tile of scores S = A·Bᵀ over d on tensor cores, whatever is to be done with it in registers,
// and O += P·V with what became of it. Written once for float and double: everything has the layout of mma.m16n8k8.
//
//                        column 2t, 2t + 1                    A warp's Tile is MT × NT such pieces of 16 × 8. Each lane
//                   ┌───┬──┬──┬───┬───┬───┐                 holds four numbers of each: a pair of neighbors in row g
//             row g │   │v0 v1│   │   │   │                 and a pair in row g + 8, with g = lane / 4, t = lane % 4.
//                   ├───┼──┼──┼───┼───┼───┤                 Four lanes share a row, so 8 columns of float are one
//         row g + 8 │   │v2 v3│   │   │   │                 32-byte sector: write epilogues by for_each_pair, float2.
//                   └───┴──┴──┴───┴───┴───┘
//
// Precision. float operands reach the tensor core as TF32 (11 significant bits): rounded, or, exactly enough for
// float32, split into two TF32 numbers each, of whose four products the three that count are formed (3xTF32). Tensor
// cores cut when they add, so a split product is summed apart, 8 deep, and added to the long sum in float32, which
// rounds (Ootomo and Yokota, IJHPCA 2022). An infinite operand gives NaN when split. f16 and bf16 storage is exact in
// TF32 and is converted on the way into shared memory. double uses four m8n8k4 for a piece and is always exact.
//
// Registers: the compiler lets loads run ahead as far as it may; give __launch_bounds__ its second argument.
//
// Peaks to hold a kernel against, dense TFLOP/s of mma.sync: TF32 156 (A100), about 60 % of 495 (H100); 3xTF32 a third.
// Hopper's full rate takes wgmma and TMA, which read both operands from shared memory: they would replace the inside of
// multiply_rows and fetch_rows, and nothing else. Not written, for want of a machine to measure on.
#pragma once

#include <type_traits>

#include "common/dtype.h"
#include "common/ptx.cuh"

namespace dsc::cuda {
namespace {  // each kernel file has its own, so that the sanitizers can fence its shared memory

// ---- shapes

// A block of kDown × kAcross warps, each with MT × NT pieces of 16 × 8.
template <int kDown, int kAcross, int MT, int NT>
struct TileShape {
    static constexpr int kThreads = kDown * kAcross * kWarp;
    static constexpr int kWarpRows = MT * 16, kWarpColumns = NT * 8;
    static constexpr int kRows = kDown * kWarpRows, kColumns = kAcross * kWarpColumns;

    // Where the calling warp's tile begins in the block's.
    static __device__ int first_row() { return threadIdx.x / kWarp / kAcross * kWarpRows; }
    static __device__ int first_column() { return threadIdx.x / kWarp % kAcross * kWarpColumns; }
};

// Strides in shared memory, for widths that are multiples of 8, with which no two lanes meet in a bank.
// Of an operand that is read along its rows, A or B of A·Bᵀ, A of A·B; also of V in P·V (double: two lanes a bank).
__host__ __device__ constexpr int row_stride(int columns) { return columns + 4; }
// Of B in A·B, which is read down its columns.
template <class T>
__host__ __device__ constexpr int column_stride(int columns) {
    return sizeof(T) == 4 ? columns + 8 - columns % 16 : columns + 4;
}

// How a float operand becomes TF32; of no meaning for double.
enum class Tf32 { exact, rounded, split };

template <class S, bool kExact>
constexpr Tf32 tf32_of = !std::is_same_v<S, float> ? Tf32::exact
                         : kExact                  ? Tf32::split
                                                   : Tf32::rounded;

// Calls visit with std::true_type if products of T are to be exact, which those of double are in any case.
template <class T, class Visit>
auto with_exactness(bool tf32, Visit&& visit) {
    if constexpr (!std::is_same_v<T, double>) {
        if (tf32) return visit(std::false_type{});
    }
    return visit(std::true_type{});
}

// Into how many parts a sum of `steps` steps is cut, so that `tiles` independent tiles fill a GPU: four blocks on each
// of an H100's 132 multiprocessors. A part has `least` steps or more, below which its partial sums cost more than it
// gains. A function of the shape alone, so that results do not depend on the device.
inline int64_t splits_to_fill(int64_t tiles, int64_t steps, int64_t least = 8) {
    constexpr int64_t kBlocksToFill = 528;
    const int64_t wanted = tiles > 0 ? kBlocksToFill / tiles : 1, most = steps / least;
    const int64_t splits = wanted < most ? wanted : most;
    return splits < 1 ? 1 : splits;
}

// ---- the accumulators

template <class T, int MT, int NT>
struct Tile {
    T value[MT][NT][4] = {};
};

// visit(row, column, first, second) for each of the lane's pairs of neighbors, columns `column` and `column + 1`.
template <class T, int MT, int NT, class Visit>
__device__ __forceinline__ void for_each_pair(Tile<T, MT, NT>& tile, Visit&& visit) {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int n = 0; n < NT; ++n) {
                T(&v)[4] = tile.value[m][n];
                visit(m * 16 + half * 8 + g, n * 8 + t * 2, v[half * 2], v[half * 2 + 1]);
            }
        }
    }
}

// visit(row, column, value) for each of the lane's numbers.
template <class T, int MT, int NT, class Visit>
__device__ __forceinline__ void for_each(Tile<T, MT, NT>& tile, Visit&& visit) {
    for_each_pair(tile, [&](int row, int column, T& first, T& second) {
        visit(row, column, first);
        visit(row, column + 1, second);
    });
}

// visit(row, pair) for each of the lane's rows, with pair(n) the two numbers at columns n * 8 + t * 2 and the next: for
// epilogues that have all of a row's loads in flight at once.
template <class T, int MT, int NT, class Visit>
__device__ __forceinline__ void for_each_row_of_pairs(Tile<T, MT, NT>& tile, Visit&& visit) {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            visit(m * 16 + half * 8 + threadIdx.x % kWarp / 4, [&](int n) { return &tile.value[m][n][half * 2]; });
        }
    }
}

// Two neighbors in global memory, read and written once and not to be kept in the caches. `valid` says how many there
// are; `wide`, the same for all pairs of a matrix, that there are 0 or 2 and that they are aligned to their size.
template <class S>
using Pair = std::conditional_t<sizeof(S) == 8, double2, std::conditional_t<sizeof(S) == 4, float2, ushort2>>;

template <class S>
__device__ __forceinline__ Pair<S> load_pair(const S* at, int valid, bool wide) {
    Pair<S> pair = {};
    if (wide && valid == 2) {
        pair = __ldcs(reinterpret_cast<const Pair<S>*>(at));
    } else {
        if (valid > 0) pair.x = __ldcs(at);
        if (valid > 1) pair.y = __ldcs(at + 1);
    }
    return pair;
}

template <class S>
__device__ __forceinline__ void store_pair(S* at, Pair<S> pair, int valid, bool wide) {
    if (wide && valid == 2) {
        __stcs(reinterpret_cast<Pair<S>*>(at), pair);
    } else {
        if (valid > 0) __stcs(at, pair.x);
        if (valid > 1) __stcs(at + 1, pair.y);
    }
}

// Whether the pairs of a matrix with rows of this stride are wide, where they begin at even columns.
template <class S>
__device__ inline bool wide_pairs(const S* first, int64_t stride) {
    return reinterpret_cast<uintptr_t>(first) % sizeof(Pair<S>) == 0 && stride % 2 == 0;
}

// One number for each of the tile's rows, held by the four lanes that share it.
template <class T, int MT>
struct RowValues {
    T value[MT][2];
};

// Each row reduced over the warp's columns by combine(so far, next) from `initial`, its neutral element, in a fixed
// order; every lane of the row has the result.
template <class T, int MT, int NT, class Combine>
__device__ __forceinline__ RowValues<T, MT> reduce_rows(const Tile<T, MT, NT>& tile, T initial, Combine&& combine) {
    RowValues<T, MT> rows;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            T total = initial;
#pragma unroll
            for (int n = 0; n < NT; ++n) {
                total = combine(total, tile.value[m][n][half * 2]);
                total = combine(total, tile.value[m][n][half * 2 + 1]);
            }
            total = combine(total, __shfl_xor_sync(kFullMask, total, 1));
            rows.value[m][half] = combine(total, __shfl_xor_sync(kFullMask, total, 2));
        }
    }
    return rows;
}

// visit(row, value) for each of the lane's rows: by all four lanes that share it, or only by the first of them.
template <class T, int MT, class Visit>
__device__ __forceinline__ void for_each_row(RowValues<T, MT>& rows, Visit&& visit) {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) visit(m * 16 + half * 8 + threadIdx.x % kWarp / 4, rows.value[m][half]);
    }
}
__device__ inline bool leads_row() { return threadIdx.x % 4 == 0; }

// ---- products

// N numbers of an operand as the tensor core takes them; `low` is what `high` lacks, where it is split.
template <class T, int N, Tf32 kTf32>
struct Fragment {
    T high[N], low[kTf32 == Tf32::split ? N : 1];
};

template <class T, int N, Tf32 kTf32>
__device__ __forceinline__ void prepare(Fragment<T, N, kTf32>& fragment, const T (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if constexpr (std::is_same_v<T, double> || kTf32 == Tf32::exact) {
            fragment.high[i] = values[i];
        } else {
            fragment.high[i] = to_tf32(values[i]);
            if constexpr (kTf32 == Tf32::split) fragment.low[i] = values[i] - fragment.high[i];
        }
    }
}

template <Tf32 kA, Tf32 kB>
__device__ __forceinline__ void multiply_piece(float (&acc)[4], const Fragment<float, 4, kA>& a,
                                               const Fragment<float, 2, kB>& b) {
    if constexpr (kA != Tf32::split && kB != Tf32::split) {
        mma(acc, a.high, b.high);
    } else {
        float sum[4] = {};
        if constexpr (kA == Tf32::split) mma(sum, a.low, b.high);
        if constexpr (kB == Tf32::split) mma(sum, a.high, b.low);
        mma(sum, a.high, b.high);
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[i] += sum[i];
    }
}

template <Tf32 kA, Tf32 kB>
__device__ __forceinline__ void multiply_piece(double (&acc)[4], const Fragment<double, 4, kA>& a,
                                               const Fragment<double, 2, kB>& b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        double sum[2] = {acc[half * 2], acc[half * 2 + 1]};
        mma(sum, a.high[half], b.high[0]);
        mma(sum, a.high[half + 2], b.high[1]);
        acc[half * 2] = sum[0], acc[half * 2 + 1] = sum[1];
    }
}

// A's fragment from 16 rows and 8 columns in shared memory.
template <Tf32 kTf32>
__device__ __forceinline__ void load_a(Fragment<float, 4, kTf32>& fragment, const float* A, int stride) {
    const int lane = threadIdx.x % kWarp;
    float a[4];
    load_matrices(a, A + lane % 16 * stride + lane / 16 * 4);
    prepare(fragment, a);
}
template <Tf32 kTf32>
__device__ __forceinline__ void load_a(Fragment<double, 4, kTf32>& fragment, const double* A, int stride) {
    const double* const at = A + threadIdx.x % kWarp / 4 * stride + threadIdx.x % 4;
    const double a[4] = {at[0], at[8 * stride], at[4], at[8 * stride + 4]};
    prepare(fragment, a);
}

// Of 8 rows, lane (g,t)'s numbers at row g and columns t, t + 4, t + 8 and t + 12.
__device__ __forceinline__ void load_four(float (&b)[4], const float* B, int stride) {
    const int lane = threadIdx.x % kWarp;
    load_matrices(b, B + lane % 8 * stride + lane / 8 * 4);
}
__device__ __forceinline__ void load_four(double (&b)[4], const double* B, int stride) {
    const double* const at = B + threadIdx.x % kWarp / 4 * stride + threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) b[i] = at[i * 4];
}

// S += A · Bᵀ for the warp: A (16·MT, kDepth) and B (8·NT, kDepth) in shared memory, 16-byte aligned, of row_stride (or
// another stride that is 4 more than a multiple of 8); kDepth a multiple of 16.
template <int kDepth, Tf32 kA, Tf32 kB, class T, int MT, int NT>
__device__ __forceinline__ void multiply_rows(Tile<T, MT, NT>& S, const T* A, int A_stride, const T* B, int B_stride) {
    static_assert(kDepth % 16 == 0);
#pragma unroll 1  // more would only let loads run ahead, and cost registers
    for (int k = 0; k < kDepth; k += 16) {
        Fragment<T, 4, kA> a[MT][2];
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
            for (int i = 0; i < 2; ++i) load_a(a[m][i], A + m * 16 * A_stride + k + i * 8, A_stride);
        }
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            T four[4];
            load_four(four, B + n * 8 * B_stride + k, B_stride);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                Fragment<T, 2, kB> b;
                prepare(b, {four[i * 2], four[i * 2 + 1]});
#pragma unroll
                for (int m = 0; m < MT; ++m) multiply_piece(S.value[m][n], a[m][i], b);
            }
        }
    }
}

// O += A · B for the warp: A (16·MT, kDepth) of row_stride, 16-byte aligned, and B (kDepth, 8·NT) of column_stride, in
// shared memory; kDepth a multiple of 8.
template <int kDepth, Tf32 kA, Tf32 kB, class T, int MT, int NT>
__device__ __forceinline__ void multiply(Tile<T, MT, NT>& O, const T* A, int A_stride, const T* B, int B_stride) {
    static_assert(kDepth % 8 == 0);
    const T* const at = B + threadIdx.x % 4 * B_stride + threadIdx.x % kWarp / 4;
#pragma unroll 1  // as above
    for (int k = 0; k < kDepth; k += 8) {
        Fragment<T, 4, kA> a[MT];
#pragma unroll
        for (int m = 0; m < MT; ++m) load_a(a[m], A + m * 16 * A_stride + k, A_stride);
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            Fragment<T, 2, kB> b;
            prepare(b, {at[k * B_stride + n * 8], at[(k + 4) * B_stride + n * 8]});
#pragma unroll
            for (int m = 0; m < MT; ++m) multiply_piece(O.value[m][n], a[m], b);
        }
    }
}

// O += P · V for the warp: P its own accumulators (16·MT, 8·KT), V (8·KT, 8·NT) in shared memory of row_stride. The
// lane that holds columns 2t and 2t + 1 of P offers them as A's columns t and t + 4, and V's rows are read in that
// order: no number changes its lane.
template <Tf32 kP, Tf32 kV, class T, int MT, int KT, int NT>
__device__ __forceinline__ void multiply_scores(Tile<T, MT, NT>& O, const Tile<T, MT, KT>& P, const T* V,
                                                int V_stride) {
    const T* const at = V + threadIdx.x % 4 * 2 * V_stride + threadIdx.x % kWarp / 4;
#pragma unroll
    for (int k = 0; k < KT; ++k) {
        Fragment<T, 4, kP> p[MT];
#pragma unroll
        for (int m = 0; m < MT; ++m) {
            const T(&v)[4] = P.value[m][k];
            prepare(p[m], {v[0], v[2], v[1], v[3]});
        }
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            Fragment<T, 2, kV> b;
            prepare(b, {at[k * 8 * V_stride + n * 8], at[(k * 8 + 1) * V_stride + n * 8]});
#pragma unroll
            for (int m = 0; m < MT; ++m) multiply_piece(O.value[m][n], p[m], b);
        }
    }
}

// ---- into shared memory

// A row to fetch: from `at` on; all zeros if null. The element `hole`, if it is met, is replaced by zero.
template <class S>
struct Row {
    const S* at;
    int64_t hole = -1;
};

// Whether rows so many elements apart can be fetched 4 numbers (double: 2) at a time; say so of all rows of a fetch.
template <class S>
__device__ inline bool wide_rows(const S* first, int64_t stride) {
    constexpr int kWidth = sizeof(S) == 8 ? 2 : 4;
    return reinterpret_cast<uintptr_t>(first) % (kWidth * sizeof(S)) == 0 && stride % kWidth == 0;
}

template <int kWidth, class T, class S>
__device__ __forceinline__ void fetch_piece(T* to, const S* from, int valid) {
    if constexpr (std::is_same_v<T, S>) {
        cp_async<kWidth * sizeof(T)>(to, from, valid * int(sizeof(T)));
    } else if (kWidth == 4 && valid == 4) {  // 16 bits: through registers
        S four[4];
        memcpy(four, __builtin_assume_aligned(from, sizeof four), sizeof four);
        *reinterpret_cast<float4*>(to) = make_float4(float(four[0]), float(four[1]), float(four[2]), float(four[3]));
    } else {
        for (int i = 0; i < kWidth; ++i) to[i] = i < valid ? float(from[i]) : 0.0f;
    }
}

// Fetches kRows rows of kColumns elements into shared memory, `tile` with stride `stride` (both 16-byte aligned), by
// the whole block. row(r) gives the Row for row r; of each only the first `columns` elements exist, the rest is zero.
// `wide` is what wide_rows says of all of them. Asynchronous: to be committed, waited for and followed by a barrier,
// which pipeline does.
template <int kThreads, int kRows, int kColumns, class T, class RowOf>
__device__ __forceinline__ void fetch_rows(T* tile, int stride, int64_t columns, bool wide, RowOf&& row) {
    constexpr int kWidth = sizeof(T) == 8 ? 2 : 4, kPieces = kColumns / kWidth;
    static_assert(kColumns % kWidth == 0);
    if (wide) {
        for (int e = threadIdx.x; e < kRows * kPieces; e += kThreads) {
            const int r = e / kPieces, c = e % kPieces * kWidth;
            const auto from = row(r);
            const int valid = !from.at || columns <= c ? 0 : columns - c < kWidth ? int(columns - c) : kWidth;
            T* const to = tile + r * stride + c;
            if (from.hole < c || from.hole >= c + kWidth) {
                fetch_piece<kWidth>(to, from.at + (valid ? c : 0), valid);
            } else {
                for (int i = 0; i < kWidth; ++i) {
                    const bool exists = i < valid && from.hole != c + i;
                    fetch_piece<1>(to + i, from.at + (exists ? c + i : 0), exists);
                }
            }
        }
    } else {
        for (int e = threadIdx.x; e < kRows * kColumns; e += kThreads) {
            const int r = e / kColumns, c = e % kColumns;
            const auto from = row(r);
            const bool exists = from.at && c < columns && from.hole != c;
            fetch_piece<1>(tile + r * stride + c, from.at + (exists ? c : 0), exists);
        }
    }
}

// For each of `steps` steps use(step, stage), while fetch(step, stage) brings the next into the other stages of shared
// memory: kStages buffers, numbered from 0. One barrier a step. The buffers may still be read when it returns.
template <int kStages, class Fetch, class Use>
__device__ __forceinline__ void pipeline(int64_t steps, Fetch&& fetch, Use&& use) {
    static_assert(kStages >= 2);
    for (int stage = 0; stage < kStages - 1; ++stage) {
        if (stage < steps) fetch(int64_t(stage), stage);
        cp_async_commit();
    }
    int stage = 0, free = kStages - 1;
    for (int64_t step = 0; step < steps; ++step) {
        cp_async_wait<kStages - 2>();
        __syncthreads();  // this step's buffer has arrived, and the one before it has been read by all
        if (step + kStages - 1 < steps) fetch(step + kStages - 1, free);
        cp_async_commit();
        use(step, stage);
        free = stage;
        stage = stage + 1 == kStages ? 0 : stage + 1;
    }
}

}  // namespace
}  // namespace dsc::cuda
