// How work is shared out: into how many pieces, and which thread of a team this one is.
#pragma once

#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/host_device.h"

namespace dsc {

// How many pieces it takes to hold n >= 0.
DSC_HOST_DEVICE constexpr int64_t divide_up(int64_t n, int64_t piece) { return (n + piece - 1) / piece; }

// n >= 0 in whole pieces.
DSC_HOST_DEVICE constexpr int64_t round_up(int64_t n, int64_t piece) { return (n + piece - 1) / piece * piece; }

// The number of this CPU thread in its team, 0 without OpenMP.
inline int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

}  // namespace dsc
