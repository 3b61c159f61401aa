// W from a dense C: C is read once in rows, for a bit a number (above the threshold or not), and once more only where
// bits say so. The bits lie in tiles of 64 × 64, so that a tile and its mirror image are 512 bytes each, wherever they
// are in C.
//
// Floor: n² numbers read, 8 + sizeof(T) bytes a place of W written. The bits add 1/32 (float) of C; a mirrored number
// is read alone where a tile has few, and with its whole tile, transposed, where it has many.
#include <algorithm>
#include <cmath>

#include "common/dtype.h"
#include "common/symmetrize_combine.h"
#include "common/threads.h"
#include "cpu/pages.h"
#include "cpu/simd.h"
#include "symmetrize_affinity.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kTile = 64;
constexpr int kMany = 256;  // of a tile's 4096: more are cheaper read together

// A 64 × 64 matrix of bits transposed in place (Warren, Hacker's Delight, §7-3).
void transpose_bits(uint64_t* rows) {
    uint64_t mask = 0x00000000ffffffffull;
    for (int width = 32; width; width >>= 1, mask ^= mask << width) {
        for (int r = 0; r < kTile; r = (r + width + 1) & ~width) {
            const uint64_t swapped = (rows[r] >> width ^ rows[r + width]) & mask;
            rows[r + width] ^= swapped;
            rows[r] ^= swapped << width;
        }
    }
}

// The tile's own bits and those of its mirror image, as seen from its rows.
struct Tile {
    const uint64_t* own;
    uint64_t other[kTile];
    int others = 0;

    Tile(const uint64_t* bits, int64_t tiles, int64_t I, int64_t J) : own(bits + (I * tiles + J) * kTile) {
        std::copy_n(bits + (J * tiles + I) * kTile, kTile, other);
        for (uint64_t word : other) others += __builtin_popcountll(word);
        if (others) transpose_bits(other);
    }
};

template <class T>
struct Dense {
    const T* C;
    int64_t stride, n, tiles;
    const uint64_t* bits;
};

// Rows [64 I, 64 I + 64) of W.
template <Reduce reduce, class T>
void fill_rows(const Dense<T>& p, int64_t I, const int64_t* crow, int64_t* out_column, T* out_values) {
    const auto& simd = simd_of<T>();
    const int64_t i0 = I * kTile, height = std::min(kTile, p.n - i0);
    alignas(64) T image[kTile * kTile];
    int64_t to[kTile];
    std::copy_n(crow + i0, height, to);
    for (int64_t J = 0; J < p.tiles; ++J) {
        const Tile tile(p.bits, p.tiles, I, J);
        const int64_t j0 = J * kTile, width = std::min(kTile, p.n - j0);
        const bool together = tile.others > kMany;
        // Panels of simd.tile_columns mirrored rows, each (64, tile_columns).
        for (int64_t c = 0; together && c < width; c += simd.tile_columns) {
            const T* rows[kMaxTileColumns];
            const int64_t count = std::min<int64_t>(simd.tile_columns, width - c);
            for (int64_t l = 0; l < count; ++l) rows[l] = p.C + (j0 + c + l) * p.stride + i0;
            simd.transpose(rows, static_cast<int>(count), height, image + c * kTile);
        }
        for (int64_t r = 0; r < height; ++r) {
            const T* own = p.C + (i0 + r) * p.stride + j0;
            const uint64_t mine = tile.own[r], its = tile.other[r];
            for (uint64_t word = mine | its; word; word &= word - 1) {
                const int l = __builtin_ctzll(word);
                T other = 0;
                if (together) {
                    other = image[l / simd.tile_columns * simd.tile_columns * kTile + r * simd.tile_columns +
                                  l % simd.tile_columns];
                    other = if_taken(its >> l & 1, other);
                } else if (its >> l & 1) {
                    other = p.C[(j0 + l) * p.stride + i0 + r];
                }
                out_column[to[r]] = j0 + l;
                out_values[to[r]++] = combine<reduce>(if_taken(mine >> l & 1, std::abs(own[l])), std::abs(other));
            }
        }
    }
}

}  // namespace

int64_t symmetrize_dense_scratch(int64_t n) {
    const int64_t tiles = divide_up(n, kTile);
    return tiles * tiles * kTile;
}

Status symmetrize_dense_count(DType dtype, Queue queue, int64_t n, const void* C_, int64_t C_stride, double threshold,
                              int64_t* scratch, int64_t* out_crow) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const T* C = static_cast<const T*>(C_);
        const int64_t tiles = divide_up(n, kTile);
        const int threads = tiles < 4 ? 1 : static_cast<int>(queue);
        uint64_t* bits = reinterpret_cast<uint64_t*>(scratch);
        in_large_pages(bits, tiles * tiles * kTile * 8);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
        for (int64_t I = 0; I < tiles; ++I) {
            for (int64_t r = 0; r < kTile; ++r) {
                const int64_t i = I * kTile + r;
                uint64_t* row = bits + I * tiles * kTile + r;
                if (i < n) {
                    simd_of<T>().above(C + i * C_stride, n, static_cast<T>(threshold), row, kTile);
                } else {
                    for (int64_t J = 0; J < tiles; ++J) row[J * kTile] = 0;
                }
            }
        }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
        for (int64_t I = 0; I < tiles; ++I) {
            int64_t count[kTile] = {};
            for (int64_t J = 0; J < tiles; ++J) {
                const Tile tile(bits, tiles, I, J);
                for (int64_t r = 0; r < kTile; ++r) count[r] += __builtin_popcountll(tile.own[r] | tile.other[r]);
            }
            std::copy_n(count, std::min(kTile, n - I * kTile), out_crow + I * kTile + 1);
        }
        out_crow[0] = 0;
        for (int64_t i = 0; i < n; ++i) out_crow[i + 1] += out_crow[i];
        return {};
    });
}

Status symmetrize_dense_fill(DType dtype, Queue queue, int64_t n, const void* C, int64_t C_stride, Reduce reduce,
                             int64_t* scratch, const int64_t* out_crow, int64_t* out_column, void* out_values) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const int64_t tiles = divide_up(n, kTile);
        const int threads = tiles < 4 ? 1 : static_cast<int>(queue);
        const Dense<T> p = {static_cast<const T*>(C), C_stride, n, tiles, reinterpret_cast<const uint64_t*>(scratch)};
        in_large_pages(out_column, out_crow[n] * int64_t(sizeof(int64_t)));
        in_large_pages(out_values, out_crow[n] * int64_t(sizeof(T)));
        return with_reduce(reduce, [&](auto how) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
            for (int64_t I = 0; I < tiles; ++I) {
                fill_rows<how.value>(p, I, out_crow, out_column, static_cast<T*>(out_values));
            }
            return Status{};
        });
    });
}

}  // namespace dsc::cpu
