// A row's atoms and target, and the memory in which simd/solve_on_support.h finds its coefficients.
#pragma once

#include <cstdint>

namespace dsc::cpu {

inline constexpr int64_t kGramSlice =
    64;  // features that are packed at a time: two panels of them stay in the L1 cache

template <class T>
struct SupportTask {
    const T** rows;  // (m + 1) the atoms, then the target
    int m;
    int64_t d;
    T rounding;
    int64_t ld;  // m + 1 in whole tiles
    T* panels;   // (kGramSlice, ld)
    T* G;        // (m + 1, ld)
    T* V;        // (m, ld)
    T* vectors;
    int32_t* lists;
};

// Each returns the m coefficients.
template <class T>
struct OnSupport {
    const T* (*ridge)(const SupportTask<T>& task, T lam);
    const T* (*elastic_net)(const SupportTask<T>& task, T l1, T l2);
    const T* (*pursuit)(const SupportTask<T>& task, int64_t most, T tolerance);
};

}  // namespace dsc::cpu
