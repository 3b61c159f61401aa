// 16-bit floating point storage, converted by bit operations so that the CPU, nvcc and the emulator share one
// definition. Conversion to 16 bits rounds to nearest even and keeps infinities and NaN.
#pragma once

#include <cstdint>

#include "common/bits.h"

namespace dsc {

struct BFloat16 {
    uint16_t bits;

    BFloat16() = default;
    DSC_HOST_DEVICE explicit BFloat16(float value) {
        const uint32_t wide = bits_as<uint32_t>(value);
        const bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
        // Adding just under half of the last kept bit, plus that bit itself, is round-to-nearest-even.
        bits = nan ? uint16_t(wide >> 16 | 0x40u) : uint16_t((wide + 0x7fffu + (wide >> 16 & 1u)) >> 16);
    }
    DSC_HOST_DEVICE explicit operator float() const { return bits_as<float>(uint32_t(bits) << 16); }
};

struct Float16 {
    uint16_t bits;

    Float16() = default;
    DSC_HOST_DEVICE explicit Float16(float value) {
        const uint32_t wide = bits_as<uint32_t>(value);
        const uint16_t sign = uint16_t(wide >> 16 & 0x8000u);
        const uint32_t magnitude = wide & 0x7fffffffu;
        if (magnitude > 0x7f800000u) {  // NaN
            bits = sign | 0x7e00u;
        } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
            bits = sign | 0x7c00u;
        } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal. Adding 1/2 aligns the mantissa and rounds it.
            bits = sign | uint16_t(bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u);
        } else {
            bits = sign | uint16_t((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
        }
    }
    DSC_HOST_DEVICE explicit operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
        const uint32_t magnitude = bits & 0x7fffu;
        if (magnitude >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
        // 2^112 rebases the exponent, and makes subnormals exact without a special case.
        return bits_as<float>(sign | bits_as<uint32_t>(bits_as<float>(magnitude << 13) * 5.192296858534828e33f));
    }
};

}  // namespace dsc
