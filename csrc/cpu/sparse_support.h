// The sparse coefficients' side of every CPU kernel on them: which entries a row of the batch has, which kernel reads
// the bank, and how rows are shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/types.h"
#include "cpu/gather.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

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

inline Splice splice_rows(const Support& support, int32_t* slot) {
    if (!slot) return {};
    for (int64_t b = 0; b < support.B; ++b) slot[support.rows[b]] = static_cast<int32_t>(b);  // the last duplicate wins
    return {slot, support.rows, support.B};
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

inline bool known_bank(DType dtype, DType bank) {
    return bank == dtype || (dtype == DType::f32 && (bank == DType::f16 || bank == DType::bf16));
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
