// Scores turned into coefficients, and their gradient back into one of the scores, in place along a row that lies in
// the L1 cache: c = scale · φ(s), φ(s) = sign(s) · max(|s| − threshold, 0). About 9 and 18 vector operations for every
// 16 scores, beside which the products of the same scores take 16 · d multiply-adds and more.
//
// A negative threshold is taken as it is, with sign(0) = 0, and NaN stays NaN.
#pragma once

#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

template <class T>
struct Bits;
template <>
struct Bits<float> {
    typedef int32_t type __attribute__((vector_size(DSC_VECTOR_BYTES)));
    static constexpr int32_t kSign = INT32_MIN;
};
template <>
struct Bits<double> {
    typedef int64_t type __attribute__((vector_size(DSC_VECTOR_BYTES)));
    static constexpr int64_t kSign = INT64_MIN;
};

// |φ(s)|.
template <class T, class V = typename Vector<T>::type, class I = typename Bits<T>::type>
inline V shrunk(V s, T threshold) {
    const V zero = {};
    V m = (V)((I)s & ~Bits<T>::kSign) - threshold;
    m = m <= zero ? zero : m;  // not m > 0 ? m : 0, which would make 0 of NaN
    return s == zero ? zero : m;
}

// s becomes c; ‖c‖₁ and ‖c‖₂² are added to norms[0] and norms[1]. columns is a multiple of the vector's length, and s
// aligned to one.
template <class T>
void soft_threshold(T* s, int64_t columns, T threshold, T scale, T* norms) {
    using V = typename Vector<T>::type;
    using I = typename Bits<T>::type;
    V* at = reinterpret_cast<V*>(s);
    const T magnitude = scale < 0 ? -scale : scale;
    const I flip = I{} + (scale < 0 ? Bits<T>::kSign : 0);
    V l1 = {}, l2 = {};
    for (int64_t j = 0; j < columns / Vector<T>::kLanes; ++j) {
        const V m = shrunk<T>(at[j], threshold) * magnitude;
        l1 += m;
        l2 += m * m;
        at[j] = (V)((I)m | (((I)at[j] ^ flip) & Bits<T>::kSign));
    }
    norms[0] += sum_of_lanes<T>(l1);
    norms[1] += sum_of_lanes<T>(l2);
}

// s becomes c, and g, the gradient of Ẑ in the direction of each sample, that of s: scale · (g + g1 · sign(c) + 2 g2 c)
// where φ(s) ≠ 0, else 0. The threshold's gradient is added to *dthreshold.
template <class T>
void soft_threshold_backward(T* s, T* g, int64_t columns, T threshold, T scale, T g1, T g2, T* dthreshold) {
    using V = typename Vector<T>::type;
    using I = typename Bits<T>::type;
    V *at = reinterpret_cast<V*>(s), *gradient = reinterpret_cast<V*>(g);
    const V zero = {};
    const V to_l1 = zero + g1;
    const T to_l2 = 2 * g2;
    V sum = {};
    for (int64_t j = 0; j < columns / Vector<T>::kLanes; ++j) {
        const I sign = (I)at[j] & Bits<T>::kSign;
        const V m = shrunk<T>(at[j], threshold);
        const V c = (V)((I)m | sign) * scale;
        const V dc = gradient[j] + (V)((I)to_l1 ^ ((I)c & Bits<T>::kSign)) + to_l2 * c;
        const V ds = m == zero ? zero : scale * dc;
        sum += (V)((I)ds ^ sign);
        at[j] = c;
        gradient[j] = ds;
    }
    *dthreshold -= sum_of_lanes<T>(sum);
}

}  // namespace
}  // namespace dsc::cpu
