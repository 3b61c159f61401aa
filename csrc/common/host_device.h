// How functions are marked that several compilers share: the CPU's, once for each instruction set, and nvcc.
#pragma once

#ifdef __CUDACC__
#define DSC_HOST_DEVICE __host__ __device__
#else
// Always inlined, because cpu/simd.cpp is compiled for several processors: of a function that is not, the linker would
// keep one copy, perhaps one for a processor wider than the one at hand.
#define DSC_HOST_DEVICE __attribute__((always_inline))
#endif

// Not the same: what is written against a Team (common/on_support_row.h) calls the team's members, which nvcc has for
// the device alone, and is too long to be inlined wherever it is called. Internal linkage keeps its copies apart.
#ifdef __CUDACC__
#define DSC_TEAM __device__
#else
#define DSC_TEAM
#endif
