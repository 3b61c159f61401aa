// The two directions of an edge made one, shared by both backends and by both forms of input.
#pragma once

#include <type_traits>

#include "common/bits.h"
#include "symmetrize_affinity.h"

namespace dsc {

// own, other >= 0 or NaN, which stays NaN in all three. Symmetric to the last bit: W is exactly its transpose.
template <Reduce reduce, class T>
DSC_HOST_DEVICE inline T combine(T own, T other) {
    if (reduce == Reduce::mean) return (own + other) / T(2);
    if (reduce == Reduce::max) return own != own ? own : own > other ? own : other;
    const T a = own > T(1) ? T(1) : own, b = other > T(1) ? T(1) : other;
    return a + b - a * b;
}

// The value or zero, without a branch.
template <class T>
DSC_HOST_DEVICE inline T if_taken(bool taken, T value) {
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    return bits_as<T>(bits_as<Bits>(value) & -static_cast<Bits>(taken));
}

// Calls visit with an integral constant of the reduction.
template <class Visit>
Status with_reduce(Reduce reduce, Visit&& visit) {
    if (reduce == Reduce::mean) {
        return visit(std::integral_constant<Reduce, Reduce::mean>{});
    }
    if (reduce == Reduce::max) {
        return visit(std::integral_constant<Reduce, Reduce::max>{});
    }
    return visit(std::integral_constant<Reduce, Reduce::t_conorm>{});
}

}  // namespace dsc
