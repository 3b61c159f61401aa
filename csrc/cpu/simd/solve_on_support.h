// The Gram matrix of scattered rows, and one thread's part in what common/on_support_row.h does with it. Rows are
// packed into panels a slice of their features at a time, so that a product reads its sides from the L1 cache.
#pragma once

#include "common/on_support_row.h"
#include "cpu/simd/gather.h"
#include "cpu/simd/tile.h"
#include "cpu/simd/transpose.h"

namespace dsc::cpu {
namespace {

// out (rows, kColumns), row stride ldo, becomes Aᵀ B, or gains it: A (k, rows) and B (k, kColumns) lie in panels.
template <class T, int R = kRows>
void gram_tile(int rows, const T* A, const T* B, int64_t k, T* out, int64_t ldo, bool accumulate) {
    if constexpr (R > 1) {
        if (rows < R) return gram_tile<T, R - 1>(rows, A, B, k, out, ldo, accumulate);
    }
    using V = typename Vector<T>::type;
    Accumulators<T, R> sum = {};
    for (int64_t j = 0; j < k; ++j) multiply<T, true, R>(A, kColumns<T>, B, j, sum);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
        V* to = reinterpret_cast<V*>(out + r * ldo);
        for (int v = 0; v < kVectors; ++v) to[v] = accumulate ? to[v] + sum[r][v] : sum[r][v];
    }
}

// A slice of a row comes into the second-level cache.
template <class T>
void fetch(const T* slice) {
    for (int64_t i = 0; i < kGramSlice; i += kLineBytes / int64_t(sizeof(T))) __builtin_prefetch(slice + i, 0, 2);
}

template <class T>
void gram(const SupportTask<T>& task) {
    constexpr int width = kColumns<T>;
    const int count = task.m + 1;
    for (int64_t f = 0; f < task.d; f += kGramSlice) {
        const int64_t depth = task.d - f < kGramSlice ? task.d - f : kGramSlice;
        for (int b0 = 0; b0 < count; b0 += width) {
            const T* from[width];
            const int columns = count - b0 < width ? count - b0 : width;
            for (int i = 0; i < columns; ++i) {
                from[i] = task.rows[b0 + i] + f;
                if (f + depth < task.d) fetch(from[i] + depth);  // the next slice, while this one is multiplied
            }
            T* const B = task.panels + b0 * kGramSlice;
            transpose<T>(from, columns, depth, B);
            for (int a0 = 0; a0 <= b0; a0 += width) {
                const T* const A = task.panels + a0 * kGramSlice;
                for (int i = 0; i < width && a0 + i < count; i += kRows) {
                    int rows = width - i < count - a0 - i ? width - i : count - a0 - i;
                    rows = rows < kRows ? rows : kRows;
                    gram_tile<T>(rows, A + i, B, depth, task.G + (a0 + i) * task.ld + b0, task.ld, f > 0);
                }
            }
        }
    }
    for (int i = width; i < count; ++i) {  // tiles on the diagonal are whole
        for (int j = 0; j < i / width * width; ++j) task.G[i * task.ld + j] = task.G[j * task.ld + i];
    }
}

template <class T, int kBlock>
void eliminate_block(const T* V, int64_t ld, int n, const T* factors, const T* from, T scale, T* out) {
    constexpr int lanes = Vector<T>::kLanes;
    typename Vector<T>::type sum[kBlock];
    for (int i = 0; i < kBlock; ++i) sum[i] = load(from + i * lanes);
    for (int p = 0; p < n; ++p) {
        for (int i = 0; i < kBlock; ++i) sum[i] -= factors[p * ld] * load(V + p * ld + i * lanes);
    }
    for (int i = 0; i < kBlock; ++i) reinterpret_cast<typename Vector<T>::type*>(out)[i] = sum[i] * scale;
}

// The team of one thread.
template <class T>
struct Alone {
    const T* G;
    int64_t ld;

    static constexpr int lane() { return 0; }
    static constexpr int lanes() { return 1; }
    static void sync() {}
    static bool any(bool value) { return value; }
    static Event<T> first(const Event<T>& event) { return event; }
    static T root(T value) { return dsc::cpu::root(value); }
    T gram(int i, int j) const { return G[i * ld + j]; }
    void eliminate(const SupportRow<T>& row, int j, T shift, T scale) const {
        constexpr int lanes = Vector<T>::kLanes;
        T* const out = row.V + row.n * ld;
        int64_t c = 0;
        for (; c + 4 * lanes <= ld; c += 4 * lanes) {
            eliminate_block<T, 4>(row.V + c, ld, row.n, row.V + j, G + j * ld + c, scale, out + c);
        }
        for (; c < ld; c += 2 * lanes) {
            eliminate_block<T, 2>(row.V + c, ld, row.n, row.V + j, G + j * ld + c, scale, out + c);
        }
        out[j] += scale * shift;
    }
};

// Ridge takes every atom, so that V is the whole factor and four rows of it can be made at a time.
constexpr int kFactorRows = 4;

// kFactorRows rows of V from row i on, in kVectors vectors of columns from c on, before they see one another.
template <class T>
void factor_tile(const SupportTask<T>& task, int i, int64_t c) {
    using V = typename Vector<T>::type;
    Accumulators<T, kFactorRows> sum;
    for (int r = 0; r < kFactorRows; ++r) {
        for (int v = 0; v < kVectors; ++v) sum[r][v] = load(task.G + (i + r) * task.ld + c + v * Vector<T>::kLanes);
    }
    for (int p = 0; p < i; ++p) {
        const T* row = task.V + p * task.ld;
        for (int r = 0; r < kFactorRows; ++r) {
            for (int v = 0; v < kVectors; ++v) sum[r][v] -= row[i + r] * load(row + c + v * Vector<T>::kLanes);
        }
    }
    for (int r = 0; r < kFactorRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
            *reinterpret_cast<V*>(task.V + (i + r) * task.ld + c + v * Vector<T>::kLanes) = sum[r][v];
        }
    }
}

// y -= factor x
template <class T>
void subtract(T factor, const T* x, int64_t count, T* y) {
    for (int64_t i = 0; i < count; i += Vector<T>::kLanes) {
        *reinterpret_cast<typename Vector<T>::type*>(y + i) = load(y + i) - factor * load(x + i);
    }
}

// As append() for every atom in turn, above the diagonal.
template <class T>
void factor(const SupportTask<T>& task, SupportRow<T>& row) {
    const int64_t ld = task.ld;
    for (int i0 = 0; i0 < row.m; i0 += kFactorRows) {
        const int64_t begin = i0 / kColumns<T> * kColumns<T>;
        for (int64_t c = begin; c < ld; c += kColumns<T>) factor_tile(task, i0, c);
        for (int i = i0; i < i0 + kFactorRows && i < row.m; ++i) {
            T* const v = task.V + i * ld;
            for (int p = i0; p < i; ++p) subtract(task.V[p * ld + i], task.V + p * ld + begin, ld - begin, v + begin);
            const T left = v[i] + row.shift, own = task.G[i * ld + i] + row.shift;
            row.scale[i] = left > row.rounding * own ? T(1) / root(left) : T(0);
            for (int64_t c = begin; c < ld; ++c) v[c] *= row.scale[i];
        }
    }
}

// c = L⁻ᵀ (the last column of V)
template <class T>
void solve_factor(const SupportTask<T>& task, SupportRow<T>& row) {
    constexpr int lanes = Vector<T>::kLanes;
    for (int64_t c = row.m; c < task.ld; ++c) row.c[c] = T(0);
    for (int i = row.m - 1; i >= 0; --i) {
        const T* v = task.V + i * task.ld;
        typename Vector<T>::type sum = {};
        for (int64_t c = i / lanes * lanes; c < task.ld; c += lanes) sum += load(v + c) * load(row.c + c);
        row.c[i] = (v[row.m] - sum_of_lanes<T>(sum)) * row.scale[i];
    }
}

template <class T>
Alone<T> team_for(const SupportTask<T>& task) {
    gram(task);
    return {task.G, task.ld};
}

template <class T>
SupportRow<T> row_for(const SupportTask<T>& task) {
    return {task.m, task.ld, task.rounding, task.V, task.vectors, task.lists};
}

template <class T>
const T* ridge_on_support(const SupportTask<T>& task, T lam) {
    const Alone<T> team = team_for(task);
    SupportRow<T> row = row_for(task);
    if (begin(row, team, ridge_shift(row, team, lam))) {
        factor(task, row);
        solve_factor(task, row);
    }
    return row.c;
}

template <class T>
const T* elastic_net_on_support(const SupportTask<T>& task, T l1, T l2) {
    const Alone<T> team = team_for(task);
    SupportRow<T> row = row_for(task);
    elastic_net(row, team, l1, l2);
    return row.c;
}

template <class T>
const T* pursuit_on_support(const SupportTask<T>& task, int64_t most, T tolerance) {
    const Alone<T> team = team_for(task);
    SupportRow<T> row = row_for(task);
    pursuit(row, team, most, tolerance);
    return row.c;
}

}  // namespace
}  // namespace dsc::cpu
