// The bits of a number as a number of another type of the same size.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace dsc {

template <class To, class From>
DSC_HOST_DEVICE inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace dsc
