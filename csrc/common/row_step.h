// The rules by which a row of C is stepped, and how moments of 16 bits are rounded: the same on every backend.
//
// Everything here has internal linkage: it is compiled for several instruction sets and for the GPU.
#pragma once

#include <cstdint>

#include "common/bits.h"

namespace dsc {

// With g the gradient of the data, λ2 = weight_decay and λ1 = l1:
//   adam      g += λ2·c + λ1·sign(c), then Adam (Kingma & Ba 2015, Algorithm 1) with the row's own step count
//   adamw     c ← c (1 − lr·λ2) first and g += λ1·sign(c) alone (Loshchilov & Hutter 2019)
//   proximal  c ← soft(c − lr·(g + λ2·c), lr·λ1), one step of ISTA: exact zeros, no moments, no count
enum class Rule : int32_t { adam = 0, adamw = 1, proximal = 2 };

struct Rates {
    Rule rule;
    double lr, beta1, beta2, eps, weight_decay, l1;
};

namespace {

// A bijection of 32 bits whose every output bit depends on every input bit (C. Wellons, hash-prospector, lowbias32).
DSC_HOST_DEVICE inline uint32_t scrambled(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// What the moments of a row are rounded by at its t-th step; row is the global one.
DSC_HOST_DEVICE inline uint32_t rounding_seed(int64_t row, int64_t t) {
    return scrambled(uint32_t(row) ^ scrambled(uint32_t(uint64_t(row) >> 32) ^ scrambled(uint32_t(t))));
}

// The low half rounds the first moment, the high half the second.
DSC_HOST_DEVICE inline uint32_t rounding_noise(uint32_t seed, int64_t column) {
    return scrambled(seed + uint32_t(column));
}

// bf16 of the float with these bits, rounded up with the probability of what is cut off: unbiased. noise has 16 bits.
// Rounding to nearest would freeze a second moment: a step with beta2 = .999 moves it by less than half an ulp.
DSC_HOST_DEVICE inline uint16_t stochastic_bf16(uint32_t bits, uint32_t noise) {
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return uint16_t((nan ? bits | 0x400000u : bits + noise) >> 16);
}

// A moment as stored, and back; noise has 16 bits.
template <class T>
DSC_HOST_DEVICE inline T from_storage(T stored) {
    return stored;
}
DSC_HOST_DEVICE inline float from_storage(uint16_t stored) { return bits_as<float>(uint32_t(stored) << 16); }
template <class T>
DSC_HOST_DEVICE inline void to_storage(T value, uint32_t, T& to) {
    to = value;
}
DSC_HOST_DEVICE inline void to_storage(float value, uint32_t noise, uint16_t& to) {
    to = stochastic_bf16(bits_as<uint32_t>(value), noise);
}

}  // namespace
}  // namespace dsc
