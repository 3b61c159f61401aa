// The vectors of the instruction set that simd.cpp is being compiled for. Only simd.cpp includes what is in this
// folder.
//
// Nothing here includes inline functions of the standard library: the linker keeps one copy of those, and it must not
// be one compiled for a processor wider than the one at hand.
#pragma once

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include <cstdint>

#include "cpu/simd.h"

namespace dsc::cpu {
namespace {

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(DSC_VECTOR_BYTES)));
    typedef type unaligned __attribute__((aligned(sizeof(T))));
    static constexpr int kLanes = DSC_VECTOR_BYTES / sizeof(T);
};

constexpr int kRows = DSC_TILE_ROWS;
constexpr int kVectors = 2;
template <class T>
constexpr int kColumns = kVectors * Vector<T>::kLanes;

// One bit a lane: whether not (a <= b), which a NaN on either side makes true.
template <class V>
inline uint32_t not_at_most(V a, V b) {
    constexpr bool is_float = sizeof(a[0]) == 4;
#if defined(__AVX512F__)
    if constexpr (is_float) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
#elif defined(__AVX2__)
    if constexpr (is_float) return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ));
    return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_NLE_UQ));
#elif defined(__SSE2__)
    if constexpr (is_float) return _mm_movemask_ps(_mm_cmpnle_ps((__m128)a, (__m128)b));
    return _mm_movemask_pd(_mm_cmpnle_pd((__m128d)a, (__m128d)b));
#else
    uint32_t bits = 0;
    for (unsigned i = 0; i < sizeof(a) / sizeof(a[0]); ++i) bits |= uint32_t(!(a[i] <= b[i])) << i;
    return bits;
#endif
}

template <class T, class V>
inline T sum_of_lanes(V v) {
    T sum = 0;
    for (int i = 0; i < Vector<T>::kLanes; ++i) sum += v[i];
    return sum;
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

}  // namespace
}  // namespace dsc::cpu
