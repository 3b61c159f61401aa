// What happens to one row on its way into the bank, shared by both backends: mixed with the old row, and cast to
// storage.
#pragma once

#include "common/half.h"
#include "common/types.h"

namespace dsc {

// Mixing and norms are computed in float, or in double if either side is double.
template <class Bank, class Live>
struct Compute {
    using type = float;
};
template <class Live>
struct Compute<double, Live> {
    using type = double;
};
template <class Bank>
struct Compute<Bank, double> {
    using type = double;
};
template <>
struct Compute<double, double> {
    using type = double;
};

template <class T>
struct Widen {
    using type = T;
};
template <>
struct Widen<Float16> {
    using type = float;
};
template <>
struct Widen<BFloat16> {
    using type = float;
};

template <class Acc, class T>
DSC_HOST_DEVICE inline Acc widen(T value) {
    return static_cast<Acc>(static_cast<typename Widen<T>::type>(value));
}

template <class T, class Acc>
DSC_HOST_DEVICE inline T narrow(Acc value) {
    return static_cast<T>(static_cast<typename Widen<T>::type>(value));
}

// momentum · old + (1 - momentum) · live; the old value is not read when nothing of it is kept (it may be anything,
// even NaN).
template <class Acc, class Bank, class Live>
DSC_HOST_DEVICE inline Acc mix(const Bank* old, const Live* live, Acc momentum) {
    const Acc fresh = widen<Acc>(*live);
    return momentum == Acc(0) ? fresh : momentum * widen<Acc>(*old) + (Acc(1) - momentum) * fresh;
}

// Calls visit(Bank{}, Live{}) with the element types of the two dtypes.
template <class Visit>
Status with_bank_types(DType bank, DType live, Visit&& visit) {
    const auto with_live = [&](auto bank_zero) -> Status {
        switch (live) {
            case DType::f32:
                return visit(bank_zero, float{});
            case DType::f64:
                return visit(bank_zero, double{});
            case DType::f16:
                return visit(bank_zero, Float16{});
            case DType::bf16:
                return visit(bank_zero, BFloat16{});
        }
        return unsupported_dtype();
    };
    switch (bank) {
        case DType::f32:
            return with_live(float{});
        case DType::f64:
            return with_live(double{});
        case DType::f16:
            return with_live(Float16{});
        case DType::bf16:
            return with_live(BFloat16{});
    }
    return unsupported_dtype();
}

}  // namespace dsc
