// Steps of rows of C, given their gradient: which kernel of simd/adam.h, with which constants, where in C and its
// moments. Shared by every op that steps rows.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/row_step.h"
#include "common/types.h"
#include "cpu/simd.h"

namespace dsc::cpu {

template <class T>
struct RowStepper {
    T* C;
    int64_t columns;
    DType moments;
    void *exp_avg, *exp_avg_sq;
    int64_t* step;
    Rates rates;

    // The constants of one row's next step. Most rows of a batch are at the same count, so that of the row before is
    // handed in (t = 0 at first) and kept where it fits: the powers take longer than 500 elements.
    struct Next {
        int64_t t = 0;
        AdamStep<T> constants = {};
    };
    void prepare(Next& next, int64_t row, int64_t global_row) const {
        if (rates.rule == Rule::proximal) return;
        const int64_t t = step[row] + 1;
        if (t != next.t) {
            const bool decoupled = rates.rule == Rule::adamw;
            next.t = t;
            next.constants = {T(1.0 - rates.beta1),
                              T(rates.beta2),
                              T(1.0 - rates.beta2),
                              T(rates.eps),
                              T(decoupled ? 0.0 : rates.weight_decay),
                              T(rates.l1),
                              T(rates.lr / (1.0 - std::pow(rates.beta1, double(t)))),
                              T(1.0 / std::sqrt(1.0 - std::pow(rates.beta2, double(t)))),
                              T(decoupled ? 1.0 - rates.lr * rates.weight_decay : 1.0)};
        }
        next.constants.seed = rounding_seed(global_row, t);
    }

    // Columns [j0, j0 + width) of a local row.
    void operator()(const Simd<T>& simd, int64_t row, int64_t j0, int64_t width, const T* grad,
                    AdamStep<T> constants) const {
        const int64_t at = row * columns + j0;
        if (rates.rule == Rule::proximal) {
            return simd.proximal_row(C + at, grad, width, T(rates.lr), T(rates.weight_decay), T(rates.lr * rates.l1));
        }
        if (moments != DType::bf16) {
            return simd.adam_row(C + at, static_cast<T*>(exp_avg) + at, static_cast<T*>(exp_avg_sq) + at, grad, width,
                                 constants);
        }
        constants.seed += static_cast<uint32_t>(j0);
        simd.adam_row_bf16(C + at, static_cast<uint16_t*>(exp_avg) + at, static_cast<uint16_t*>(exp_avg_sq) + at, grad,
                           width, constants);
    }

    void count(int64_t row) const {
        if (rates.rule != Rule::proximal) ++step[row];
    }
};

}  // namespace dsc::cpu
