// What several kernels ask of a batch's row indices.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/spliced_bank.h"

namespace dsc::cpu {

inline bool all_within(const int64_t* rows, int64_t B, int64_t begin, int64_t end) {
    return std::all_of(rows, rows + B, [=](int64_t row) { return row >= begin && row < end; });
}

// Sorted batches have no duplicates to look for.
inline bool strictly_increasing(const int64_t* rows, int64_t B) {
    return std::adjacent_find(rows, rows + B, [](int64_t a, int64_t b) { return a >= b; }) == rows + B;
}

inline void note_positions(const int64_t* rows, int64_t B, int32_t* slot) {
    for (int64_t b = 0; b < B; ++b) slot[rows[b]] = static_cast<int32_t>(b);  // the last duplicate wins
}

// slot[j], of `slots` of them, becomes the last position of the batch that holds row j, or -1.
inline void fill_slots(const int64_t* rows, int64_t B, int32_t* slot, int64_t slots) {
    std::fill_n(slot, slots, -1);
    note_positions(rows, B, slot);
}

// The same for whoever looks by live_row, for which slots need not be cleared. Null: nothing spliced.
inline Splice splice_rows(const int64_t* rows, int64_t B, int32_t* slot) {
    if (!slot) return {};
    note_positions(rows, B, slot);
    return {slot, rows, B};
}

// The positions in a batch that hold one row, linked: later(b) and earlier(b) are the next and the previous position
// with the row of b, -1 where there is none. Found in O(B) by a hash table of positions, in the caller's scratch or,
// for a small batch, to which even that would be a delay, in the object itself.
class Occurrences {
  public:
    // Length of the scratch, in int64.
    static int64_t words(int64_t B) { return needed(B) <= kOwn ? 0 : needed(B); }

    Occurrences(const int64_t* rows, int64_t B, int64_t* scratch) : distinct_(strictly_increasing(rows, B)) {
        if (distinct_) return;
        const int bits = bits_for(B);
        const uint64_t last = (uint64_t(1) << bits) - 1;
        int64_t* table = needed(B) <= kOwn ? own_ : scratch;
        later_ = table + last + 1;
        earlier_ = later_ + B;
        std::fill_n(table, last + 1, -1);
        for (int64_t b = 0; b < B; ++b) {
            uint64_t at = static_cast<uint64_t>(rows[b]) * 0x9e3779b97f4a7c15ull >> (64 - bits);
            while (table[at] >= 0 && rows[table[at]] != rows[b]) at = (at + 1) & last;
            later_[b] = -1;
            earlier_[b] = table[at];
            if (table[at] >= 0) later_[table[at]] = b;
            table[at] = b;
        }
    }

    int64_t later(int64_t b) const { return distinct_ ? -1 : later_[b]; }
    int64_t earlier(int64_t b) const { return distinct_ ? -1 : earlier_[b]; }

  private:
    static constexpr int64_t kOwn = 1536;  // enough for 256 rows

    // The table, at most a quarter full, so that few rows meet another on their way, and two links a position.
    static int64_t needed(int64_t B) { return (int64_t(1) << bits_for(B)) + 2 * B; }

    static int bits_for(int64_t B) {
        int bits = 3;
        while ((int64_t(1) << bits) < 4 * B) ++bits;
        return bits;
    }

    bool distinct_;
    int64_t* later_ = nullptr;
    int64_t* earlier_ = nullptr;
    int64_t own_[kOwn];
};

}  // namespace dsc::cpu
