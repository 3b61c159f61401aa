// What several kernels ask of a batch's row indices.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dsc::cpu {

inline bool all_within(const int64_t* rows, int64_t B, int64_t begin, int64_t end) {
    return std::all_of(rows, rows + B, [=](int64_t row) { return row >= begin && row < end; });
}

// Sorted batches have no duplicates to look for.
inline bool strictly_increasing(const int64_t* rows, int64_t B) {
    return std::adjacent_find(rows, rows + B, [](int64_t a, int64_t b) { return a >= b; }) == rows + B;
}

}  // namespace dsc::cpu
