// Rows of samples turned into a panel whose columns they are, in blocks of 4 × 4 numbers.
#pragma once

#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

template <class T>
struct Four {
    typedef T type __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T))));
};

#ifdef __clang__
#define DSC_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
template <class T>
struct Mask4;
template <>
struct Mask4<float> {
    typedef int32_t type __attribute__((vector_size(16)));
};
template <>
struct Mask4<double> {
    typedef int64_t type __attribute__((vector_size(32)));
};
#define DSC_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, typename Mask4<T>::type{i, j, k, l})
#endif

template <class T>
void transpose(const T* const* rows, int count, int64_t d, T* panel) {
    using F = typename Four<T>::type;
    constexpr int width = kColumns<T>;
    const int whole = count / 4 * 4;
    const int64_t whole_d = d / 4 * 4;
    for (int r = 0; r < whole; r += 4) {
        for (int64_t f = 0; f < whole_d; f += 4) {
            const F a = *reinterpret_cast<const F*>(rows[r] + f), b = *reinterpret_cast<const F*>(rows[r + 1] + f);
            const F c = *reinterpret_cast<const F*>(rows[r + 2] + f), e = *reinterpret_cast<const F*>(rows[r + 3] + f);
            const F ac_low = DSC_SHUFFLE4(a, c, 0, 4, 1, 5), ac_high = DSC_SHUFFLE4(a, c, 2, 6, 3, 7);
            const F be_low = DSC_SHUFFLE4(b, e, 0, 4, 1, 5), be_high = DSC_SHUFFLE4(b, e, 2, 6, 3, 7);
            T* to = panel + f * width + r;
            *reinterpret_cast<F*>(to) = DSC_SHUFFLE4(ac_low, be_low, 0, 4, 1, 5);
            *reinterpret_cast<F*>(to + width) = DSC_SHUFFLE4(ac_low, be_low, 2, 6, 3, 7);
            *reinterpret_cast<F*>(to + 2 * width) = DSC_SHUFFLE4(ac_high, be_high, 0, 4, 1, 5);
            *reinterpret_cast<F*>(to + 3 * width) = DSC_SHUFFLE4(ac_high, be_high, 2, 6, 3, 7);
        }
        for (int64_t f = whole_d; f < d; ++f) {
            for (int i = 0; i < 4; ++i) panel[f * width + r + i] = rows[r + i][f];
        }
    }
    for (int r = whole; r < width; ++r) {
        for (int64_t f = 0; f < d; ++f) panel[f * width + r] = r < count ? rows[r][f] : T(0);
    }
}

#undef DSC_SHUFFLE4

}  // namespace
}  // namespace dsc::cpu
