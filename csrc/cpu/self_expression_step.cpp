// The step of the batch's rows of C: a tile of dC = G M'ᵀ stays in the first-level cache from its product to its use.
//
// Work is cut into items of some tiles of 12 rows by a run of columns, up to 32 KB of each array. An item packs its
// part of the bank once, then goes through its tiles and each tile's blocks of up to 512 columns: multiplies the block
// while its C and moments are fetched, then steps its rows. Every element of C comes from one product over all
// features, so results depend on no partition.
//
// Floor: 24·B·N bytes (float32) and 2·B·N·d FLOP, side by side. Two Zen 4 cores, B = N = 8192, d = 32 / 128 / 512:
// bytes 34 ms at the 48 GB/s of a copy, product 22 / 86 / 344 ms at 200 GFLOP/s, Adam's arithmetic 9 ms beside it.
//   this file                                                                   41 / 101 / 342 ms
//   a library's product in blocks of 1024 rows, then fused Adam on the block    67 / 145 / 444 ms
// What counted on the way (one core, 2048 rows, d = 32 / 128):
//   tile, then rows by RowAdam's loop                                  37 / 73 ms    memory is waited for
//   36 runs of C and moments fetched during the product                31 / 65 ms    hardware does not foresee them
//   one division instead of two an element                             26 / 61 ms
//   powers of beta once for rows at the same count, not once a run     26 / 58 ms
// It matters where the pages lie: runs of 2 KB, with the packed bank in the second-level cache, took 42 / 104 / 356 ms
// with one placement and 120 / 138 / 510 ms with another; whole rows are alike on both, although the packed bank then
// comes from the third-level cache. And lines must not be fetched long before their use: where a row is a power of two
// long and pages are contiguous, those of a tile share a quarter of the second-level cache's sets (220 ms instead of
// 105 at d = 128 with a whole tile of 512 columns fetched ahead).
#include "self_expression_step.h"

#include <algorithm>
#include <cstring>

#include "common/dtype.h"
#include "common/threads.h"
#include "cpu/bank_panels.h"
#include "cpu/row_stepper.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kRunColumns = 8192;      // at most: 32 KB of each array
constexpr int64_t kPanelBytes = 4 << 20;   // at most, of the bank, packed for a run
constexpr int64_t kFewestTiles = 16;       // of rows that share the panels packed for a run
constexpr int64_t kLeastRunColumns = 512;  // where the batch has fewer, and the columns are shared out instead
constexpr int64_t kItemsPerThread = 4;
constexpr int64_t kBlockColumns = 512;       // at most, of a run: fetched, multiplied and stepped in turn
constexpr int64_t kBlockProducts = 1 << 14;  // for each row of a block: what takes as long as its fetching

constexpr int64_t kLine = 64;

// How the work is cut, and where the scratch of a thread begins, in order: panels of the bank, a tile of G, a block of
// gradient.
template <class T>
struct Plan {
    int64_t B, N, d;
    int64_t width, block;  // columns of a run, and of its blocks
    int64_t chunks;        // of the batch's tiles of rows
    int64_t G_stride;
    int64_t panels_bytes, G_bytes, grad_bytes;

    Plan(int64_t B_, int64_t N_, int64_t d_, int64_t threads) : B(B_), N(N_), d(d_) {
        const Simd<T>& simd = simd_of<T>();
        const int64_t tiles = divide_up(B, simd.tile_rows);
        const int64_t most_chunks = std::max<int64_t>(1, tiles / kFewestTiles), items = kItemsPerThread * threads;
        const int64_t fewest_runs = divide_up(items, most_chunks);
        const int64_t panel_bytes = std::max<int64_t>(1, d * simd.tile_columns * sizeof(T));
        const int64_t most = std::min(kRunColumns / simd.tile_columns, std::max<int64_t>(1, kPanelBytes / panel_bytes));
        const int64_t least = std::min(kLeastRunColumns / simd.tile_columns, most);
        const int64_t all_panels = divide_up(N, simd.tile_columns);
        const int64_t panels = std::clamp(divide_up(all_panels, fewest_runs), least, most);
        width = panels * simd.tile_columns;
        block = std::clamp(kBlockProducts / std::max<int64_t>(1, d), kBlockColumns / 4, kBlockColumns);
        block = block / simd.tile_columns * simd.tile_columns;
        const int64_t runs = divide_up(all_panels, panels);
        chunks = std::min(most_chunks, divide_up(items, runs));
        G_stride = round_up(d, 16) + 16;  // not a power of two: rows would fall on the same lines of the cache
        panels_bytes = round_up(panels * panel_bytes, kLine);
        G_bytes = round_up(simd.tile_rows * G_stride * sizeof(T), kLine);
        grad_bytes = round_up(simd.tile_rows * block * sizeof(T), kLine);
    }
    int64_t positions_bytes() const { return round_up(B * sizeof(int64_t), kLine); }
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

// A block of a tile's rows of C and their moments, to be fetched while its gradient is computed, since hardware does
// not foresee 36 short runs. Each run as a whole, in the order of the steps: memory is slower at pieces of many runs in
// turn.
template <class T>
class Ahead {
  public:
    Ahead(const Problem<T>& p, int64_t first, int64_t rows, int64_t j0, int64_t columns) {
        const int64_t moment_bytes = p.stepper.moments == DType::bf16 ? 2 : sizeof(T);
        for (int64_t i = first; i < first + rows; ++i) {
            const int64_t at = (p.row(p.positions[i]) - p.row_offset) * p.N + j0;
            add(p.stepper.C + at, columns * sizeof(T));
            if (p.stepper.rates.rule == Rule::proximal) continue;
            add(static_cast<const char*>(p.stepper.exp_avg) + at * moment_bytes, columns * moment_bytes);
            add(static_cast<const char*>(p.stepper.exp_avg_sq) + at * moment_bytes, columns * moment_bytes);
        }
    }
    // Share number i of n.
    const char* const* begin(int64_t i, int64_t n) const { return pieces_ + count_ * i / n; }
    int size(int64_t i, int64_t n) const { return static_cast<int>(count_ * (i + 1) / n - count_ * i / n); }

  private:
    void add(const void* run, int64_t bytes) {
        for (int64_t at = 0; at < bytes; at += kFetched) pieces_[count_++] = static_cast<const char*>(run) + at;
    }
    const char* pieces_[3 * kMaxTileRows * kBlockColumns * sizeof(T) / kFetched];
    int64_t count_ = 0;
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
        for (int64_t k = 0; k < width; k += plan.block) {
            const int64_t end = std::min(k + plan.block, width);
            const Ahead<T> ahead(p, t, valid, j0 + k, end - k);
            const int64_t products = divide_up(end - k, simd.tile_columns);
            for (int64_t i = 0; i < products; ++i) {
                const int64_t j = k + i * simd.tile_columns;
                simd.tile_fetching(A, plan.G_stride, panels + j / simd.tile_columns * panel, p.d, grad + j - k,
                                   plan.block, false, ahead.begin(i, products), ahead.size(i, products));
            }
            for (int64_t i = 0; i < valid; ++i) {
                const int64_t row = p.row(p.positions[t + i]);
                T* g = grad + i * plan.block;
                if (p.zero_diagonal && row >= j0 + k && row < j0 + end) g[row - j0 - k] = T(0);
                p.stepper.prepare(next_step, row - p.row_offset, row);
                p.stepper(simd, row - p.row_offset, j0 + k, end - k, g, next_step.constants);
            }
        }
    }
}

template <class T>
void run(const Problem<T>& p, const Plan<T>& plan, int threads, char* scratch) {
    const int64_t tile_rows = simd_of<T>().tile_rows;
    const int64_t tiles = divide_up(p.count, tile_rows), runs = divide_up(p.N, plan.width);
    const int64_t chunk = divide_up(tiles, plan.chunks) * tile_rows;
    const int64_t chunks = divide_up(p.count, chunk);
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
        const Plan<decltype(zero)> plan(B, N, d, queue);
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
    if (rows) fill_slots(rows, B, slot, std::max(N, row_offset + n));
    for (int64_t b = 0; b < B; ++b) {
        if (!rows || slot[rows[b]] == b) positions[count++] = b;
    }
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Rates rates = {rule, lr, beta1, beta2, eps, weight_decay, l1};
        const RowStepper<T> stepper = {static_cast<T*>(C), N, moments, exp_avg, exp_avg_sq, step, rates};
        const Bank<T> bank = {static_cast<const T*>(M), M_stride, static_cast<const T*>(Z), Z_stride,
                              Z ? slot : nullptr};
        const Plan<T> plan(B, N, d, queue);
        run(Problem<T>{stepper, row_offset, static_cast<const T*>(G), G_stride, rows, B, bank, N, d, zero_diagonal,
                       grad_scale ? T(*grad_scale) : T(1), positions, count, count == B},
            plan, static_cast<int>(queue), static_cast<char*>(scratch) + plan.positions_bytes());
        return Status{};
    });
}

}  // namespace dsc::cpu
