// Steps along one row of C, from its gradient: Adam (Kingma & Ba 2015, Algorithm 1) with moments as wide as C or in
// bf16, and the proximal step. Memory moves 24 bytes an element (16 with bf16 moments, 8 without moments).
#pragma once

#include "common/row_step.h"
#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

// Element j of a row has a noise of its own.
template <class T, class Moment>
void adam_row(T* __restrict__ c, Moment* __restrict__ m, Moment* __restrict__ v, const T* __restrict__ grad,
              int64_t columns, const AdamStep<T>& step) {
    const AdamStep<T> s = step;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
        const T sign = T(c[j] > 0) - T(c[j] < 0);
        const T g = grad[j] + s.weight_decay * c[j] + s.l1 * sign;
        const T first_before = from_storage(m[j]);
        const T first = first_before + s.one_minus_beta1 * (g - first_before);
        const T second = s.beta2 * from_storage(v[j]) + s.one_minus_beta2 * g * g;
        const uint32_t noise = sizeof(Moment) < sizeof(T) ? scrambled(s.seed + uint32_t(j)) : 0;
        to_storage(first, noise & 0xffffu, m[j]);
        to_storage(second, noise >> 16, v[j]);
        c[j] = s.keep * c[j] - s.step_size * first / (root(second) * s.root_correction + s.eps);
    }
}

template <class T>
void proximal_row(T* __restrict__ c, const T* __restrict__ grad, int64_t columns, T lr, T weight_decay, T threshold) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
        const T moved = c[j] - lr * (grad[j] + weight_decay * c[j]);
        // NaN stays NaN: it compares false with everything.
        const T above = moved - threshold, below = moved + threshold;
        c[j] = above > 0 ? above : below < 0 ? below : moved == moved ? T(0) : moved;
    }
}

}  // namespace
}  // namespace dsc::cpu
