// Sums of scattered rows and dots with them: what a sparse row of coefficients does with the bank. Each number of each
// row named is loaded once; nothing else is seen by memory. The row that is kAhead entries on is fetched meanwhile,
// across the end of this list into the next, so that lists of ten do not wait for memory one after another.
#pragma once

#include "common/half.h"
#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

constexpr int kLineBytes = 64;

template <class T>
typename Vector<T>::type load(const T* p) {
    return *reinterpret_cast<const typename Vector<T>::unaligned*>(p);
}

// 16-bit numbers, widened as common/half.h does it, a vector at a time.
typedef uint16_t HalfLanes __attribute__((vector_size(DSC_VECTOR_BYTES / 2), aligned(2)));
typedef uint32_t FloatBits __attribute__((vector_size(DSC_VECTOR_BYTES)));

inline FloatBits load_bits(const void* p) {
    return __builtin_convertvector(*static_cast<const HalfLanes*>(p), FloatBits);
}

inline Vector<float>::type load(const BFloat16* p) { return reinterpret_cast<Vector<float>::type>(load_bits(p) << 16); }

inline Vector<float>::type load(const Float16* p) {
    using V = Vector<float>::type;
    const FloatBits bits = load_bits(p), magnitude = bits & 0x7fffu;
    const FloatBits finite = reinterpret_cast<FloatBits>(reinterpret_cast<V>(magnitude << 13) * 5.192296858534828e33f);
    const FloatBits wide = magnitude >= 0x7c00u ? (0x7f800000u | (magnitude & 0x3ffu) << 13) : finite;
    return reinterpret_cast<V>(wide | (bits & 0x8000u) << 16);
}

inline float element(const float* p) { return *p; }
inline double element(const double* p) { return *p; }
template <class Half>
float element(const Half* p) {
    const HalfLanes first = {p->bits};
    return load(reinterpret_cast<const Half*>(&first))[0];
}

// Numbers at[l] of a and, behind them, b.
template <class V, class Mask>
V shuffled(V a, V b, Mask at) {
#ifdef __clang__
    constexpr int lanes = sizeof(V) / sizeof(a[0]);
    V out;
    for (int l = 0; l < lanes; ++l) out[l] = at[l] < lanes ? a[at[l]] : b[at[l] - lanes];
    return out;
#else
    return __builtin_shuffle(a, b, at);
#endif
}

// The sums over the lanes of as many vectors as there are lanes, one a lane, in two shuffles and an addition a vector:
// each round halves the number of vectors, and the lanes over which a sum is still spread.
template <class T, int kHalf = Vector<T>::kLanes / 2>
typename Vector<T>::type sums_of_lanes(typename Vector<T>::type* vectors) {
    if constexpr (kHalf == 0) {
        return vectors[0];
    } else {
        constexpr int lanes = Vector<T>::kLanes;
        using V = typename Vector<T>::type;
        using Mask = decltype(V{} < V{});
        Mask low;
        for (int l = 0; l < lanes; ++l) low[l] = (l / kHalf % 2 ? lanes : 0) + l / kHalf / 2 * 2 * kHalf + l % kHalf;
        for (int i = 0; i < kHalf; ++i) {
            const V a = vectors[i], b = vectors[i + kHalf];
            vectors[i] = shuffled(a, b, low) + shuffled(a, b, low + kHalf);
        }
        return sums_of_lanes<T, kHalf / 2>(vectors);
    }
}

// Fetches kBytes of the row that comes kAhead entries after s, into the second cache: the first has too few requests in
// flight (up to 1.8 times as fast as fetching into it, Zen 4).
template <int kBytes>
void fetch_ahead(const void* M, int64_t stride_bytes, const SparseRow& row, int64_t s) {
    const int64_t at = s + (row.k < kAhead ? row.k : kAhead);
    if (at >= row.k && !row.next) return;
    const int64_t j = at < row.k ? row.indices[at] : row.next[at - row.k];
    const uintptr_t address =
        reinterpret_cast<uintptr_t>(M) + static_cast<uintptr_t>(j) * static_cast<uintptr_t>(stride_bytes);
    for (int byte = 0; byte < kBytes; byte += kLineBytes) {
        __builtin_prefetch(reinterpret_cast<const void*>(address + byte), 0, 2);
    }
}

// Calls visit(s, x) for every entry in [begin, end) that counts, in order, x being its row of the bank or of the live
// batch from column c0 on, and skip(s) for the others. False if an index lies beyond the bank.
template <class Element, int kBytes, class T, class Visit, class Skip>
inline __attribute__((always_inline)) bool for_each_row(const SplicedBank<T>& bank, const SparseRow& row, int64_t begin,
                                                        int64_t end, int64_t c0, Visit&& visit, Skip&& skip) {
    const Element* M = static_cast<const Element*>(bank.M) + c0;
    bool within = true;
    for (int64_t s = begin; s < end; ++s) {
        fetch_ahead<kBytes>(M, bank.M_stride * static_cast<int64_t>(sizeof(Element)), row, s);
        const int64_t j = row.indices[s];
        if (static_cast<uint64_t>(j) >= static_cast<uint64_t>(bank.N) || j == row.own) {
            within &= j < bank.N;
            skip(s);
            continue;
        }
        const int64_t live = live_row(bank.splice, j);
        if (live >= 0) {
            visit(s, bank.Z + live * bank.Z_stride + c0);
        } else {
            visit(s, M + j * bank.M_stride);
        }
    }
    return within;
}

template <class Element, int kBlock, class T>
bool combine_block(const SplicedBank<T>& bank, const T* values, const SparseRow& row, int64_t c0, T* out) {
    constexpr int lanes = Vector<T>::kLanes;
    typename Vector<T>::type sum[kBlock] = {};
    const bool within = for_each_row<Element, kBlock * lanes* int(sizeof(Element))>(
        bank, row, 0, row.k, c0,
        [&](int64_t s, const auto* x) {
            for (int i = 0; i < kBlock; ++i) sum[i] += values[s] * load(x + i * lanes);
        },
        [](int64_t) {});
    for (int i = 0; i < kBlock; ++i) reinterpret_cast<typename Vector<T>::unaligned*>(out + c0)[i] = sum[i];
    return within;
}

// Lanes below `done` have been counted by the block before.
template <class Element, int kBlock, class T>
bool dot_block(const SplicedBank<T>& bank, const T* g, const SparseRow& row, int64_t c0, int64_t done, T* out) {
    constexpr int lanes = Vector<T>::kLanes;
    typename Vector<T>::type G[kBlock];
    for (int i = 0; i < kBlock; ++i) G[i] = load(g + c0 + i * lanes);
    for (int64_t l = 0; l < done; ++l) G[0][l] = T(0);
    bool within = true;
    typename Vector<T>::type products[lanes] = {};
    for (int64_t s0 = 0; s0 < row.k; s0 += lanes) {
        const int64_t end = s0 + lanes < row.k ? s0 + lanes : row.k;
        within &= for_each_row<Element, kBlock * lanes* int(sizeof(Element))>(
            bank, row, s0, end, c0,
            [&](int64_t s, const auto* x) {
                typename Vector<T>::type sum = G[0] * load(x);
                for (int i = 1; i < kBlock; ++i) sum += G[i] * load(x + i * lanes);
                products[s - s0] = sum;
            },
            [&](int64_t s) { products[s - s0] = typename Vector<T>::type{}; });
        const typename Vector<T>::type sums = sums_of_lanes<T>(products);
        for (int64_t s = s0; s < end; ++s) out[s] += sums[s - s0];
    }
    return within;
}

template <int kVectors_>
struct Block {
    static constexpr int value = kVectors_;
};

// Calls block(Block<vectors>, first column, columns of it done already) until d columns are covered. If d is not a
// whole number of vectors the last block reaches back; d must be a vector long.
template <class T, class Visit>
bool for_each_block(int64_t d, Visit&& block) {
    constexpr int lanes = Vector<T>::kLanes;
    bool within = true;
    int64_t c = 0;
    for (; c + 8 * lanes <= d; c += 8 * lanes) within &= block(Block<8>{}, c, 0);
    if (c + 4 * lanes <= d) within &= block(Block<4>{}, c, 0), c += 4 * lanes;
    if (c + 2 * lanes <= d) within &= block(Block<2>{}, c, 0), c += 2 * lanes;
    if (c + lanes <= d) within &= block(Block<1>{}, c, 0), c += lanes;
    if (c < d) within &= block(Block<1>{}, d - lanes, c - (d - lanes));
    return within;
}

template <class Element, class T>
bool combine(const SplicedBank<T>& bank, const T* values, const SparseRow& row, T* out) {
    if (bank.d >= Vector<T>::kLanes) {
        return for_each_block<T>(bank.d, [&](auto block, int64_t c0, int64_t) {
            return combine_block<Element, decltype(block)::value>(bank, values, row, c0, out);
        });
    }
    for (int64_t c = 0; c < bank.d; ++c) out[c] = T(0);
    return for_each_row<Element, 1>(
        bank, row, 0, row.k, 0,
        [&](int64_t s, const auto* x) {
            for (int64_t c = 0; c < bank.d; ++c) out[c] += values[s] * element(x + c);
        },
        [](int64_t) {});
}

template <class Element, class T>
bool dots(const SplicedBank<T>& bank, const T* g, const SparseRow& row, T* out) {
    for (int64_t s = 0; s < row.k; ++s) out[s] = T(0);
    if (bank.d >= Vector<T>::kLanes) {
        return for_each_block<T>(bank.d, [&](auto block, int64_t c0, int64_t done) {
            return dot_block<Element, decltype(block)::value>(bank, g, row, c0, done, out);
        });
    }
    return for_each_row<Element, 1>(
        bank, row, 0, row.k, 0,
        [&](int64_t s, const auto* x) {
            for (int64_t c = 0; c < bank.d; ++c) out[s] += g[c] * element(x + c);
        },
        [](int64_t) {});
}

template <class T>
constexpr Gather<T> gather_table() {
    if constexpr (sizeof(T) == sizeof(float)) {
        return {combine<float, T>, combine<Float16, T>, combine<BFloat16, T>,
                dots<float, T>,    dots<Float16, T>,    dots<BFloat16, T>};
    } else {
        return {combine<T, T>, nullptr, nullptr, dots<T, T>, nullptr, nullptr};
    }
}

}  // namespace
}  // namespace dsc::cpu
