// One row on its way into the bank: memory speed with the conversions hidden; a second pass over the row, then in the
// L1 cache, where it is normalised.
#pragma once

#include "bank_row.h"
#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

template <class Bank, class Live>
void bank_row(void* to, const void* from, int64_t d, bool normalize, double momentum) {
    using Acc = typename Compute<Bank, Live>::type;
    Bank* __restrict__ old = static_cast<Bank*>(to);
    const Live* __restrict__ live = static_cast<const Live*>(from);
    const Acc keep = static_cast<Acc>(momentum);
    Acc scale = 1;
    if (normalize) {
        Acc squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < d; ++j) {
            const Acc value = mix(old + j, live + j, keep);
            squares += value * value;
        }
        if (squares > Acc(0)) scale = Acc(1) / root(squares);
    }
    if (keep == Acc(0) && scale == Acc(1)) {
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) old[j] = narrow<Bank>(widen<Acc>(live[j]));
    } else if (keep == Acc(0)) {
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) old[j] = narrow<Bank>(widen<Acc>(live[j]) * scale);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) old[j] = narrow<Bank>(mix(old + j, live + j, keep) * scale);
    }
}

#define DSC_BANK_ROWS(Bank) \
    {bank_row<Bank, float>, bank_row<Bank, double>, bank_row<Bank, Float16>, bank_row<Bank, BFloat16>}

}  // namespace
}  // namespace dsc::cpu
