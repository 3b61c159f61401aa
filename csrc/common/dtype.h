// From the element type that a launcher is told to the C++ type it stands for.
#pragma once

#include <type_traits>

#include "common/half.h"
#include "common/types.h"

namespace dsc {

// The type that numbers stored as S are computed in.
template <class S>
using Computed = std::conditional_t<std::is_same_v<S, double>, double, float>;

inline Status unsupported_dtype() { return {kUnsupportedDType, "no kernel for this dtype"}; }

// Calls visit with a zero of the dtype's type, for kernels on float32 and float64.
template <class Visit>
Status with_real_type(DType dtype, Visit&& visit) {
    if (dtype == DType::f32) return visit(float{});
    if (dtype == DType::f64) return visit(double{});
    return unsupported_dtype();
}

// The same for kernels that also read numbers of 16 bits.
template <class Visit>
Status with_storage_type(DType dtype, Visit&& visit) {
    if (dtype == DType::f16) return visit(Float16{});
    if (dtype == DType::bf16) return visit(BFloat16{});
    return with_real_type(dtype, visit);
}

// What visit returns for a zero of the type that numbers of the dtype are computed in.
template <class Visit>
auto with_computed_type(DType dtype, Visit&& visit) {
    return dtype == DType::f64 ? visit(double{}) : visit(float{});
}

// Whether coefficients of a dtype can meet a bank of another: their own, or 16 bits where they are float32.
inline bool known_bank(DType dtype, DType bank) {
    return dtype == DType::f64 ? bank == DType::f64 : dtype == DType::f32 && bank != DType::f64;
}

}  // namespace dsc
