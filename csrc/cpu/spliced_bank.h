// What a sparse row of coefficients asks of the bank: sums of scattered rows and dots with them (simd/gather.h).
#pragma once

#include <cstdint>

namespace dsc::cpu {

// Where live rows stand in for those of the bank: Z[slot[j]] for row j, if slot[j] is a position in the batch that
// holds j. Whatever else slot[j] may be says that there is none, so slots need not be cleared. Null: nothing spliced.
struct Splice {
    const int32_t* slot = nullptr;
    const int64_t* rows = nullptr;  // (B)
    int64_t B = 0;
};

// The position in the batch that holds row j, or -1.
// Internal linkage: it is compiled for several instruction sets.
static inline int64_t live_row(const Splice& splice, int64_t j) {
    if (!splice.slot) return -1;
    const int64_t b = splice.slot[j];
    return b >= 0 && b < splice.B && splice.rows[b] == j ? b : -1;
}

// Rows of d numbers, each from the bank M (of any storage type) or from the live batch Z.
template <class T>
struct SplicedBank {
    const void* M;
    int64_t M_stride, N, d;
    const T* Z = nullptr;
    int64_t Z_stride = 0;
    Splice splice = {};
};

// How many entries ahead rows are fetched.
inline constexpr int64_t kAhead = 32;

// k rows by index, of which negative ones and `own` do not count. What comes kAhead entries later, where that is beyond
// this list, is at the beginning of `next`: null, or at least min(k, kAhead) indices.
struct SparseRow {
    const int64_t* indices;
    const int64_t* next;
    int64_t k, own;
};

// For each storage type of the bank; false if an index is N or more.
template <class T>
struct Gather {
    // out (d) = Σ_s values[s] · row s, in the order of s
    using Combine = bool (*)(const SplicedBank<T>& bank, const T* values, const SparseRow& row, T* out);
    // out (k) = ⟨g, row s⟩, zero for what does not count
    using Dots = bool (*)(const SplicedBank<T>& bank, const T* g, const SparseRow& row, T* out);
    Combine combine, combine_f16, combine_bf16;
    Dots dots, dots_f16, dots_bf16;
};

}  // namespace dsc::cpu
