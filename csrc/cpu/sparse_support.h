// The sparse coefficients' side of every CPU kernel on them: which entries a row of the batch has, which kernel reads
// the bank, and how rows are shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dtype.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "cpu/spliced_bank.h"

namespace dsc::cpu {

inline constexpr int64_t kRowsATurn = 64;        // of the batch, that a thread takes
inline constexpr int64_t kWorthThreads = 16384;  // multiplications that are

inline constexpr const char* kRowsBeyond = "rows must lie in [row_offset, row_offset + n), the rows of values";
inline constexpr const char* kIndicesBeyond = "indices must be below N, the rows of the bank";

// The sparse coefficients' side: which entries row b of the batch has.
struct Support {
    const int64_t* indices;
    int64_t stride, n, row_offset, k;
    const int64_t* rows;
    int64_t B;
    bool zero_diagonal;

    bool rows_within() const { return !rows || all_within(rows, B, row_offset, row_offset + n); }
    int64_t local(int64_t b) const { return rows ? rows[b] - row_offset : b; }
    SparseRow row(int64_t b) const {
        const int64_t i = local(b);
        const int64_t later = b + std::max<int64_t>(kAhead / std::max<int64_t>(k, 1), 1);
        const int64_t* next = later < B ? indices + local(later) * stride : nullptr;
        return {indices + i * stride, next, k, zero_diagonal ? row_offset + i : -1};
    }
};

template <class T>
typename Gather<T>::Combine combine_for(DType bank) {
    const Gather<T>& gather = simd_of<T>().gather;
    return bank == DType::f16 ? gather.combine_f16 : bank == DType::bf16 ? gather.combine_bf16 : gather.combine;
}

template <class T>
typename Gather<T>::Dots dots_for(DType bank) {
    const Gather<T>& gather = simd_of<T>().gather;
    return bank == DType::f16 ? gather.dots_f16 : bank == DType::bf16 ? gather.dots_bf16 : gather.dots;
}

// Calls body(b) for the rows of the batch; all(bodies).
template <class Body>
bool for_each_batch_row(int64_t B, int64_t work, Queue queue, Body&& body) {
    bool within = true;
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(dynamic, kRowsATurn) \
    reduction(&& : within) if (queue > 1 && work > kWorthThreads)
    for (int64_t b = 0; b < B; ++b) within = body(b) && within;
    return within;
}

}  // namespace dsc::cpu
