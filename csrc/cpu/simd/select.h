// The filter of a selection, two vectors a step: nearly every number is dropped for one comparison with what it would
// have to beat, and maxima of groups of numbers tell beforehand what that is.
#pragma once

#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

inline float magnitude_of(float x) { return __builtin_fabsf(x); }
inline double magnitude_of(double x) { return __builtin_fabs(x); }

template <bool kMagnitude, class T, class V>
V ranked(V x) {
    if constexpr (kMagnitude) {
        for (int lane = 0; lane < Vector<T>::kLanes; ++lane) x[lane] = magnitude_of(x[lane]);
    }
    return x;
}

template <class T, bool kMagnitude>
int64_t first_above(const T* x, int64_t begin, int64_t end, const T* bar, uint32_t* found) {
    using V = typename Vector<T>::type;
    using U = typename Vector<T>::unaligned;
    constexpr int lanes = Vector<T>::kLanes;
    const U* bars = reinterpret_cast<const U*>(bar);
    const V low = bars[0], high = bars[1];
    for (int64_t i = begin; i < end; i += kColumns<T>) {
        const U* at = reinterpret_cast<const U*>(x + i);
        const V a = ranked<kMagnitude, T, V>(at[0]), b = ranked<kMagnitude, T, V>(at[1]);
        const uint32_t mask = not_at_most(a, low) | not_at_most(b, high) << lanes;
        if (mask) {
            *found = mask;
            return i;
        }
    }
    return end;
}

template <class T>
int64_t next_above(const T* x, int64_t begin, int64_t end, const T* bar, bool magnitude, uint32_t* found) {
    return magnitude ? first_above<T, true>(x, begin, end, bar, found)
                     : first_above<T, false>(x, begin, end, bar, found);
}

template <class T, bool kMagnitude>
void block_maxima(const T* x, int64_t blocks, T* most) {
    using V = typename Vector<T>::type;
    using U = typename Vector<T>::unaligned;
    const U* at = reinterpret_cast<const U*>(x);
    V low = V{} - T(__builtin_inf()), high = low;
    for (int64_t i = 0; i < blocks; ++i, at += kVectors) {
        const V a = ranked<kMagnitude, T, V>(at[0]), b = ranked<kMagnitude, T, V>(at[1]);
        low = a > low ? a : low;  // never NaN
        high = b > high ? b : high;
    }
    reinterpret_cast<U*>(most)[0] = low;
    reinterpret_cast<U*>(most)[1] = high;
}

template <class T>
void maxima(const T* x, int64_t blocks, bool magnitude, T* most) {
    magnitude ? block_maxima<T, true>(x, blocks, most) : block_maxima<T, false>(x, blocks, most);
}

}  // namespace
}  // namespace dsc::cpu
