// A coefficient and its column as one integer whose order is the order of topk_coefficients: larger is better.
//
// By |c|: magnitude, then the column upside down, then the sign; by c: the value's rank, then the column upside down.
// A total order, so that a selection by it is unique whoever makes it in whatever sequence. NaN ranks above
// infinity, -0 with 0. Zero stands for no coefficient at all.
#pragma once

#include "common/bits.h"

namespace dsc {

template <class T>
struct Words;
template <>
struct Words<float> {
    using Half = uint32_t;  // of one number
    using Whole = uint64_t;
    static constexpr Half kInfinity = 0x7f800000u;
};
template <>
struct Words<double> {
    using Half = uint64_t;
    __extension__ typedef unsigned __int128 Whole;
    static constexpr Half kInfinity = 0x7ff0000000000000u;
};

template <class T, bool kSigned>
struct Ranked {
    using Half = typename Words<T>::Half;
    using Key = typename Words<T>::Whole;

    static constexpr int kBits = 8 * sizeof(T);
    static constexpr Half kSign = Half(1) << (kBits - 1);

    // What columns are compared by: order of these is order of |c| or c, with NaN on top.
    DSC_HOST_DEVICE static Half rank(T value) {
        if (value != value) return kSigned ? ~Half(0) : Half(~kSign);
        const Half bits = bits_as<Half>(value + T(0));  // -0 + 0 = 0
        if constexpr (kSigned) return bits & kSign ? Half(~bits) : Half(bits | kSign);
        return bits & ~kSign;
    }
    DSC_HOST_DEVICE static Key key(T value, int64_t column) {
        const Half upside_down = Half(~static_cast<Half>(column));
        if constexpr (kSigned) return Key(rank(value)) << kBits | upside_down;
        return Key(rank(value)) << (kBits + 1) | Key(upside_down) << 1 | bits_as<Half>(value) >> (kBits - 1);
    }
    DSC_HOST_DEVICE static int64_t column(Key key) {
        return static_cast<int64_t>(Half(~static_cast<Half>(kSigned ? key : key >> 1)));
    }
    DSC_HOST_DEVICE static Half rank_of(Key key) { return static_cast<Half>(key >> (kSigned ? kBits : kBits + 1)); }
    // What another number, or its magnitude, has to be not at most to beat `key` at a later column. Nothing is at most
    // NaN; infinity bars all but NaN.
    DSC_HOST_DEVICE static T bar(Key key) {
        const T least = value(key);
        if (least != least) return bits_as<T>(Words<T>::kInfinity);
        return kSigned || least > T(0) ? least : -least;
    }
    DSC_HOST_DEVICE static T value(Key key) {
        if constexpr (kSigned) {
            const Half bits = static_cast<Half>(key >> kBits);
            return bits_as<T>(bits & kSign ? Half(bits & ~kSign) : Half(~bits));
        }
        return bits_as<T>(static_cast<Half>(key >> (kBits + 1)) | static_cast<Half>(key & 1) << (kBits - 1));
    }
};

}  // namespace dsc
