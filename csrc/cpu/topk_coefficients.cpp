// The k largest of each row by one comparison a number: what does not beat the row's k-th best so far is dropped by
// simd.next_above, the few others go to a small buffer which is cut back to the k best when it is full.
//
// Streamed from Q and K, scores come as tiles of (tile_rows samples, tile_columns queries): queries lie across the
// lanes, packed once for a group of them; samples are copied in blocks that fit the L1 cache. No score outlives its
// tile. Floor: 2·B·N·d FLOP streamed, 4·B·N bytes from a matrix. Ranked is a total order, so that neither the cut nor
// the number of threads can show in the result.
#include "topk_coefficients.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "common/dtype.h"
#include "common/ranked.h"
#include "common/threads.h"
#include "cpu/bank_panels.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kMaxPanels = 16;           // of queries in a group
constexpr int64_t kGroupBytes = 512 * 1024;  // what its panels may take of the L2 cache
constexpr int64_t kSampleBytes = 24 * 1024;  // what a block of samples may take of the L1 cache
constexpr int64_t kLine = 64;
constexpr int64_t kMaxRowGroups = 1024;                   // of numbers of a row, for its first bar
constexpr int64_t kGroupBlocks = 128, kFewestBlocks = 4;  // numbers in such a group
constexpr int64_t kListBytes = 4 * 1024 * 1024;           // what the lists of a group may take
constexpr int64_t kShortest = 2048;                       // samples in a split, at least
constexpr int64_t kFirstBytes = 256 * 1024;               // what the scores for a query's first bar may take

// Room for a row's candidates: the k best so far and as many that came after the last cut.
int64_t capacity_of(int64_t N, int64_t k) { return std::min(N, k + std::max<int64_t>(k, 24)); }

// The best k of what it is offered.
template <class T, bool kSigned>
struct Selection {
    using R = Ranked<T, kSigned>;
    using Key = typename R::Key;

    Key* kept;
    int64_t k, capacity, count = 0;

    // Whether the k-th best may have become better.
    bool offer(T value, int64_t column) {
        if (count == capacity) cut();
        kept[count++] = R::key(value, column);
        return count == capacity && cut();
    }
    bool cut() {
        if (count <= k) return false;
        std::nth_element(kept, kept + k - 1, kept + count, std::greater<Key>());
        count = k;
        return true;
    }
    T bar() const { return R::bar(kept[k - 1]); }
    void write(T* values, int64_t* indices) {
        cut();
        std::sort(kept, kept + count, std::greater<Key>());
        for (int64_t i = 0; i < k; ++i) {
            values[i] = i < count ? R::value(kept[i]) : T(0);
            indices[i] = i < count ? R::column(kept[i]) : -1;
        }
    }
};

template <class T>
constexpr T kNoBar = std::numeric_limits<T>::quiet_NaN();

// What k of the numbers exceed, if these are maxima of groups of them. Puts them into another order.
template <class T>
T bar_below(T* maxima, int64_t groups, int64_t k) {
    std::nth_element(maxima, maxima + k - 1, maxima + groups, std::greater<T>());
    const T kth = maxima[k - 1], lowest = -std::numeric_limits<T>::infinity();
    return kth == lowest ? kNoBar<T> : std::nextafter(kth, lowest);
}

// How many groups it takes for that bar to be a good one: few of the k best share a group with another.
int64_t groups_for(int64_t k) { return 3 * k; }

// ---- from a matrix

template <class T, bool kSigned>
void select_row(const T* row, int64_t N, int64_t own, const Simd<T>& simd, Selection<T, kSigned> best, T* values,
                int64_t* indices) {
    alignas(kLine) T bar[kMaxTileColumns], tail[kMaxTileColumns] = {}, maxima[kMaxRowGroups];
    const int width = simd.tile_columns;
    const int64_t wanted = best.k + (own >= 0);  // the sample's own number may be one of the maxima
    const int64_t sets = divide_up(groups_for(wanted), width), per_set = std::min(N / width / sets, kGroupBlocks);
    if (sets * width <= kMaxRowGroups && per_set >= kFewestBlocks) {
        for (int64_t i = 0; i < sets; ++i)
            simd.maxima(row + i * per_set * width, per_set, !kSigned, maxima + i * width);
        std::fill_n(bar, width, bar_below(maxima, sets * width, wanted));
    } else {
        std::fill_n(bar, width, kNoBar<T>);
    }
    const auto take = [&](const T* x, int64_t j, uint32_t found) {
        bool better = false;
        for (; found; found &= found - 1) {
            const int64_t column = j + __builtin_ctz(found);
            if (column != own) better |= best.offer(x[__builtin_ctz(found)], column);
        }
        if (better) std::fill_n(bar, simd.tile_columns, best.bar());
    };
    const int64_t whole = N / simd.tile_columns * simd.tile_columns;
    uint32_t found = 0;
    for (int64_t j = 0; (j = simd.next_above(row, j, whole, bar, !kSigned, &found)) < whole; j += simd.tile_columns) {
        take(row + j, j, found);
    }
    if (whole < N) {
        std::copy_n(row + whole, N - whole, tail);
        if (simd.next_above(tail, 0, simd.tile_columns, bar, !kSigned, &found) == 0) {
            take(tail, whole, found & ((1u << (N - whole)) - 1));
        }
    }
    best.write(values, indices);
}

template <class T, bool kSigned>
void select_rows(const T* C, int64_t C_stride, int64_t row_offset, int64_t N, const int64_t* rows, int64_t B, int64_t k,
                 bool zero_diagonal, void* scratch, T* values, int64_t* indices, int threads) {
    using Key = typename Ranked<T, kSigned>::Key;
    const Simd<T>& simd = simd_of<T>();
    const int64_t capacity = capacity_of(N, k);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16) if (threads > 1)
    for (int64_t b = 0; b < B; ++b) {
        Key* kept = static_cast<Key*>(scratch) + thread_number() * capacity;
        const int64_t row = rows ? rows[b] : row_offset + b;
        select_row(C + (row - row_offset) * C_stride, N, zero_diagonal ? row : -1, simd,
                   Selection<T, kSigned>{kept, k, capacity}, values + b * k, indices + b * k);
    }
}

// ---- from products

template <class T>
struct Products {
    Bank<T> Q, K;
    int64_t B, N, d;
    const int64_t* rows;
    int64_t row_offset, k;
    bool zero_diagonal;
    T* values;
    int64_t* indices;

    int64_t own(int64_t b) const { return !zero_diagonal ? -1 : rows ? rows[b] : row_offset + b; }
};

// How the work is cut and what scratch it takes. The threads have a say in it, because no cut shows in the result.
template <class T>
struct Plan {
    int64_t group, groups, splits, split_length;  // queries a group, groups; parts of the samples, of which length
    int64_t panels, tiles, stride, capacity;      // of a group's queries; of a block of samples; of a list
    int64_t first_groups, first_tiles;            // groups of samples for the first bars, of how many tiles
    int64_t panel_bytes, block_bytes, kept_bytes, first_bytes, maxima_bytes, merged_bytes;

    Plan(const Simd<T>& simd, int64_t B, int64_t N, int64_t d, int64_t k, int64_t threads) {
        const int64_t width = simd.tile_columns, key = 2 * sizeof(T);
        const int64_t panel = round_up(std::max<int64_t>(d, 1) * width * sizeof(T), kLine);
        const int64_t needed = divide_up(B, width), list = std::min(N, 2 * k + 24) * width * key;
        const int64_t most =
            std::clamp<int64_t>(std::min(kGroupBytes / panel, kListBytes / std::max<int64_t>(list, 1)), 1, kMaxPanels);
        const int64_t even = round_up(divide_up(needed, most), threads);  // groups, as many for every thread
        panels = std::max<int64_t>(divide_up(needed, std::max<int64_t>(even, 1)), 1);
        group = panels * width;
        groups = divide_up(B, group);
        splits = std::clamp<int64_t>(threads / std::max<int64_t>(groups, 1), 1, std::max<int64_t>(N / kShortest, 1));
        split_length = divide_up(N, splits);

        stride = d + (-d & (kLine / sizeof(T) - 1));
        if (stride % 256 == 0) {
            stride += kLine / sizeof(T);  // rows of a tile a page apart would share their cache lines
        }
        const int64_t tile = simd.tile_rows * stride * sizeof(T), scores = simd.tile_rows * width * sizeof(T);
        tiles = std::clamp<int64_t>(kSampleBytes / std::max<int64_t>(tile, 1), 1, 16);
        capacity = capacity_of(N, k);
        first_groups = groups_for(k + 1);
        first_tiles = std::min(kFirstBytes / scores, split_length / simd.tile_rows / 2) / first_groups;
        if (first_tiles == 0) first_groups = 0;

        panel_bytes = panels * panel;
        block_bytes = round_up(std::max<int64_t>(tiles * tile, 1), kLine);
        kept_bytes = round_up(group * capacity * key, kLine);
        first_bytes = first_groups * first_tiles * scores;
        maxima_bytes = round_up(first_groups * (width + 1) * sizeof(T), kLine);
        merged_bytes = splits == 1 ? 0 : round_up(B * splits * k * key, kLine);
    }
    int64_t thread_bytes() const { return panel_bytes + block_bytes + kept_bytes + first_bytes + maxima_bytes; }
};

// A group of queries against the samples [j_begin, j_end).
template <class T, bool kSigned>
struct Group {
    using Best = Selection<T, kSigned>;

    const Products<T>& p;
    const Simd<T>& simd;
    const Plan<T>& plan;
    int64_t b0, count, j_begin, j_end;
    T *panels, *block, *first, *maxima;
    Best best[kMaxPanels * kMaxTileColumns];
    alignas(kLine) T bar[kMaxPanels * kMaxTileColumns];

    Group(const Products<T>& products, const Simd<T>& table, const Plan<T>& cut, int64_t group, int64_t split,
          unsigned char* scratch)
        : p(products),
          simd(table),
          plan(cut),
          b0(group * plan.group),
          count(std::min(plan.group, p.B - b0)),
          j_begin(std::min(split * plan.split_length, p.N)),
          j_end(std::min(j_begin + plan.split_length, p.N)) {
        const auto take = [&](int64_t bytes) {
            scratch += bytes;
            return scratch - bytes;
        };
        panels = reinterpret_cast<T*>(take(plan.panel_bytes));
        block = reinterpret_cast<T*>(take(plan.block_bytes));
        auto* kept = reinterpret_cast<typename Best::Key*>(take(plan.kept_bytes));
        first = reinterpret_cast<T*>(take(plan.first_bytes));
        maxima = reinterpret_cast<T*>(take(plan.maxima_bytes));
        for (int64_t i = 0; i < count; ++i) best[i] = {kept + i * plan.capacity, p.k, plan.capacity};
        std::fill_n(bar, count, kNoBar<T>);
    }

    const T* panel(int64_t i) const { return panels + plan.panel_bytes / plan.panels / sizeof(T) * i; }

    // Offers what passes the bar among scores (samples, tile_columns) of samples from j on with the queries of panel i.
    void offer(const T* scores, int64_t j, int64_t samples, int64_t i) {
        const int width = simd.tile_columns;
        const int64_t q0 = i * width, valid = std::min<int64_t>(width, count - q0), end = samples * width;
        const uint32_t lanes = valid == 32 ? ~0u : (1u << valid) - 1;
        uint32_t found = 0;
        for (int64_t at = 0; (at = simd.next_above(scores, at, end, bar + q0, !kSigned, &found)) < end; at += width) {
            const int64_t sample = j + at / width;
            for (found &= lanes; found; found &= found - 1) {
                const int lane = __builtin_ctz(found);
                if (p.own(b0 + q0 + lane) == sample) continue;
                if (best[q0 + lane].offer(scores[at + lane], sample)) bar[q0 + lane] = best[q0 + lane].bar();
            }
        }
    }

    // The first samples: bars from their maxima, then the samples themselves. Returns where they end.
    int64_t begin(int64_t i) {
        const int width = simd.tile_columns;
        const int64_t tile = simd.tile_rows * width, rows = plan.first_tiles * simd.tile_rows;
        for (int64_t g = 0; g < plan.first_groups; ++g) {
            T* scores = first + g * plan.first_tiles * tile;
            for (int64_t t = 0; t < plan.first_tiles; ++t) {
                simd.tile(p.K.row(j_begin + g * rows + t * simd.tile_rows), p.K.M_stride, panel(i), p.d,
                          scores + t * tile, width, false);
            }
            simd.maxima(scores, rows, !kSigned, maxima + g * width);
        }
        T* own = maxima + plan.first_groups * width;
        for (int64_t q = i * width; q < std::min(count, (i + 1) * width); ++q) {
            for (int64_t g = 0; g < plan.first_groups; ++g) own[g] = maxima[g * width + q - i * width];
            bar[q] = bar_below(own, plan.first_groups, p.k + 1);
        }
        offer(first, j_begin, plan.first_groups * rows, i);
        return j_begin + plan.first_groups * rows;
    }

    // Samples [j, end) on their way to the L2 cache while others are multiplied.
    void prefetch(int64_t j, int64_t end) const {
        for (; j < end; ++j) {
            for (int64_t f = 0; f < p.d; f += kLine / int64_t(sizeof(T))) __builtin_prefetch(p.K.row(j) + f, 0, 2);
        }
    }

    void run() {
        const int width = simd.tile_columns;
        alignas(kLine) T scores[kMaxTileRows * kMaxTileColumns];
        const int64_t used = divide_up(count, width), step = plan.tiles * simd.tile_rows;
        int64_t j0 = j_begin;
        for (int64_t i = 0; i < used; ++i) {
            const int valid = static_cast<int>(std::min<int64_t>(width, count - i * width));
            pack_samples(p.Q, b0 + i * width, valid, 0, p.d, simd, const_cast<T*>(panel(i)));
            if (plan.first_groups && j_end - j_begin == plan.split_length) j0 = begin(i);
        }
        for (; j0 < j_end; j0 += step) {
            const int64_t samples = std::min(step, j_end - j0);
            for (int64_t r = 0; r < samples; ++r) std::copy_n(p.K.row(j0 + r), p.d, block + r * plan.stride);
            for (int64_t i = 0; i < used; ++i) {
                prefetch(j0 + step + i * step / used, std::min(j0 + step + (i + 1) * step / used, j_end));
                for (int64_t r = 0; r < samples; r += simd.tile_rows) {
                    simd.tile(block + r * plan.stride, plan.stride, panel(i), p.d, scores, width, false);
                    offer(scores, j0 + r, std::min<int64_t>(simd.tile_rows, samples - r), i);
                }
            }
        }
    }

    void write() {
        for (int64_t i = 0; i < count; ++i) best[i].write(p.values + (b0 + i) * p.k, p.indices + (b0 + i) * p.k);
    }
    // Into (B, splits, k), zeros behind what there is.
    void write(typename Best::Key* merged, int64_t split) {
        for (int64_t i = 0; i < count; ++i) {
            best[i].cut();
            auto* to = merged + ((b0 + i) * plan.splits + split) * p.k;
            std::fill(std::copy_n(best[i].kept, best[i].count, to), to + p.k, 0);
        }
    }
};

template <class T, bool kSigned>
void run_products(const Products<T>& p, unsigned char* scratch, int threads) {
    using Best = Selection<T, kSigned>;
    const Simd<T>& simd = simd_of<T>();
    const Plan<T> plan(simd, p.B, p.N, p.d, p.k, threads);
    auto* merged = reinterpret_cast<typename Best::Key*>(scratch + threads * plan.thread_bytes());
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t task = 0; task < plan.groups * plan.splits; ++task) {
        const int64_t split = task % plan.splits;
        Group<T, kSigned> group(p, simd, plan, task / plan.splits, split,
                                scratch + thread_number() * plan.thread_bytes());
        group.run();
        plan.splits == 1 ? group.write() : group.write(merged, split);
    }
    if (plan.splits == 1) return;
    const int64_t length = plan.splits * p.k;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < p.B; ++b) {
        auto* list = merged + b * length;
        const int64_t count = std::remove(list, list + length, typename Best::Key(0)) - list;
        Best{list, p.k, length, count}.write(p.values + b * p.k, p.indices + b * p.k);
    }
}

// Calls visit(type's zero, std::true_type or std::false_type).
template <class Visit>
Status with_kind(DType dtype, bool signed_, Visit&& visit) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        return signed_ ? visit(zero, std::true_type{}) : visit(zero, std::false_type{});
    });
}

}  // namespace

int64_t topk_coefficients_most() { return std::numeric_limits<int64_t>::max(); }

int64_t topk_coefficients_scratch(DType dtype, Queue queue, int64_t, int64_t N, int64_t k) {
    return queue * capacity_of(N, k) * (dtype == DType::f64 ? 16 : 8);
}

int64_t topk_inner_products_scratch(DType dtype, Queue queue, int64_t B, int64_t N, int64_t d, int64_t k) {
    return with_computed_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Plan<T> plan(simd_of<T>(), B, N, d, k, queue);
        return queue * plan.thread_bytes() + plan.merged_bytes;
    });
}

int64_t topk_inner_products_shared(DType, int64_t) { return 0; }

Status topk_coefficients(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n, int64_t row_offset,
                         int64_t N, const int64_t* rows, int64_t B, int64_t k, bool signed_, bool zero_diagonal,
                         void* scratch, void* values, int64_t* indices) {
    if (rows && !all_within(rows, B, row_offset, row_offset + n)) {
        return {kIndexOutOfRange, "rows must lie in [row_offset, row_offset + n), the rows of C"};
    }
    return with_kind(dtype, signed_, [&](auto zero, auto is_signed) {
        using T = decltype(zero);
        select_rows<T, is_signed>(static_cast<const T*>(C), C_stride, row_offset, N, rows, B, k, zero_diagonal, scratch,
                                  static_cast<T*>(values), indices, static_cast<int>(queue));
        return Status{};
    });
}

Status topk_inner_products(DType dtype, Queue queue, bool, const void* Q, int64_t Q_stride, int64_t B, const void* K,
                           int64_t K_stride, int64_t N, int64_t d, const int64_t* rows, int64_t row_offset, int64_t k,
                           bool signed_, bool zero_diagonal, void* scratch, void* values, int64_t* indices) {
    if (rows && zero_diagonal && !all_within(rows, B, 0, N)) {
        return {kIndexOutOfRange, "rows must lie in [0, N), the samples of K"};
    }
    return with_kind(dtype, signed_, [&](auto zero, auto is_signed) {
        using T = decltype(zero);
        const Products<T> p{{static_cast<const T*>(Q), Q_stride},
                            {static_cast<const T*>(K), K_stride},
                            B,
                            N,
                            d,
                            rows,
                            row_offset,
                            k,
                            zero_diagonal,
                            static_cast<T*>(values),
                            indices};
        run_products<T, is_signed>(p, static_cast<unsigned char*>(scratch), static_cast<int>(queue));
        return Status{};
    });
}

}  // namespace dsc::cpu
