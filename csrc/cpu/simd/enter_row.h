// One row on its way into the bank: memory speed with the conversions hidden; a second pass over the row, then in the
// L1 cache, where it is normalized.
#pragma once

#include "common/bank_row.h"
#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

// The old row is read only if something of it is kept, so whether is settled outside the loops: a load that may not
// happen is no vector's.
template <bool kMixed, class Bank, class Live>
void enter_row(Bank* __restrict__ old, const Live* __restrict__ live, int64_t d, bool normalize, double momentum) {
    using Acc = Mixed<Bank, Live>;
    const Acc keep = static_cast<Acc>(momentum);
    const auto fresh = [=](int64_t j) __attribute__((always_inline)) {
        if constexpr (kMixed)
            return keep * widen<Acc>(old[j]) + (Acc(1) - keep) * widen<Acc>(live[j]);
        else
            return widen<Acc>(live[j]);
    };
    Acc scale = 1;
    if (normalize) {
        Acc squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < d; ++j) squares += fresh(j) * fresh(j);
        if (squares > Acc(0)) scale = Acc(1) / root(squares);
    }
#pragma omp simd
    for (int64_t j = 0; j < d; ++j) old[j] = narrow<Bank>(fresh(j) * scale);
}

template <class Bank, class Live>
void bank_row(void* old, const void* live, int64_t d, bool normalize, double momentum) {
    const auto enter = momentum == 0 ? enter_row<false, Bank, Live> : enter_row<true, Bank, Live>;
    enter(static_cast<Bank*>(old), static_cast<const Live*>(live), d, normalize, momentum);
}

#define DSC_BANK_ROWS(Bank) \
    {bank_row<Bank, float>, bank_row<Bank, double>, bank_row<Bank, Float16>, bank_row<Bank, BFloat16>}

}  // namespace
}  // namespace dsc::cpu
