// The step of the batch's rows of C: a tile of dC = G M'ᵀ stays in the first-level cache from its product to its use.
//
// Work is cut into items of up to 128 tiles of rows by a run of 512 columns. An item packs its part of the bank once
// (256 KB, in the second-level cache), then goes through tiles of 12 rows: multiplies a block of the run, while the
// block's C and moments are fetched, and steps the block of each row. Every element of C comes from one product over
// all features, so results depend on no partition.
//
// Floor: 24·B·N bytes (float32) and 2·B·N·d FLOP, side by side. Two Zen 4 cores, B = N = 8192, d = 32 / 64 / 128: bytes
// 34 ms at the 48 GB/s of a copy, product 22 / 43 / 86 ms at 200 GFLOP/s, Adam's arithmetic 9 ms beside it.
//   this file                                                                   43 / 60 / 100 ms
//   a library's product in blocks of 1024 rows, then fused Adam on the block    66 / 86 / 133 ms
// What counted on the way (one core, 2048 rows, d = 32 / 128):
//   tile, then rows by RowAdam's loop                                  37 / 73 ms    memory is waited for
//   36 runs of C and moments fetched during the product                31 / 65 ms    hardware does not foresee them
//   one division instead of two an element                             26 / 61 ms
//   powers of beta once for rows at the same count, not once a run     26 / 58 ms
// Where a row is a power of two long and pages lie one behind another, the 36 runs of a tile share a quarter of the
// cache's sets, more than its 8 ways: fetched a whole tile ahead they were gone before use (220 ms instead of 105 at
// d = 128). Hence blocks, as short as leaves the product time to cover the fetching.
#include "self_expression_step.h"

#include <algorithm>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "cpu/bank_panels.h"
#include "cpu/row_step.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kRunColumns = 512;         // of C that are stepped together: 2 KB of each array
constexpr int64_t kBlockColumns = 128;       // at least, of a run: fetched, multiplied and stepped in turn
constexpr int64_t kBlockProducts = 1 << 14;  // at least, for each row of a block: what takes as long as its fetching
constexpr int64_t kPanelBytes = 256 << 10;   // of the bank, packed: what the second-level cache holds beside the rest
constexpr int64_t kMostTiles = 128, kFewestTiles = 4;  // of rows that share the panels packed for a run

int64_t thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Where the scratch of a thread begins, in order: panels of the bank, a tile of G, a tile of gradient.
template <class T>
struct Plan {
    int64_t B, N, d;
    int64_t width, block;  // columns of a run, and of its blocks
    int64_t G_stride;
    int64_t panels_bytes, G_bytes, grad_bytes;

    Plan(int64_t B_, int64_t N_, int64_t d_) : B(B_), N(N_), d(d_) {
        const Simd<T>& simd = simd_of<T>();
        const int64_t panel_bytes = std::max<int64_t>(1, d * simd.tile_columns * sizeof(T));
        const int64_t panels = std::clamp<int64_t>(kPanelBytes / panel_bytes, 1, kRunColumns / simd.tile_columns);
        width = panels * simd.tile_columns;
        block =
            std::max(kBlockColumns, kBlockProducts / std::max<int64_t>(1, d) / simd.tile_columns * simd.tile_columns);
        G_stride = (d + 15) / 16 * 16 + 16;  // not a power of two: rows would fall on the same lines of the cache
        panels_bytes = aligned(panels * panel_bytes);
        G_bytes = aligned(simd.tile_rows * G_stride * sizeof(T));
        grad_bytes = aligned(simd.tile_rows * width * sizeof(T));
    }
    int64_t positions_bytes() const { return aligned(B * sizeof(int64_t)); }
    int64_t thread_bytes() const { return panels_bytes + G_bytes + grad_bytes; }
};

template <class T>
struct Problem {
    RowStepper<T> stepper;
    int64_t row_offset;
    const T* G;
    int64_t G_stride;
    const int64_t* rows;
    int64_t B;
    Bank<T> bank;
    int64_t N, d;
    bool zero_diagonal;
    T grad_scale;
    const int64_t* positions;  // of the rows to step in the batch, the last of duplicates
    int64_t count;             // of positions
    bool distinct;

    int64_t row(int64_t b) const { return rows ? rows[b] : row_offset + b; }
};

// Gradients of Ẑ of a tile's rows side by side, duplicates added in the order of the batch, zero rows up to a whole
// tile.
template <class T>
void pack_gradients(const Problem<T>& p, int64_t first, int64_t count, int tile_rows, int64_t stride, T* A) {
    for (int64_t i = 0; i < tile_rows; ++i, A += stride) {
        if (i >= count) {
            std::fill_n(A, p.d, T(0));
            continue;
        }
        const int64_t last = p.positions[first + i];
        if (p.distinct) {
            std::memcpy(A, p.G + last * p.G_stride, p.d * sizeof(T));
        } else {
            std::fill_n(A, p.d, T(0));
            for (int64_t b = 0; b <= last; ++b) {
                if (p.rows[b] != p.rows[last]) continue;
                for (int64_t f = 0; f < p.d; ++f) A[f] += p.G[b * p.G_stride + f];
            }
        }
        if (p.grad_scale != 1) {
            for (int64_t f = 0; f < p.d; ++f) A[f] /= p.grad_scale;
        }
    }
}

// Where the rows of a tile and their moments lie: fetched while their gradient is computed, since hardware does not
// foresee 36 short runs.
template <class T>
struct Ahead {
    const char* from[3 * kMaxTileRows];
    int count = 0, arrays;
    int64_t moment_bytes;

    Ahead(const Problem<T>& p, int64_t first, int64_t rows, int64_t j0)
        : arrays(p.stepper.rates.rule == Rule::proximal ? 1 : 3),
          moment_bytes(p.stepper.moments == DType::bf16 ? 2 : sizeof(T)) {
        for (int64_t i = first; i < first + rows; ++i) {
            const int64_t at = (p.row(p.positions[i]) - p.row_offset) * p.N + j0;
            from[count++] = reinterpret_cast<const char*>(p.stepper.C + at);
            if (p.stepper.rates.rule == Rule::proximal) continue;
            from[count++] = static_cast<const char*>(p.stepper.exp_avg) + at * moment_bytes;
            from[count++] = static_cast<const char*>(p.stepper.exp_avg_sq) + at * moment_bytes;
        }
    }
    void advance(int64_t columns) {
        for (int i = 0; i < count; ++i) from[i] += columns * (i % arrays == 0 ? sizeof(T) : moment_bytes);
    }
};

template <class T>
void run_item(const Problem<T>& p, const Plan<T>& plan, int64_t first, int64_t count, int64_t j0, char* scratch) {
    const Simd<T>& simd = simd_of<T>();
    T* panels = reinterpret_cast<T*>(scratch);
    T* A = reinterpret_cast<T*>(scratch + plan.panels_bytes);
    T* grad = reinterpret_cast<T*>(scratch + plan.panels_bytes + plan.G_bytes);
    const int64_t width = std::min(plan.width, p.N - j0);
    const int64_t panel = p.d * simd.tile_columns;
    for (int64_t j = 0; j < width; j += simd.tile_columns) {
        const int samples = static_cast<int>(std::min<int64_t>(simd.tile_columns, width - j));
        pack_samples(p.bank, j0 + j, samples, 0, p.d, simd, panels + j / simd.tile_columns * panel);
    }
    typename RowStepper<T>::Next next_step;
    for (int64_t t = first; t < first + count; t += simd.tile_rows) {
        const int64_t valid = std::min<int64_t>(simd.tile_rows, first + count - t);
        pack_gradients(p, t, valid, simd.tile_rows, plan.G_stride, A);
        Ahead ahead(p, t, valid, j0);
        for (int64_t k = 0; k < width; k += plan.block) {
            const int64_t end = std::min(k + plan.block, width);
            for (int64_t j = k; j < end; j += simd.tile_columns, ahead.advance(simd.tile_columns)) {
                simd.tile_fetching(A, plan.G_stride, panels + j / simd.tile_columns * panel, p.d, grad + j, plan.width,
                                   false, ahead.from, ahead.count);
            }
            for (int64_t i = 0; i < valid; ++i) {
                const int64_t row = p.row(p.positions[t + i]);
                T* g = grad + i * plan.width;
                if (p.zero_diagonal && row >= j0 + k && row < j0 + end) g[row - j0] = T(0);
                p.stepper.prepare(next_step, row - p.row_offset, row);
                p.stepper(simd, row - p.row_offset, j0 + k, end - k, g + k, next_step.constants);
            }
        }
    }
}

template <class T>
void run(const Problem<T>& p, int threads, char* scratch) {
    const Plan<T> plan(p.B, p.N, p.d);
    const int64_t tile_rows = simd_of<T>().tile_rows;
    const int64_t tiles = (p.count + tile_rows - 1) / tile_rows, runs = (p.N + plan.width - 1) / plan.width;
    // As few chunks of rows as may be, but some items for every thread.
    const int64_t wanted = (4 * threads + runs - 1) / runs;
    const int64_t chunk = std::clamp((tiles + wanted - 1) / wanted, kFewestTiles, kMostTiles) * tile_rows;
    const int64_t chunks = (p.count + chunk - 1) / chunk;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        char* own = scratch + thread_number() * plan.thread_bytes();
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < chunks * runs; ++item) {
            const int64_t first = item / runs * chunk;
            run_item(p, plan, first, std::min(chunk, p.count - first), item % runs * plan.width, own);
        }
    }
    for (int64_t i = 0; i < p.count; ++i) p.stepper.count(p.row(p.positions[i]) - p.row_offset);
}

}  // namespace

int64_t self_expression_step_scratch(DType dtype, Queue queue, int64_t B, int64_t N, int64_t d) {
    int64_t bytes = 0;
    with_real_type(dtype, [&](auto zero) {
        const Plan<decltype(zero)> plan(B, N, d);
        bytes = plan.positions_bytes() + queue * plan.thread_bytes();
        return Status{};
    });
    return bytes;
}

Status self_expression_step_(DType dtype, Queue queue, bool, void* C, int64_t n, int64_t row_offset, DType moments,
                             void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G, int64_t G_stride,
                             const int64_t* rows, int64_t B, const void* M, int64_t M_stride, int64_t N, int64_t d,
                             const void* Z, int64_t Z_stride, int32_t* slot, Rule rule, double lr, double beta1,
                             double beta2, double eps, double weight_decay, double l1, bool zero_diagonal,
                             const float* grad_scale, const float* found_inf, void* scratch) {
    if (rows && !all_within(rows, B, row_offset, row_offset + n)) {
        return {kIndexOutOfRange, "rows must lie in [row_offset, row_offset + n), the rows of C"};
    }
    if (found_inf && *found_inf != 0) return {};
    int64_t* positions = static_cast<int64_t*>(scratch);
    int64_t count = 0;
    if (rows) {
        std::fill_n(slot, std::max(N, row_offset + n), -1);
        for (int64_t b = 0; b < B; ++b) slot[rows[b]] = static_cast<int32_t>(b);
    }
    for (int64_t b = 0; b < B; ++b) {
        if (!rows || slot[rows[b]] == b) positions[count++] = b;
    }
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Rates rates = {rule, lr, beta1, beta2, eps, weight_decay, l1};
        const RowStepper<T> stepper = {static_cast<T*>(C), N, moments, exp_avg, exp_avg_sq, step, rates};
        const Bank<T> bank = {static_cast<const T*>(M), M_stride, static_cast<const T*>(Z), Z_stride,
                              Z ? slot : nullptr};
        run(Problem<T>{stepper, row_offset, static_cast<const T*>(G), G_stride, rows, B, bank, N, d, zero_diagonal,
                       grad_scale ? T(*grad_scale) : T(1), positions, count, count == B},
            static_cast<int>(queue), static_cast<char*>(scratch) + Plan<T>(B, N, d).positions_bytes());
        return Status{};
    });
}

}  // namespace dsc::cpu
