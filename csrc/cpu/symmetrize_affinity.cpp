// Every entry is filed in its row and mirrored in the row of its column; rows are sorted and merged, one thread a row.
#include "symmetrize_affinity.h"

#include <algorithm>
#include <cmath>

namespace dsc::cpu {

Status symmetrize_degree(Queue, int64_t n, const int64_t* crow, const int64_t* column, int64_t* degree) {
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
            if (column[e] < 0) continue;
            if (column[e] >= n) return {kIndexOutOfRange, "indices must be below N, the number of rows"};
            ++degree[i];
            ++degree[column[e]];
        }
    }
    return {};
}

Status symmetrize_file(Queue queue, int64_t n, const int64_t* crow, const int64_t* column, const int64_t* offset,
                       int64_t* cursor, Filed* filed, int64_t* unique) {
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
            const int64_t j = column[e];
            if (j < 0) continue;
            filed[offset[i] + cursor[i]++] = {j, 2 * e};
            filed[offset[j] + cursor[j]++] = {i, 2 * e + 1};
        }
    }
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(dynamic, 256) if (queue > 1)
    for (int64_t i = 0; i < n; ++i) {
        std::sort(filed + offset[i], filed + offset[i + 1], [](const Filed& a, const Filed& b) {
            return a.column != b.column ? a.column < b.column : a.tag < b.tag;
        });
        for (int64_t f = offset[i]; f < offset[i + 1]; ++f) {
            unique[i] += f == offset[i] || filed[f].column != filed[f - 1].column;
        }
    }
    return {};
}

namespace {

template <class T>
void merge_row(const T* values, const Filed* begin, const Filed* end, int64_t place, bool maximum, int64_t* out_column,
               T* out_values, int64_t* position, int64_t* mirror, T* share) {
    for (const Filed* run = begin; run != end; ++place) {
        const Filed* next = run;
        T own = 0, other = 0;
        for (; next != end && next->column == run->column; ++next) {
            (next->tag % 2 ? other : own) += std::abs(values[next->tag / 2]);
        }
        out_column[place] = run->column;
        out_values[place] = !maximum ? (own + other) / 2 : std::isnan(own) ? own : std::max(other, own);
        const T own_share = !maximum ? T(0.5) : own > other ? T(1) : own == other ? T(0.5) : T(0);
        for (; run != next; ++run) {
            const int64_t e = run->tag / 2;
            if (run->tag % 2) {
                mirror[e] = place;
            } else {
                position[e] = place;
                share[e] = own_share;
            }
        }
    }
}

}  // namespace

Status symmetrize_merge(DType dtype, Queue queue, int64_t n, const void* values, const int64_t* offset,
                        const Filed* filed, const int64_t* out_crow, bool maximum, int64_t* out_column,
                        void* out_values, int64_t* position, int64_t* mirror, void* share) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(dynamic, 256) if (queue > 1)
        for (int64_t i = 0; i < n; ++i) {
            merge_row(static_cast<const T*>(values), filed + offset[i], filed + offset[i + 1], out_crow[i], maximum,
                      out_column, static_cast<T*>(out_values), position, mirror, static_cast<T*>(share));
        }
        return Status{};
    });
}

}  // namespace dsc::cpu
