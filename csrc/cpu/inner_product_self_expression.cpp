// Self-expression by thresholded inner products, and its gradients, on the CPU.
//
// Attention without softmax, block by block: scores of a few rows against a slice of samples are multiplied,
// thresholded and used up while they lie in the L1 cache.
//
// Floor: 2·B·N·(dq + dv) FLOP forward, B·N·(6·dq + 4·dv) backward with the scores computed again, and a threshold for
// each of the B·N scores, about 1/d of that. Samples are packed in chunks that stay in the last cache, each once.
//
// Forward: a group of rows owns its sums and walks over the slices. Backward: a block (rows × samples) adds to its rows
// of dQ and to its samples of dK and dV, so blocks that share either run one after the other, in an order that depends
// on the shape alone: the same bits for any number of threads, and no partial sums.
#include "inner_product_self_expression.h"

#include <algorithm>

#include "common/dtype.h"
#include "common/threads.h"
#include "cpu/bank_panels.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kBlockColumns = 96;         // whole tiles as rows and as columns
constexpr int64_t kMostBlocks = 3;            // of samples that are taken together, fewer where they are wide,
constexpr int64_t kBlocksBytes = 384 * 1024;  // so that their packed rows stay in the L2 cache
constexpr int64_t kChunkBytes = 4 << 20;      // of samples packed at a time
constexpr int64_t kStride = kMostBlocks * kBlockColumns + 16;  // of scores, an odd number of cache lines: no two rows
                                                               // share a set of the L1 cache
constexpr int64_t kGroupTiles = 8;    // tiles of rows that share a slice of packed samples in L2
constexpr int64_t kGroupsWanted = 4;  // of rows in the backward, so that there is work for a few threads

// How the samples are cut: chunks are packed one after the other, slices of them meet a group of queries in L2.
template <class T>
struct Cut {
    int64_t slice, chunk;

    Cut(int64_t N, int64_t dq, int64_t dv) {
        const int64_t bytes = std::max<int64_t>(dq + dv, 1) * static_cast<int64_t>(sizeof(T)) * kBlockColumns;
        slice = std::clamp<int64_t>(kBlocksBytes / bytes, 1, kMostBlocks) * kBlockColumns;
        const int64_t most = std::max<int64_t>(kChunkBytes / bytes * kBlockColumns / slice, 1) * slice;
        chunk = std::min(most, round_up(std::max<int64_t>(N, 1), slice));
    }
};

// A matrix of the caller.
template <class T>
struct Matrix {
    const T* at;
    int64_t stride, rows, columns;
};

// Hands out the scratch; with a null base it only counts.
template <class T>
struct Scratch {
    T* base;
    int64_t used = 0;

    T* take(int64_t count) {
        T* piece = base ? base + used : nullptr;
        used += round_up(count, 16);
        return piece;
    }
};

// A packed operand: element (i, j) of the left factor at at[i * stride + j], panel i of the right one at at + i *
// stride.
template <class T>
struct Packed {
    T* at;
    int64_t stride;
};

// Left factor: rows side by side, zero rows up to whole tiles. Rows 4 KB apart would share a set of the L1 cache.
template <class T>
Packed<T> take_rows(Scratch<T>& scratch, int64_t rows, int64_t columns) {
    int64_t stride = round_up(columns, 16);
    if (stride * sizeof(T) % 4096 == 0) stride += 16;
    return {scratch.take(round_up(rows, simd_of<T>().tile_rows) * stride), stride};
}
// Right factor of products over features: panels of samples.
template <class T>
Packed<T> take_samples(Scratch<T>& scratch, int64_t rows, int64_t columns) {
    const int64_t stride = simd_of<T>().tile_columns * columns;
    return {scratch.take(round_up(rows, simd_of<T>().tile_columns) * columns), stride};
}
// Right factor of products over samples: panels of features.
template <class T>
Packed<T> take_values(Scratch<T>& scratch, int64_t rows, int64_t columns) {
    const int64_t stride = simd_of<T>().tile_columns * rows;
    return {scratch.take(round_up(columns, simd_of<T>().tile_columns) * rows), stride};
}

template <class T>
Matrix<T> rows_of(const Matrix<T>& m, int64_t begin, int64_t count) {
    return {m.at + begin * m.stride, m.stride, count, m.columns};
}

template <class T>
void pack_rows(const Matrix<T>& m, const Packed<T>& to, int threads) {
    const int64_t rows = round_up(m.rows, simd_of<T>().tile_rows);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < rows; ++i) {
        T* row = to.at + i * to.stride;
        if (i < m.rows) {
            std::copy_n(m.at + i * m.stride, m.columns, row);
        } else {
            std::fill_n(row, m.columns, T(0));
        }
    }
}

template <class T>
void pack_samples(const Matrix<T>& m, const Packed<T>& to, int threads) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t width = simd.tile_columns, panels = divide_up(m.rows, width);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < panels; ++i) {
        const int count = static_cast<int>(std::min(width, m.rows - i * width));
        pack_samples(Bank<T>{m.at, m.stride}, i * width, count, 0, m.columns, simd, to.at + i * to.stride);
    }
}

template <class T>
void pack_values(const Matrix<T>& m, const Packed<T>& to, int threads) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t width = simd.tile_columns, slices = divide_up(m.rows, kSlice);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t s = 0; s < slices; ++s) {
        const int64_t j0 = s * kSlice, k = std::min(kSlice, m.rows - j0);
        for (int64_t c0 = 0; c0 < m.columns; c0 += width) {
            pack_values(Bank<T>{m.at, m.stride}, j0, k, c0, std::min(width, m.columns - c0), simd,
                        to.at + c0 / width * to.stride + j0 * width);
        }
    }
}

// out (m, n), row stride ldo, becomes A B or gains it: A (m, k), or its transpose (k, m); B packed in panels of (k,
// tile_columns). A is read up to whole tiles of rows, which must be there.
template <class T>
void multiply(const Packed<const T>& A, bool transposed, const Packed<const T>& B, int64_t m, int64_t n, int64_t k,
              T* out, int64_t ldo, bool accumulate) {
    const Simd<T>& simd = simd_of<T>();
    const auto tile = transposed ? simd.tile_transposed : simd.tile;
    alignas(64) T edge[kMaxTileRows * kMaxTileColumns];
    for (int64_t i = 0; i < m; i += simd.tile_rows) {
        const T* a = A.at + (transposed ? i : i * A.stride);
        const int64_t rows = std::min<int64_t>(simd.tile_rows, m - i);
        for (int64_t c = 0; c < n; c += simd.tile_columns) {
            const T* b = B.at + c / simd.tile_columns * B.stride;
            T* to = out + i * ldo + c;
            const int64_t columns = std::min<int64_t>(simd.tile_columns, n - c);
            if (rows == simd.tile_rows && columns == simd.tile_columns) {
                tile(a, A.stride, b, k, to, ldo, accumulate);
                continue;
            }
            tile(a, A.stride, b, k, edge, simd.tile_columns, false);
            for (int64_t r = 0; r < rows; ++r, to += ldo) {
                const T* sum = edge + r * simd.tile_columns;
                for (int64_t e = 0; e < columns; ++e) to[e] = accumulate ? to[e] + sum[e] : sum[e];
            }
        }
    }
}

template <class T>
struct Problem {
    Matrix<T> Q, K, V;
    T threshold, scale;
    const int64_t* rows;
};

// The packed operand from row `row` on.
template <class T>
Packed<const T> left(const Packed<T>& packed, int64_t row) {
    return {packed.at + row * packed.stride, packed.stride};
}
template <class T>
Packed<const T> samples(const Packed<T>& packed, int64_t row) {
    return {packed.at + row / simd_of<T>().tile_columns * packed.stride, packed.stride};
}
template <class T>
Packed<const T> values(const Packed<T>& packed, int64_t row) {
    return {packed.at + row * simd_of<T>().tile_columns, packed.stride};
}

// S, a tile of rows from b0 on by `width` samples from j0 on, whose keys are K, becomes the scores, those of the
// queries themselves 0: a score of 0 gives a coefficient of 0, and no gradient, with every threshold.
template <class T>
void scores(const Problem<T>& p, const Packed<T>& Q, const Packed<const T>& K, int64_t b0, int64_t j0, int64_t width,
            T* S) {
    const Simd<T>& simd = simd_of<T>();
    multiply(left(Q, b0), false, K, simd.tile_rows, round_up(width, simd.tile_columns), p.Q.columns, S, kStride, false);
    if (!p.rows) return;
    const int64_t end = std::min<int64_t>(simd.tile_rows, p.Q.rows - b0);
    for (int64_t r = 0; r < end; ++r) {
        const int64_t own = p.rows[b0 + r] - j0;
        if (own >= 0 && own < width) S[r * kStride + own] = T(0);
    }
}

// ------------------------------------------------------------------------------------------------------------- forward

template <class T>
struct Forward {
    Cut<T> cut;
    Packed<T> Q, K, V;  // the samples of one chunk

    Forward(Scratch<T>& scratch, int64_t B, int64_t N, int64_t dq, int64_t dv)
        : cut(N, dq, dv),
          Q(take_rows(scratch, B, dq)),
          K(take_samples(scratch, cut.chunk, dq)),
          V(take_values(scratch, cut.chunk, dv)) {}
};

// Rows [b_begin, b_end) gain what the samples [j_begin, j_end), a chunk, give.
template <class T>
void forward_group(const Problem<T>& p, const Forward<T>& packed, int64_t b_begin, int64_t b_end, int64_t j_begin,
                   int64_t j_end, T* out, T* l1, T* l2) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t dv = p.V.columns;
    alignas(64) T S[kMaxTileRows * kStride];
    for (int64_t j0 = j_begin; j0 < j_end; j0 += packed.cut.slice) {
        const int64_t width = std::min(packed.cut.slice, j_end - j0);
        const Packed<const T> K = samples(packed.K, j0 - j_begin), V = values(packed.V, j0 - j_begin);
        for (int64_t b0 = b_begin; b0 < b_end; b0 += simd.tile_rows) {
            const int64_t count = std::min<int64_t>(simd.tile_rows, b_end - b0);
            scores(p, packed.Q, K, b0, j0, width, S);
            for (int64_t r = 0; r < count; ++r) {
                T norms[2] = {};
                simd.soft_threshold(S + r * kStride, round_up(width, simd.tile_columns), p.threshold, p.scale, norms);
                l1[b0 + r] += norms[0];
                l2[b0 + r] += norms[1];
            }
            multiply(Packed<const T>{S, kStride}, false, V, count, dv, width, out + b0 * dv, dv, true);
        }
    }
}

template <class T>
void forward(const Problem<T>& p, T* buffer, T* out, T* l1, T* l2, int threads) {
    const int64_t B = p.Q.rows, N = p.K.rows, tile_rows = simd_of<T>().tile_rows;
    Scratch<T> scratch = {buffer};
    const Forward<T> packed(scratch, B, N, p.Q.columns, p.V.columns);
    pack_rows(p.Q, packed.Q, threads);
    std::fill_n(out, B * p.V.columns, T(0));
    std::fill_n(l1, B, T(0));
    std::fill_n(l2, B, T(0));
    const int64_t tiles = divide_up(B, tile_rows);
    // As few groups as hold the tiles, but the same number for every thread. A row's sums do not depend on its group.
    const int64_t fewest = divide_up(tiles, kGroupTiles);
    const int64_t wanted = round_up(fewest, threads);
    const int64_t per_group = wanted > 0 ? divide_up(tiles, wanted) * tile_rows : 1;
    for (int64_t j = 0; j < N; j += packed.cut.chunk) {
        const int64_t count = std::min(packed.cut.chunk, N - j);
        pack_samples(rows_of(p.K, j, count), packed.K, threads);
        pack_values(rows_of(p.V, j, count), packed.V, threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
        for (int64_t b = 0; b < B; b += per_group) {
            forward_group(p, packed, b, std::min(b + per_group, B), j, j + count, out, l1, l2);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ backward

template <class T>
struct Gradients {
    Matrix<T> G;
    const T *G1, *G2;
    T *dQ, *dK, *dV, *dthreshold;
};

template <class T>
struct Backward {
    Cut<T> cut;
    Packed<T> Q, G, Q_values, G_values;
    Packed<T> K, V, K_values;  // the samples of one chunk
    double* dthreshold;        // one partial sum a slice of a chunk

    Backward(Scratch<T>& scratch, int64_t B, int64_t N, int64_t dq, int64_t dv)
        : cut(N, dq, dv),
          Q(take_rows(scratch, B, dq)),
          G(take_rows(scratch, B, dv)),
          Q_values(take_values(scratch, B, dq)),
          G_values(take_values(scratch, B, dv)),
          K(take_samples(scratch, cut.chunk, dq)),
          V(take_samples(scratch, cut.chunk, dv)),
          K_values(take_values(scratch, cut.chunk, dq)),
          dthreshold(reinterpret_cast<double*>(
              scratch.take(cut.chunk / cut.slice * static_cast<int64_t>(sizeof(double) / sizeof(T))))) {}
};

// Rows [b_begin, b_end) against samples from j0 on, a slice of the chunk that begins at j_begin and ends at j_end.
template <class T>
void backward_block(const Problem<T>& p, const Gradients<T>& g, const Backward<T>& packed, int64_t b_begin,
                    int64_t b_end, int64_t j_begin, int64_t j_end, int64_t j0) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t dq = p.Q.columns, dv = p.V.columns, width = std::min(packed.cut.slice, j_end - j0);
    const int64_t whole = round_up(width, simd.tile_columns), local = j0 - j_begin;
    const Packed<const T> K = samples(packed.K, local), V = samples(packed.V, local);
    constexpr int64_t kRows = kGroupTiles * kMaxTileRows;
    alignas(64) T C[kRows * kStride];   // scores, then coefficients
    alignas(64) T dS[kRows * kStride];  // gradient of the coefficients, then of the scores
    const bool through_scores = g.dQ || g.dK || g.dthreshold;
    T dthreshold = 0;
    for (int64_t b0 = b_begin; b0 < b_end; b0 += simd.tile_rows) {
        const int64_t count = std::min<int64_t>(simd.tile_rows, b_end - b0);
        T *c = C + (b0 - b_begin) * kStride, *ds = dS + (b0 - b_begin) * kStride;
        scores(p, packed.Q, K, b0, j0, width, c);
        if (!through_scores) {
            T norms[2];
            for (int64_t r = 0; r < count; ++r) {
                simd.soft_threshold(c + r * kStride, whole, p.threshold, p.scale, norms);
            }
            continue;
        }
        multiply(left(packed.G, b0), false, V, simd.tile_rows, whole, dv, ds, kStride, false);
        for (int64_t r = 0; r < count; ++r) {
            simd.soft_threshold_backward(c + r * kStride, ds + r * kStride, whole, p.threshold, p.scale, g.G1[b0 + r],
                                         g.G2[b0 + r], &dthreshold);
        }
        if (g.dQ) {
            multiply(Packed<const T>{ds, kStride}, false, values(packed.K_values, local), count, dq, width,
                     g.dQ + b0 * dq, dq, true);
        }
    }
    const int64_t count = b_end - b_begin;
    if (g.dK) {
        multiply(Packed<const T>{dS, kStride}, true, values(packed.Q_values, b_begin), width, dq, count, g.dK + j0 * dq,
                 dq, true);
    }
    if (g.dV) {
        multiply(Packed<const T>{C, kStride}, true, values(packed.G_values, b_begin), width, dv, count, g.dV + j0 * dv,
                 dv, true);
    }
    packed.dthreshold[local / packed.cut.slice] += static_cast<double>(dthreshold);
}

// The packed chunk [j_begin, j_end) against all queries.
template <class T>
void backward_chunk(const Problem<T>& p, const Gradients<T>& g, const Backward<T>& packed, int64_t j_begin,
                    int64_t j_end, int threads) {
    const int64_t B = p.Q.rows, tile_rows = simd_of<T>().tile_rows, tiles = divide_up(B, tile_rows);
    const int64_t group_tiles =
        std::clamp<int64_t>(divide_up(tiles, kGroupsWanted), 1, sizeof(T) == 4 ? kGroupTiles : kGroupTiles / 2);
    const int64_t per_group = group_tiles * tile_rows, groups = divide_up(B, per_group);
    const int64_t slices = divide_up(j_end - j_begin, packed.cut.slice);
    // In round t slice s meets group s + t: the blocks of a round share nothing.
    const int64_t rounds = std::max(groups, slices);
#pragma omp parallel num_threads(threads) if (threads > 1)
#pragma omp single
    for (int64_t t = 0; t < rounds; ++t) {
        for (int64_t s = 0; s < slices; ++s) {
            const int64_t b = (s + t) % rounds * per_group;
            if (b >= B) continue;
            // What orders the blocks are addresses that stand for a group of rows and for a slice.
#pragma omp task depend(inout : packed.Q.at[b * packed.Q.stride], packed.dthreshold[s]) firstprivate(b, s)
            backward_block(p, g, packed, b, std::min(b + per_group, B), j_begin, j_end, j_begin + s * packed.cut.slice);
        }
    }
}

template <class T>
void backward(const Problem<T>& p, const Gradients<T>& g, T* buffer, int threads) {
    const int64_t B = p.Q.rows, N = p.K.rows, dq = p.Q.columns, dv = p.V.columns;
    Scratch<T> scratch = {buffer};
    const Backward<T> packed(scratch, B, N, dq, dv);
    pack_rows(p.Q, packed.Q, threads);
    pack_rows(g.G, packed.G, threads);
    if (g.dK) pack_values(p.Q, packed.Q_values, threads);
    if (g.dV) pack_values(g.G, packed.G_values, threads);
    if (g.dQ) std::fill_n(g.dQ, B * dq, T(0));
    if (g.dK) std::fill_n(g.dK, N * dq, T(0));
    if (g.dV) std::fill_n(g.dV, N * dv, T(0));
    const int64_t slices = packed.cut.chunk / packed.cut.slice;
    std::fill_n(packed.dthreshold, slices, 0.0);
    for (int64_t j = 0; j < N; j += packed.cut.chunk) {
        const int64_t count = std::min(packed.cut.chunk, N - j);
        pack_samples(rows_of(p.K, j, count), packed.K, threads);
        pack_samples(rows_of(p.V, j, count), packed.V, threads);
        if (g.dQ) pack_values(rows_of(p.K, j, count), packed.K_values, threads);
        backward_chunk(p, g, packed, j, j + count, threads);
    }
    if (g.dthreshold) {
        double total = 0;
        for (int64_t s = 0; s < slices; ++s) total += packed.dthreshold[s];
        *g.dthreshold = static_cast<T>(total);
    }
}

template <class T>
Matrix<T> matrix(const void* at, int64_t stride, int64_t rows, int64_t columns) {
    return {static_cast<const T*>(at), stride, rows, columns};
}

Status row_outside() { return {kIndexOutOfRange, "rows must lie in [0, N), the samples K and V hold"}; }

}  // namespace

bool inner_product_self_expression_reads(DType dtype) { return dtype == DType::f32 || dtype == DType::f64; }

int64_t inner_product_self_expression_scratch(DType dtype, int64_t B, int64_t N, int64_t dq, int64_t dv,
                                              bool backward) {
    return with_computed_type(dtype, [=](auto zero) {
        Scratch<decltype(zero)> scratch = {nullptr};
        if (backward) {
            Backward<decltype(zero)>(scratch, B, N, dq, dv);
        } else {
            Forward<decltype(zero)>(scratch, B, N, dq, dv);
        }
        return scratch.used;
    });
}

Status inner_product_self_expression(DType dtype, Queue queue, bool, const void* Q, int64_t Q_stride, int64_t B,
                                     int64_t dq, const void* K, int64_t K_stride, int64_t N, const void* V,
                                     int64_t V_stride, int64_t dv, const void* threshold, double scale,
                                     const int64_t* rows, void* scratch, void* out, void* l1, void* l2) {
    if (rows && !all_within(rows, B, 0, N)) return row_outside();
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p = {matrix<T>(Q, Q_stride, B, dq), matrix<T>(K, K_stride, N, dq),
                              matrix<T>(V, V_stride, N, dv), *static_cast<const T*>(threshold),
                              static_cast<T>(scale),         rows};
        forward(p, static_cast<T*>(scratch), static_cast<T*>(out), static_cast<T*>(l1), static_cast<T*>(l2),
                static_cast<int>(queue));
        return Status{};
    });
}

Status inner_product_self_expression_backward(DType dtype, Queue queue, bool, const void* Q, int64_t Q_stride,
                                              int64_t B, int64_t dq, const void* K, int64_t K_stride, int64_t N,
                                              const void* V, int64_t V_stride, int64_t dv, const void* threshold,
                                              double scale, const int64_t* rows, const void* G, int64_t G_stride,
                                              const void* G1, const void* G2, void* scratch, void* dQ, void* dK,
                                              void* dV, void* dthreshold) {
    if (rows && !all_within(rows, B, 0, N)) return row_outside();
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p = {matrix<T>(Q, Q_stride, B, dq), matrix<T>(K, K_stride, N, dq),
                              matrix<T>(V, V_stride, N, dv), *static_cast<const T*>(threshold),
                              static_cast<T>(scale),         rows};
        const Gradients<T> g = {matrix<T>(G, G_stride, B, dv), static_cast<const T*>(G1), static_cast<const T*>(G2),
                                static_cast<T*>(dQ),           static_cast<T*>(dK),       static_cast<T*>(dV),
                                static_cast<T*>(dthreshold)};
        backward(p, g, static_cast<T*>(scratch), static_cast<int>(queue));
        return Status{};
    });
}

}  // namespace dsc::cpu
