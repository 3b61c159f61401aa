// The batch's rows of C times the spliced bank, as a blocked product that gathers while it packs.
//
// Ẑ is cut into blocks. For each slice of samples the block's part of C is copied side by side (this is where rows are
// gathered and the diagonal is dropped) and each panel of the bank is copied with live rows in place; both copies live
// in the L2 cache. The order of summation depends on the shape alone, never on the number of threads.
//
// C comes from memory once; its next slice is fetched while the present one is multiplied (d = 32: 13 ms instead of 17
// for 2048 rows of 8192 on one core, where a library's GEMM takes 18; d = 128: 47 instead of 51, and 50).
//
// Floor: 2·B·N·d FLOP; bytes 4·(B·N + N·d). Reached on two Zen 4 cores at N = 8192: 55 % (B = 64) to 87 % (B = 256, d =
// 512) of what a GEMM of 2048² does there; what is missing is the packing, which B = 64 rows cannot hide.
#include "self_expression.h"

#include <algorithm>
#include <cstring>

#include "common/dtype.h"
#include "common/threads.h"
#include "cpu/bank_panels.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int kMaxTiles = 16;  // tiles of rows that share one packed panel of the bank

template <class T>
struct Problem {
    const T* C;
    int64_t C_stride, row_offset;
    Bank<T> bank;
    int64_t N, d;
    const int64_t* rows;
    int64_t B;
    bool zero_diagonal;
    T* out;
};

// The part [j0, j0 + k) of rows b0 .. b0 + count of the batch, zero rows up to whole tiles.
template <class T>
void pack_coefficients(const Problem<T>& p, int64_t b0, int64_t count, int64_t padded, int64_t j0, int64_t k, T* A) {
    for (int64_t i = 0; i < padded; ++i, A += kSlice) {
        if (i >= count) {
            std::fill_n(A, k, T(0));
            continue;
        }
        const int64_t row = p.rows[b0 + i];
        std::memcpy(A, p.C + (row - p.row_offset) * p.C_stride + j0, k * sizeof(T));
        if (p.zero_diagonal && row >= j0 && row < j0 + k) A[row - j0] = T(0);
    }
}

// Where the part [j0, j0 + k) of a tile's rows of C lies: fetched while the part before is multiplied, so that packing
// finds it in the cache.
template <class T>
int next_part(const Problem<T>& p, int64_t first, int64_t count, int64_t j0, int64_t k, const char** from) {
    int pieces = 0;
    for (int64_t b = first; b < first + count; ++b) {
        const char* part = reinterpret_cast<const char*>(p.C + (p.rows[b] - p.row_offset) * p.C_stride + j0);
        for (int64_t byte = 0; byte < k * int64_t(sizeof(T)); byte += kFetched) from[pieces++] = part + byte;
    }
    return pieces;
}

template <class T>
void run_block(const Problem<T>& p, const Simd<T>& simd, int64_t b0, int64_t count, int64_t c_begin, int64_t c_end) {
    alignas(64) T A[kMaxTiles * kMaxTileRows * kSlice];
    alignas(64) T panel[kSlice * kMaxTileColumns];
    alignas(64) T edge[kMaxTileRows * kMaxTileColumns];
    const char* from[kMaxTileRows * kSlice * sizeof(T) / kFetched];
    const int64_t tiles = divide_up(count, simd.tile_rows);
    for (int64_t j0 = 0; j0 < p.N; j0 += kSlice) {
        const int64_t k = std::min(kSlice, p.N - j0);
        const bool accumulate = j0 > 0;
        pack_coefficients(p, b0, count, tiles * simd.tile_rows, j0, k, A);
        for (int64_t c0 = c_begin; c0 < c_end; c0 += simd.tile_columns) {
            const int64_t width = std::min<int64_t>(simd.tile_columns, c_end - c0);
            pack_values(p.bank, j0, k, c0, width, simd, panel);
            for (int64_t t = 0; t < tiles; ++t) {
                const int64_t first = t * simd.tile_rows, valid = std::min<int64_t>(simd.tile_rows, count - first);
                const T* a = A + first * kSlice;
                T* out = p.out + (b0 + first) * p.d + c0;
                const int64_t next = j0 + kSlice;
                const int pieces = c0 == c_begin && next < p.N
                                       ? next_part(p, b0 + first, valid, next, std::min(kSlice, p.N - next), from)
                                       : 0;
                if (valid == simd.tile_rows && width == simd.tile_columns) {
                    simd.tile_fetching(a, kSlice, panel, k, out, p.d, accumulate, from, pieces);
                    continue;
                }
                simd.tile_fetching(a, kSlice, panel, k, edge, simd.tile_columns, false, from, pieces);
                for (int64_t i = 0; i < valid; ++i, out += p.d) {
                    const T* sum = edge + i * simd.tile_columns;
                    for (int64_t c = 0; c < width; ++c) out[c] = accumulate ? out[c] + sum[c] : sum[c];
                }
            }
        }
    }
}

// Blocks of rows by blocks of columns, at least one a thread. Every block of rows packs the whole bank and every block
// of columns packs all rows of C, so the cut is made where that copies least.
template <class T>
void run(const Problem<T>& p, int threads) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t tiles = divide_up(p.B, simd.tile_rows);
    const int64_t panels = divide_up(p.d, simd.tile_columns);
    const int64_t fewest = divide_up(tiles, kMaxTiles);
    int64_t down = 0, across = 0;
    for (int64_t a = 1; a <= std::min<int64_t>(panels, threads); ++a) {
        const int64_t each = divide_up(threads, a);  // blocks of rows it takes to give every thread one
        const int64_t d = round_up(fewest, each);    // and the same number for every thread
        if (down == 0 || d * p.d + a * p.B < down * p.d + across * p.B) down = d, across = a;
    }
    const int64_t rows = divide_up(tiles, down) * simd.tile_rows;
    const int64_t columns = divide_up(panels, across) * simd.tile_columns;
    down = divide_up(p.B, rows);
    across = divide_up(p.d, columns);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t block = 0; block < down * across; ++block) {
        const int64_t b0 = block / across * rows, c0 = block % across * columns;
        run_block(p, simd, b0, std::min(rows, p.B - b0), c0, std::min(c0 + columns, p.d));
    }
}

}  // namespace

int64_t self_expression_splits(int64_t, int64_t, int64_t) { return 1; }

Status self_expression(DType dtype, Queue queue, bool, const void* C, int64_t C_stride, int64_t n, int64_t row_offset,
                       const void* M, int64_t M_stride, int64_t N, int64_t d, const int64_t* rows, int64_t B,
                       const void* Z, int64_t Z_stride, int32_t* slot, bool zero_diagonal, int64_t, void*, void* out) {
    if (!all_within(rows, B, row_offset, row_offset + n)) {
        return {kIndexOutOfRange, "rows must lie in [row_offset, row_offset + n), the rows of C"};
    }
    if (slot) fill_slots(rows, B, slot, N);
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        if (N == 0) {
            std::fill_n(static_cast<T*>(out), B * d, T(0));
            return Status{};
        }
        const Bank<T> bank = {static_cast<const T*>(M), M_stride, static_cast<const T*>(Z), Z_stride, slot};
        run(Problem<T>{static_cast<const T*>(C), C_stride, row_offset, bank, N, d, rows, B, zero_diagonal,
                       static_cast<T*>(out)},
            static_cast<int>(queue));
        return Status{};
    });
}

Status self_expression_block(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n, int64_t row_offset,
                             int64_t N, const int64_t* rows, int64_t B, int32_t* slot, bool zero_diagonal,
                             void* block) {
    if (!all_within(rows, B, row_offset, row_offset + n)) {
        return {kIndexOutOfRange, "rows must lie in [row_offset, row_offset + n), the rows of C"};
    }
    fill_slots(rows, B, slot, N);
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(static) if (queue > 1 && B > 64)
        for (int64_t a = 0; a < B; ++a) {
            const T* row = static_cast<const T*>(C) + (rows[a] - row_offset) * C_stride;
            T* out = static_cast<T*>(block) + a * B;
            for (int64_t b = 0; b < B; ++b) {
                const bool counts = slot[rows[b]] == b && !(zero_diagonal && rows[a] == rows[b]);
                out[b] = counts ? row[rows[b]] : T(0);
            }
        }
        return Status{};
    });
}

}  // namespace dsc::cpu
