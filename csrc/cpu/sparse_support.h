// The sparse coefficients' side of every CPU kernel on them: which entries a row of the batch has, which kernel reads
// the bank, and how rows are shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dtype.h"
#include "common/support.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "cpu/spliced_bank.h"

namespace dsc::cpu {

inline constexpr int64_t kRowsATurn = 64;        // of the batch, that a thread takes
inline constexpr int64_t kWorthThreads = 16384;  // multiplications that are

inline constexpr const char* kRowsBeyond = "rows must lie in [row_offset, row_offset + n), the rows of values";
inline constexpr const char* kIndicesBeyond = "indices must be below N, the rows of the bank";

inline bool rows_within(const Support& support) {
    const int64_t begin = support.row_offset;
    return !support.rows || all_within(support.rows, support.B, begin, begin + support.n);
}

// The row of the coefficients that row b of the batch is, and its entries.
inline int64_t local_row(const Support& support, int64_t b) {
    return support.rows ? support.rows[b] - support.row_offset : b;
}

inline SparseRow entries_of(const Support& support, int64_t b) {
    const int64_t i = local_row(support, b);
    const int64_t later = b + std::max<int64_t>(kAhead / std::max<int64_t>(support.k, 1), 1);
    const int64_t* next = later < support.B ? support.indices + local_row(support, later) * support.stride : nullptr;
    return {support.indices + i * support.stride, next, support.k, support.zero_diagonal ? support.row_offset + i : -1};
}

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
