// The samples of a memory bank, some of them live rows of the batch, packed into the panels that simd.tile multiplies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace dsc::cpu {

// Row j of the spliced bank: the live row Z[slot[j]] if there is one, else M[j].
template <class T>
struct Bank {
    const T* M;
    int64_t M_stride;
    const T* Z = nullptr;
    int64_t Z_stride = 0;
    const int32_t* slot = nullptr;  // (N), or null where nothing is spliced

    const T* row(int64_t j) const {
        const int32_t live = slot ? slot[j] : -1;
        return live >= 0 ? Z + live * Z_stride : M + j * M_stride;
    }
};

// For products that sum over samples: panel (k, tile_columns) holds columns [c0, c0 + width) of samples [j0, j0 + k),
// zero columns up to a whole tile.
template <class T>
void pack_values(const Bank<T>& bank, int64_t j0, int64_t k, int64_t c0, int64_t width, const Simd<T>& simd, T* panel) {
    for (int64_t j = j0; j < j0 + k; ++j, panel += simd.tile_columns) {
        std::memcpy(panel, bank.row(j) + c0, width * sizeof(T));
        std::fill(panel + width, panel + simd.tile_columns, T(0));
    }
}

// For products that sum over features: panel (width, tile_columns) holds features [c0, c0 + width) of the count <=
// tile_columns samples from j0 on, one sample a column, zero columns up to a whole tile.
template <class T>
void pack_samples(const Bank<T>& bank, int64_t j0, int count, int64_t c0, int64_t width, const Simd<T>& simd,
                  T* panel) {
    const T* rows[kMaxTileColumns];
    for (int i = 0; i < count; ++i) rows[i] = bank.row(j0 + i) + c0;
    simd.transpose(rows, count, width, panel);
}

}  // namespace dsc::cpu
