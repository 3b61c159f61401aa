// Adam (Kingma & Ba 2015, Algorithm 1) along one row: 12 bytes read with 4 of gradient, 12 written, arithmetic hidden.
#pragma once

#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

template <class T>
void adam_row(T* __restrict__ c, T* __restrict__ m, T* __restrict__ v, const T* __restrict__ grad, int64_t columns,
              const AdamStep<T>& step) {
    const AdamStep<T> s = step;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
        const T sign = T(c[j] > 0) - T(c[j] < 0);
        const T g = grad[j] + s.weight_decay * c[j] + s.l1 * sign;
        const T first = m[j] + s.one_minus_beta1 * (g - m[j]);
        const T second = s.beta2 * v[j] + s.one_minus_beta2 * g * g;
        m[j] = first;
        v[j] = second;
        c[j] -= s.step_size * first / (root(second) / s.second_moment_root + s.eps);
    }
}

}  // namespace
}  // namespace dsc::cpu
