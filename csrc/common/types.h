// The vocabulary of every launcher: element types, status, and the queue that work is put on.
//
// A launcher takes raw pointers, int64 sizes and strides (in elements), and a Queue. It never allocates, throws or
// synchronizes; it returns a Status, which bindings.cpp turns into a Python exception. No CUDA and no torch header is
// needed to read or call one, so the CPU backend, the CUDA backend and its emulation share the declarations in <op>.h.
#pragma once

#include <cstdint>

namespace dsc {

enum class DType : int32_t { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

// Where the work goes: on CUDA the cudaStream_t, on the CPU the number of threads of the team.
using Queue = int64_t;

// code 0 is success; a positive code is a cudaError_t; a negative one is an argument a launcher cannot serve.
struct Status {
    int32_t code = 0;
    const char* message = "";

    explicit operator bool() const { return code == 0; }
};

inline constexpr int32_t kUnsupportedDType = -1;
inline constexpr int32_t kIndexOutOfRange = -2;

// Declares a launcher once for every backend, with one signature.
#define DSC_LAUNCHER(...) \
    namespace cpu {       \
    __VA_ARGS__;          \
    }                     \
    namespace cuda {      \
    __VA_ARGS__;          \
    }

}  // namespace dsc
