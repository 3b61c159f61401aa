// The vectors of the instruction set that simd.cpp is being compiled for. Only simd.cpp includes what is in this
// folder.
//
// Nothing here includes inline functions of the standard library: the linker keeps one copy of those, and it must not
// be one compiled for a processor wider than the one at hand.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace dsc::cpu {
namespace {

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(DSC_VECTOR_BYTES)));
    typedef type unaligned __attribute__((aligned(sizeof(T))));
    static constexpr int kLanes = DSC_VECTOR_BYTES / sizeof(T);
};

constexpr int kRows = DSC_TILE_ROWS;
constexpr int kVectors = 2;
template <class T>
constexpr int kColumns = kVectors * Vector<T>::kLanes;

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

}  // namespace
}  // namespace dsc::cpu
