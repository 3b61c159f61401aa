// Which numbers of a row exceed a threshold in magnitude, as bits: one compare a vector, at the rate memory delivers.
#pragma once

#include "cpu/simd/vector.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace dsc::cpu {
namespace {

// Bit l of the result: !(|c[l]| <= threshold), so NaN counts as above.
#if defined(__AVX512F__)
inline uint64_t above_vector(const float* c, float threshold) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_loadu_ps(c)), _mm512_set1_ps(threshold), _CMP_NLE_UQ);
}
inline uint64_t above_vector(const double* c, double threshold) {
    return _mm512_cmp_pd_mask(_mm512_abs_pd(_mm512_loadu_pd(c)), _mm512_set1_pd(threshold), _CMP_NLE_UQ);
}
#elif defined(__AVX2__)
inline uint64_t above_vector(const float* c, float threshold) {
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(c));
    return static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(magnitude, _mm256_set1_ps(threshold), _CMP_NLE_UQ)));
}
inline uint64_t above_vector(const double* c, double threshold) {
    const __m256d magnitude = _mm256_andnot_pd(_mm256_set1_pd(-0.0), _mm256_loadu_pd(c));
    return static_cast<uint64_t>(_mm256_movemask_pd(_mm256_cmp_pd(magnitude, _mm256_set1_pd(threshold), _CMP_NLE_UQ)));
}
#elif defined(__SSE2__)
inline uint64_t above_vector(const float* c, float threshold) {
    const __m128 magnitude = _mm_andnot_ps(_mm_set1_ps(-0.0f), _mm_loadu_ps(c));
    return static_cast<uint64_t>(_mm_movemask_ps(_mm_cmpnle_ps(magnitude, _mm_set1_ps(threshold))));
}
inline uint64_t above_vector(const double* c, double threshold) {
    const __m128d magnitude = _mm_andnot_pd(_mm_set1_pd(-0.0), _mm_loadu_pd(c));
    return static_cast<uint64_t>(_mm_movemask_pd(_mm_cmpnle_pd(magnitude, _mm_set1_pd(threshold))));
}
#else
template <class T>
uint64_t above_vector(const T* c, T threshold) {
    uint64_t bits = 0;
    for (int l = 0; l < Vector<T>::kLanes; ++l) bits |= uint64_t(!(c[l] <= threshold && -c[l] <= threshold)) << l;
    return bits;
}
#endif

template <class T>
void above(const T* c, int64_t n, T threshold, uint64_t* words, int64_t word_stride) {
    constexpr int lanes = Vector<T>::kLanes;
    int64_t j = 0;
    for (; j + 64 <= n; j += 64, words += word_stride) {
        uint64_t word = 0;
        for (int l = 0; l < 64; l += lanes) word |= above_vector(c + j + l, threshold) << l;
        *words = word;
    }
    if (j == n) return;
    *words = 0;
    for (int l = 0; j < n; ++j, ++l) *words |= uint64_t(!(c[j] <= threshold && -c[j] <= threshold)) << l;
}

}  // namespace
}  // namespace dsc::cpu
