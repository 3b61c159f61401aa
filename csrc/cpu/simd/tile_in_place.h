// Products of a tile whose left side is read where it lies, whole or transposed, and may be short: for a bank that is
// used once per group of rows, packing it would cost as much as it saves. The right side is a packed panel, as in
// tile.h.
#pragma once

#include "cpu/simd/tile.h"

namespace dsc::cpu {
namespace {

// out (R, tile_columns) = scale · out + A B, or A B if scale is null; with Aᵀ if transposed.
template <class T, int R, bool kTransposed>
void tile_in_place_of(const T* A, int64_t lda, const T* B, int64_t k, T* out, const T* scale) {
    using V = typename Vector<T>::type;
    Accumulators<T, R> sum = {};
    for (int64_t j = 0; j < k; ++j) multiply<T, kTransposed, R>(A, lda, B, j, sum);
    V* to = reinterpret_cast<V*>(out);
    const V* s = reinterpret_cast<const V*>(scale);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r, to += kVectors) {
        for (int v = 0; v < kVectors; ++v) to[v] = s ? s[v] * to[v] + sum[r][v] : sum[r][v];
    }
}

// Calls tile_in_place_of with R = rows, 1 <= rows <= kRows.
template <class T, bool kTransposed, int R = kRows>
void tile_in_place(int rows, const T* A, int64_t lda, const T* B, int64_t k, T* out, const T* scale) {
    if constexpr (R > 1) {
        if (rows < R) return tile_in_place<T, kTransposed, R - 1>(rows, A, lda, B, k, out, scale);
    }
    tile_in_place_of<T, R, kTransposed>(A, lda, B, k, out, scale);
}

template <class T>
void tile_rows_in_place(int rows, const T* A, int64_t lda, const T* B, int64_t k, T* out) {
    tile_in_place<T, false>(rows, A, lda, B, k, out, nullptr);
}

template <class T>
void tile_columns_in_place(int rows, const T* A, int64_t lda, const T* B, int64_t k, T* out, const T* scale) {
    tile_in_place<T, true>(rows, A, lda, B, k, out, scale);
}

}  // namespace
}  // namespace dsc::cpu
