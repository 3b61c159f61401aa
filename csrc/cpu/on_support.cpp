// Each sample from the atoms of its support, on the CPU.
//
// A thread takes a row of the batch at a time: the atoms' Gram matrix with the target as one atom more, k² d / 2
// multiplications on tiles in registers, and the coefficients from it, all in memory that stays in the thread's caches.
// Floor: those products; reading k · d numbers from wherever they are cached is below it from k = 20 or so on.
#include "on_support.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/dtype.h"
#include "common/on_support_row.h"
#include "common/threads.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kFactored = 4;  // rows of a factor that are made at a time, some of them beyond the last

// One thread's memory for rows of k atoms, cut out of the scratch.
template <class T>
struct Workspace {
    const T** rows;   // (k + 1)
    int32_t* places;  // (k) of the row's entries, where its atoms are named
    SupportTask<T> task;
    int64_t bytes = 0;

    Workspace(void* scratch, int64_t k) {
        auto* base = static_cast<unsigned char*>(scratch);
        const auto take = [&](auto*& part, int64_t count) {
            part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(base + bytes);
            bytes += round_up(count * static_cast<int64_t>(sizeof(*part)), kLine);
        };
        const int64_t widest = round_up(k + 1, kMaxTileColumns);
        take(task.panels, kGramSlice * widest);
        take(task.G, (k + kFactored) * widest);
        take(task.V, (k + kFactored) * widest);
        take(task.vectors, kNumberArrays * (k + 1) + widest);  // the last of them is read in whole vectors
        take(task.lists, kIntegerArrays * k);
        take(rows, k + 1);
        take(places, k);
    }
};

constexpr int64_t kRowsATurn = 8;  // of the batch, that a thread takes

template <class T>
struct Problem {
    const T* X;
    int64_t X_stride, N, d;
    const int64_t* indices;
    int64_t indices_stride, B, k;
    const T* Q;
    int64_t Q_stride;
};

// The beginning of each atom of row b comes into the second-level cache, while the row before it is solved.
template <class T>
void fetch_next(const Problem<T>& p, int64_t b) {
    for (int64_t s = 0; s < p.k; ++s) {
        const int64_t j = p.indices[b * p.indices_stride + s];
        if (j < 0 || j >= p.N) continue;
        const T* from = p.X + j * p.X_stride;
        for (int64_t f = 0; f < std::min(p.d, kGramSlice); f += kLine / static_cast<int64_t>(sizeof(T))) {
            __builtin_prefetch(from + f, 0, 2);
        }
    }
}

// Calls solve(task) for every row. False if an index lies beyond X.
template <class T, class Solve>
bool for_each_support(const Problem<T>& p, Queue queue, void* scratch, T* values, Solve&& solve) {
    bool within = true;
    const int64_t bytes = Workspace<T>(nullptr, p.k).bytes, tile = simd_of<T>().tile_columns;
#pragma omp parallel num_threads(static_cast<int>(queue)) reduction(&& : within) if (queue > 1 && p.B > kRowsATurn)
    {
        Workspace<T> mine(static_cast<unsigned char*>(scratch) + thread_number() * bytes, p.k);
        SupportTask<T>& task = mine.task;
        task.rows = mine.rows;
        task.d = p.d;
        task.rounding = static_cast<T>(10 + p.k) * std::numeric_limits<T>::epsilon();
#pragma omp for schedule(dynamic, kRowsATurn)
        for (int64_t b = 0; b < p.B; ++b) {
            const int64_t* indices = p.indices + b * p.indices_stride;
            int m = 0;
            for (int64_t s = 0; s < p.k; ++s) {
                const int64_t j = indices[s];
                within &= j < p.N;
                if (j < 0 || j >= p.N || (!p.Q && j == b)) continue;
                mine.places[m] = static_cast<int32_t>(s);
                mine.rows[m++] = p.X + j * p.X_stride;
            }
            if (b + 1 < p.B) fetch_next(p, b + 1);
            mine.rows[m] = p.Q ? p.Q + b * p.Q_stride : p.X + b * p.X_stride;
            task.m = m;
            task.ld = (m + tile) / tile * tile;
            T* out = values + b * p.k;
            std::fill_n(out, p.k, T(0));
            const T* c = solve(task);
            for (int i = 0; i < m; ++i) out[mine.places[i]] = c[i];
        }
    }
    return within;
}

// Calls solve(task, T{}, table of functions) for every row.
template <class Solve>
Status on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                  const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q, int64_t Q_stride,
                  void* scratch, void* values, Solve&& solve) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const Problem<T> problem = {static_cast<const T*>(X), X_stride, N, d, indices, indices_stride, B, k,
                                    static_cast<const T*>(Q), Q_stride};
        const OnSupport<T>& table = simd_of<T>().on_support;
        const bool within = for_each_support(problem, queue, scratch, static_cast<T*>(values),
                                             [&](const SupportTask<T>& task) { return solve(task, zero, table); });
        return within ? Status{} : Status{kIndexOutOfRange, "indices must be below N, the rows of X"};
    });
}

}  // namespace

int64_t on_support_most(DType) { return std::numeric_limits<int32_t>::max() / 64; }

int64_t on_support_scratch(DType dtype, Queue queue, int64_t k) {
    return with_computed_type(dtype, [&](auto zero) { return queue * Workspace<decltype(zero)>(nullptr, k).bytes; });
}

int64_t on_support_shared(DType, int64_t) { return 0; }

Status ridge_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                        const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                        int64_t Q_stride, double lam, void* scratch, void* values) {
    return on_support(dtype, queue, X, X_stride, N, d, indices, indices_stride, B, k, Q, Q_stride, scratch, values,
                      [=](const auto& task, auto zero, const auto& table) {
                          return table.ridge(task, static_cast<decltype(zero)>(lam));
                      });
}

Status elastic_net_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                              const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                              int64_t Q_stride, double l1, double l2, void* scratch, void* values) {
    return on_support(dtype, queue, X, X_stride, N, d, indices, indices_stride, B, k, Q, Q_stride, scratch, values,
                      [=](const auto& task, auto zero, const auto& table) {
                          using T = decltype(zero);
                          return table.elastic_net(task, static_cast<T>(l1), static_cast<T>(l2));
                      });
}

Status omp_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                      const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                      int64_t Q_stride, int64_t n_nonzero, double tolerance, void* scratch, void* values) {
    return on_support(dtype, queue, X, X_stride, N, d, indices, indices_stride, B, k, Q, Q_stride, scratch, values,
                      [=](const auto& task, auto zero, const auto& table) {
                          return table.pursuit(task, n_nonzero, static_cast<decltype(zero)>(tolerance));
                      });
}

}  // namespace dsc::cpu
