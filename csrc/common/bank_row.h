// What happens to one row on its way into the bank, shared by both backends: mixed with the old row, and cast to
// storage.
#pragma once

#include "common/dtype.h"

namespace dsc {

// Mixing and norms are computed in float, or in double if either side is double.
template <class Bank, class Live>
using Mixed = decltype(Computed<Bank>{} + Computed<Live>{});

template <class Acc, class T>
DSC_HOST_DEVICE inline Acc widen(T value) {
    return static_cast<Acc>(static_cast<Computed<T>>(value));
}

template <class T, class Acc>
DSC_HOST_DEVICE inline T narrow(Acc value) {
    return static_cast<T>(static_cast<Computed<T>>(value));
}

// momentum · old + (1 - momentum) · live; the old value is not read when nothing of it is kept (it may be anything,
// even NaN).
template <class Acc, class Bank, class Live>
DSC_HOST_DEVICE inline Acc mix(const Bank* old, const Live* live, Acc momentum) {
    const Acc fresh = widen<Acc>(*live);
    return momentum == Acc(0) ? fresh : momentum * widen<Acc>(*old) + (Acc(1) - momentum) * fresh;
}

}  // namespace dsc
