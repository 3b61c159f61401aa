// Powers of two, and the step of an online softmax that uses them (Milakov & Gimelshein 2018; Dao et al. 2022): a
// block of scores becomes weights below a running maximum, one lane a row of the softmax.
#pragma once

#include "cpu/simd/vector.h"

namespace dsc::cpu {
namespace {

template <class T>
struct Binary;
template <>
struct Binary<float> {
    using Integer = int32_t;
    static constexpr int kMantissa = 23, kBias = 127;
    // 2^r = Σ c_n r^n for |r| <= 1/2: minimax in relative error (Remez), 1.9e-9.
    static constexpr float kPower[] = {1.0f,
                                       0.69314720573725267536f,
                                       0.24022646890639572134f,
                                       0.055503287769976637639f,
                                       0.0096184889565227915705f,
                                       0.0013399931209474140493f,
                                       0.00015345812158740182477f};
};
template <>
struct Binary<double> {
    using Integer = int64_t;
    static constexpr int kMantissa = 52, kBias = 1023;
    // The same, 3.1e-18.
    static constexpr double kPower[] = {1.0,
                                        0.69314718055994533046,
                                        0.24022650695910156205,
                                        0.055504108664819921483,
                                        0.0096181291075883350833,
                                        0.0013333558146789950323,
                                        0.00015403530462514613026,
                                        0.0000152527334899608046,
                                        1.3215433089594629037e-6,
                                        1.0178198033328527662e-7,
                                        7.0741056262456593708e-9,
                                        4.4352809446103361611e-10};
};

// 2^x within 2 units in the last place; 0 below the smallest normal number, infinite from 2^(kBias + 1/2) on; NaN of
// NaN.
template <class T>
inline typename Vector<T>::type exp2(typename Vector<T>::type x) {
    using V = typename Vector<T>::type;
    using B = Binary<T>;
    typedef typename B::Integer I __attribute__((vector_size(DSC_VECTOR_BYTES)));
    const V low = V{} - B::kBias, high = V{} + (B::kBias + 1);  // as exponents: that of zero and that of infinity
    x = low > x ? low : x;                                      // in this order of operands NaN is kept
    x = high < x ? high : x;
    // Adding 1.5 · 2^mantissa rounds to an integer and leaves it in the lowest bits.
    constexpr T magic = T(typename B::Integer(3) << (B::kMantissa - 1));
    const V shifted = x + magic;
    const V r = x - (shifted - magic);
    constexpr int degree = sizeof(B::kPower) / sizeof(T) - 1;
    V power = V{} + B::kPower[degree];
    for (int n = degree - 1; n >= 0; --n) power = power * r + B::kPower[n];
    const I exponent = ((I)shifted + B::kBias) << B::kMantissa;  // what magic left above the lowest bits is shifted out
    return power * (V)exponent;
}

// One step of kVectors × lanes online softmaxes: S (k, tile_columns) holds scores in units of log 2. The running
// maximum top takes them in; S becomes 2^(S - top), sum gains them, and factor is what sums over earlier scores were
// multiplied by to follow the maximum. A score of -inf weighs nothing; top starts at -inf and sum at 0.
template <class T>
void softmax(T* S, int64_t k, T* top, T* sum, T* factor) {
    using V = typename Vector<T>::type;
    const T infinity = __builtin_inf();
    V* s = reinterpret_cast<V*>(S);
    V highest[kVectors], shift[kVectors], total[kVectors] = {};
    for (int v = 0; v < kVectors; ++v) highest[v] = reinterpret_cast<const V*>(top)[v];
    for (int64_t j = 0; j < k; ++j) {
        for (int v = 0; v < kVectors; ++v) {
            const V score = s[j * kVectors + v];
            highest[v] = score > highest[v] ? score : highest[v];
        }
    }
    for (int v = 0; v < kVectors; ++v) {
        const V before = reinterpret_cast<V*>(top)[v], zero = {};
        const V from = before - before == zero ? before : zero;  // an infinite maximum shifts nothing
        shift[v] = highest[v] - highest[v] == zero ? highest[v] : zero;
        reinterpret_cast<V*>(factor)[v] = before == -infinity ? zero : exp2<T>(from - shift[v]);
        reinterpret_cast<V*>(top)[v] = highest[v];
    }
    for (int64_t j = 0; j < k; ++j) {
        for (int v = 0; v < kVectors; ++v) {
            const V weight = exp2<T>(s[j * kVectors + v] - shift[v]);
            s[j * kVectors + v] = weight;
            total[v] += weight;
        }
    }
    for (int v = 0; v < kVectors; ++v) {
        V& gained = reinterpret_cast<V*>(sum)[v];
        gained = gained * reinterpret_cast<V*>(factor)[v] + total[v];
    }
}

}  // namespace
}  // namespace dsc::cpu
