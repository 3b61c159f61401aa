// Every line of inline PTX in this package, behind a function whose host twin the emulator supplies (tests/simt).
#pragma once

#include "common/launch.cuh"

namespace dsc::cuda {

#ifdef DSC_SIMT

// The emulator performs the copy only when it is waited for, so that a missing wait shows as a wrong result.
template <int kBytes>
inline void cp_async(void* shared, const void* global) {
    ::simt::cp_async(shared, global, kBytes);
}
inline void cp_async_commit() { ::simt::cp_async_commit(); }
template <int kPending>
inline void cp_async_wait() {
    ::simt::cp_async_wait(kPending);
}

#else

// Copies kBytes (4, 8 or 16; both addresses aligned to it) from global to shared memory without passing through
// registers.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global) {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
    const unsigned destination = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n" ::"r"(destination), "l"(global), "n"(kBytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Blocks until at most kPending of this thread's committed groups are still in flight.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

#endif

}  // namespace dsc::cuda
