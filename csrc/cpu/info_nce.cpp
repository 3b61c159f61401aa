// InfoNCE against a memory bank: two products with an online softmax between them, in blocks that stay in the cache.
//
// Anchors, scaled by log2(e) / τ, are packed once into panels, one anchor a column. For a slice of samples the scores
// are slice × panel, Sᵀ = M Aᵀ: the bank is the left side and is read where it lies, and the softmax of each anchor
// runs down a lane of the vectors. The weights are at once the panel of the second product, Eᵀ += Mᵀ P, whose left
// side is the same slice of the bank, still in the L2 cache, read by columns. So nothing is copied but the anchors.
//
// Floor: 2·B·N·d FLOP for the loss and as much again for the expected negatives; B·N exponentials; 4·N·d bytes of bank
// per group of panels. Units of work are groups of panels × splits of the samples; how many is a function of the
// shape alone, and splits are merged in order, so the threads do not matter.
#include "info_nce.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/dtype.h"
#include "common/info_nce_problem.h"
#include "common/threads.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kSamples = 144;  // a slice: whole tiles on every instruction set; its weights fit the L1 cache
constexpr int64_t kGroupBytes =
    1 << 18;                         // anchors and sums of a group of panels, which share the L2 cache with a slice
constexpr int64_t kUnits = 64;       // enough to keep many cores busy to the end
constexpr int64_t kLeastSlices = 8;  // in a split: below, its sums cost more than it is worth

// How the work is cut up, and where the pieces lie in the scratch.
template <class T>
struct Plan {
    int64_t columns, panels, slices;       // anchors in a panel; panels; slices of the samples
    int64_t per_group, groups;             // panels in a group
    int64_t per_split, splits;             // slices in a split
    int64_t anchors, top, sum, negatives;  // offsets in the scratch: (panels, d, columns), (splits, panels, columns)
    int64_t begins, excluded, bytes;       // twice, (splits, panels, d, columns); (B, slices + 1), (B, q + 1)

    Plan(int64_t B, int64_t N, int64_t d, int64_t q, bool expected) {
        columns = simd_of<T>().tile_columns;
        panels = divide_up(B, columns);
        slices = divide_up(N, kSamples);
        // The sums of a split take as much memory as 2 d / N of the scores would: at most a quarter of them.
        const int64_t most = std::max<int64_t>(1, std::min(slices / kLeastSlices, N / (8 * std::max<int64_t>(d, 1))));
        const int64_t fit = std::max<int64_t>(1, kGroupBytes / (2 * columns * std::max<int64_t>(d, 1) * sizeof(T)));
        const int64_t wanted = divide_up(kUnits, most);
        per_group = std::clamp<int64_t>(panels / wanted, 1, fit);
        groups = divide_up(panels, per_group);
        per_split =
            divide_up(std::max<int64_t>(slices, 1), std::min(most, divide_up(kUnits, std::max<int64_t>(groups, 1))));
        splits = divide_up(std::max<int64_t>(slices, 1), per_split);
        int64_t end = 0;
        const auto take = [&](int64_t size) {
            const int64_t begin = end;
            end += round_up(size, 64);
            return begin;
        };
        const int64_t lanes = panels * columns * sizeof(T);
        anchors = take(lanes * d);
        top = take(lanes * splits);
        sum = take(lanes * splits);
        negatives = take(expected ? lanes * splits * d : 0);
        begins = take(B * (slices + 1) * sizeof(int32_t));
        excluded = take(B * (q + 1));
        bytes = end;
    }
};

template <class T>
class Run {
  public:
    Run(const InfoNceProblem<T>& p, const T* bank, int64_t bank_stride, void* scratch, int threads)
        : p(p),
          bank(bank),
          bank_stride(bank_stride),
          plan(p.B, p.N, p.d, p.q, p.expected),
          at(static_cast<char*>(scratch)),
          threads(threads) {}

    bool operator()() {
        bool within = true;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
#pragma omp for schedule(static) reduction(&& : within)
            for (int64_t panel = 0; panel < plan.panels; ++panel) within = prepare(panel) && within;
            if (within) {
#pragma omp for schedule(dynamic)
                for (int64_t unit = 0; unit < plan.groups * plan.splits; ++unit) {
                    run_unit(unit % plan.groups, unit / plan.groups);
                }
#pragma omp for schedule(static)
                for (int64_t panel = 0; panel < plan.panels; ++panel) merge(panel);
            }
        }
        return within;
    }

  private:
    const InfoNceProblem<T> p;
    const T* const bank;
    const int64_t bank_stride;
    const Plan<T> plan;
    char* const at;
    const int threads;
    const Simd<T>& simd = simd_of<T>();
    static constexpr T kInfinity = std::numeric_limits<T>::infinity();

    T* anchors(int64_t panel) const { return reinterpret_cast<T*>(at + plan.anchors) + panel * p.d * plan.columns; }
    T* lanes(int64_t offset, int64_t split, int64_t panel) const {
        return reinterpret_cast<T*>(at + offset) + (split * plan.panels + panel) * plan.columns;
    }
    T* negatives(int64_t split, int64_t panel) const {
        return reinterpret_cast<T*>(at + plan.negatives) + (split * plan.panels + panel) * p.d * plan.columns;
    }
    int32_t* begins(int64_t b) const { return reinterpret_cast<int32_t*>(at + plan.begins) + b * (plan.slices + 1); }
    uint8_t* excluded(int64_t b) const { return reinterpret_cast<uint8_t*>(at + plan.excluded) + b * (p.q + 1); }

    // What anchor b leaves out, its own sample and its mask, sorted by slice: entries begins[s] .. begins[s + 1] are
    // positions within slice s. False if a column lies outside the bank.
    bool file_excluded(int64_t b) const {
        static_assert(kSamples <= 256);
        int32_t* begin = begins(b);
        uint8_t* entry = excluded(b);
        std::fill_n(begin, plan.slices + 1, 0);
        const int64_t* mask = p.mask + b * p.q;
        const int64_t own = p.rows[b];
        if (own < 0 || own >= p.N) return false;
        ++begin[own / kSamples];
        for (int64_t i = 0; i < p.q; ++i) {
            if (mask[i] >= p.N) return false;
            if (mask[i] >= 0) ++begin[mask[i] / kSamples];
        }
        for (int64_t s = 1; s <= plan.slices; ++s) begin[s] += begin[s - 1];
        entry[--begin[own / kSamples]] = own % kSamples;
        for (int64_t i = 0; i < p.q; ++i) {
            if (mask[i] >= 0) entry[--begin[mask[i] / kSamples]] = mask[i] % kSamples;
        }
        return true;
    }

    // Packs a panel's anchors and files what they leave out. False if a column lies outside the bank.
    bool prepare(int64_t panel) const {
        const T* of_lane[kMaxTileColumns];
        const int64_t b0 = panel * plan.columns, count = std::min(plan.columns, p.B - b0);
        for (int64_t i = 0; i < count; ++i) of_lane[i] = p.anchor + (b0 + i) * p.anchor_stride;
        T* packed = anchors(panel);
        simd.transpose(of_lane, static_cast<int>(count), p.d, packed);
        const T scale = static_cast<T>(1.4426950408889634 / p.temperature);
        for (int64_t i = 0; i < p.d * plan.columns; ++i) packed[i] *= scale;
        bool within = true;
        for (int64_t i = 0; i < count; ++i) within = file_excluded(b0 + i) && within;
        return within;
    }

    void run_unit(int64_t group, int64_t split) const {
        alignas(64) T weights[kSamples * kMaxTileColumns];
        alignas(64) T factor[kMaxTileColumns];
        const int64_t begin = group * plan.per_group, end = std::min(begin + plan.per_group, plan.panels);
        for (int64_t panel = begin; panel < end; ++panel) {
            std::fill_n(lanes(plan.top, split, panel), plan.columns, -kInfinity);
            std::fill_n(lanes(plan.sum, split, panel), plan.columns, T(0));
        }
        const int64_t first = split * plan.per_split, last = std::min(first + plan.per_split, plan.slices);
        for (int64_t slice = first; slice < last; ++slice) {
            const int64_t k = std::min(kSamples, p.N - slice * kSamples);
            const T* samples = bank + slice * kSamples * bank_stride;
            for (int64_t panel = begin; panel < end; ++panel) {
                for (int64_t r = 0; r < k; r += simd.tile_rows) {
                    simd.tile_rows_in_place(count(k - r), samples + r * bank_stride, bank_stride, anchors(panel), p.d,
                                            weights + r * plan.columns);
                }
                exclude(slice, panel, weights);
                simd.softmax(weights, k, lanes(plan.top, split, panel), lanes(plan.sum, split, panel), factor);
                if (!p.expected) continue;
                T* E = negatives(split, panel);
                for (int64_t f = 0; f < p.d; f += simd.tile_rows) {
                    simd.tile_columns_in_place(count(p.d - f), samples + f, bank_stride, weights, k,
                                               E + f * plan.columns, slice == first ? nullptr : factor);
                }
            }
        }
    }

    int count(int64_t left) const { return static_cast<int>(std::min<int64_t>(simd.tile_rows, left)); }

    void exclude(int64_t slice, int64_t panel, T* scores) const {
        const int64_t b0 = panel * plan.columns, valid = std::min(plan.columns, p.B - b0);
        for (int64_t lane = 0; lane < valid; ++lane) {
            const int32_t* begin = begins(b0 + lane) + slice;
            const uint8_t* entry = excluded(b0 + lane);
            for (int32_t i = begin[0]; i < begin[1]; ++i) scores[entry[i] * plan.columns + lane] = -kInfinity;
        }
    }

    // The splits' sums become the loss and the expected negatives of a panel's anchors.
    void merge(int64_t panel) const {
        const int64_t b0 = panel * plan.columns, valid = std::min(plan.columns, p.B - b0);
        for (int64_t lane = 0; lane < valid; ++lane) {
            T top = -kInfinity;
            for (int64_t s = 0; s < plan.splits; ++s) top = std::max(top, lanes(plan.top, s, panel)[lane]);
            const T shift = shift_of(top);
            double total = 0;
            for (int64_t s = 0; s < plan.splits; ++s) {
                const T own_top = lanes(plan.top, s, panel)[lane];
                const double factor = own_top == -kInfinity ? 0 : std::exp2(double(shift_of(own_top)) - double(shift));
                total += factor * double(lanes(plan.sum, s, panel)[lane]);
                lanes(plan.top, s, panel)[lane] = static_cast<T>(factor);
            }
            const int64_t b = b0 + lane;
            double own = 0;
            const T *a = p.anchor + b * p.anchor_stride, *positive = p.positive + b * p.positive_stride;
            for (int64_t f = 0; f < p.d; ++f) own += double(a[f]) * double(positive[f]);
            const double negative = (double(shift) + std::log2(total)) * 0.6931471805599453;
            const double excess = negative - own / p.temperature;
            p.loss[b] =
                static_cast<T>(excess > 0 ? excess + std::log1p(std::exp(-excess)) : std::log1p(std::exp(excess)));
            if (!p.expected) continue;
            T* E = p.expected + b * p.d;
            std::fill_n(E, p.d, T(0));
            for (int64_t s = 0; s < plan.splits && p.N > 0; ++s) {
                const T weight = total == 0 ? T(0) : static_cast<T>(lanes(plan.top, s, panel)[lane] / total);
                const T* from = negatives(s, panel) + lane;
                for (int64_t f = 0; f < p.d; ++f) E[f] += weight * from[f * plan.columns];
            }
        }
    }

    // What is taken off scores whose maximum is top: nothing where it is infinite.
    static T shift_of(T top) { return std::isinf(top) ? T(0) : top; }
};

}  // namespace

bool info_nce_reads(DType bank) { return bank == DType::f32 || bank == DType::f64; }

int64_t info_nce_scratch(DType dtype, int64_t B, int64_t N, int64_t d, int64_t q, bool expected) {
    return with_computed_type(dtype, [&](auto zero) { return Plan<decltype(zero)>(B, N, d, q, expected).bytes; });
}

Status info_nce(DType dtype, Queue queue, const void* anchor, int64_t anchor_stride, const void* positive,
                int64_t positive_stride, const void* bank, int64_t bank_stride, int64_t B, int64_t N, int64_t d,
                const int64_t* rows, const int64_t* mask, int64_t q, double temperature, bool, void* scratch,
                void* loss, void* expected) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const InfoNceProblem<T> p(anchor, anchor_stride, positive, positive_stride, B, N, d, rows, mask, q, temperature,
                                  loss, expected);
        if (!Run<T>(p, static_cast<const T*>(bank), bank_stride, scratch, static_cast<int>(queue))()) {
            return Status{kIndexOutOfRange, "rows and the columns of mask must lie in [0, N), the samples of the bank"};
        }
        return Status{};
    });
}

}  // namespace dsc::cpu
