// Steps of elements of C, given their gradient: the arithmetic of Adam and of the proximal step, in registers.
#pragma once

#include "common/launch.cuh"
#include "common/row_step.h"

namespace dsc::cuda {
namespace {

// The constants of one step of one row. step_size = lr / (1 - beta1^t), second_moment_root = sqrt(1 - beta2^t), keep
// is what decoupled decay leaves of c; of a proximal step: step_size = lr, l1 = the threshold.
template <class T>
struct RowStep {
    T one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay, l1, step_size, second_moment_root, keep;
    uint32_t seed;
    Rule rule;
};

// For the t-th step of a global row.
template <class T>
__device__ RowStep<T> row_step(const Rates& rates, int64_t row, int64_t t) {
    RowStep<T> s = {};
    s.rule = rates.rule;
    s.weight_decay = T(rates.rule == Rule::adamw ? 0.0 : rates.weight_decay);
    if (rates.rule == Rule::proximal) {
        s.step_size = T(rates.lr);
        s.l1 = T(rates.lr * rates.l1);
        return s;
    }
    s.one_minus_beta1 = T(1.0 - rates.beta1);
    s.beta2 = T(rates.beta2);
    s.one_minus_beta2 = T(1.0 - rates.beta2);
    s.eps = T(rates.eps);
    s.l1 = T(rates.l1);
    s.step_size = T(rates.lr / (1.0 - pow(rates.beta1, static_cast<double>(t))));
    s.second_moment_root = T(sqrt(1.0 - pow(rates.beta2, static_cast<double>(t))));
    s.keep = T(rates.rule == Rule::adamw ? 1.0 - rates.lr * rates.weight_decay : 1.0);
    s.seed = rounding_seed(row, t);
    return s;
}

// One element of column `column`; m and v are not touched by a proximal step.
template <class T, class Moment>
__device__ void step_element(T& c, Moment* m, Moment* v, T grad, int64_t column, const RowStep<T>& s) {
    if (s.rule == Rule::proximal) {
        const T moved = c - s.step_size * (grad + s.weight_decay * c);
        const T above = moved - s.l1, below = moved + s.l1;
        c = above > T(0) ? above : below < T(0) ? below : moved == moved ? T(0) : moved;
        return;
    }
    const T g = grad + s.weight_decay * c + s.l1 * (T(c > T(0)) - T(c < T(0)));
    const T before = from_storage(*m);
    const T first = before + s.one_minus_beta1 * (g - before);
    const T second = s.beta2 * from_storage(*v) + s.one_minus_beta2 * g * g;
    const uint32_t noise = sizeof(Moment) < sizeof(T) ? rounding_noise(s.seed, column) : 0;
    to_storage(first, noise & 0xffffu, *m);
    to_storage(second, noise >> 16, *v);
    c = s.keep * c - s.step_size * first / (sqrt(second) / s.second_moment_root + s.eps);
}

}  // namespace
}  // namespace dsc::cuda
