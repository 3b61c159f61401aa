// How every kernel of this package is launched, and how it finds its dynamic shared memory.
//
// One helper instead of <<<>>> at each call site: it skips empty grids (a grid of 0 blocks is an error in CUDA, and
// means "nothing to do" to us), and it is the seam where the SIMT emulator of tests/simt takes over, so that the same
// .cu file runs on a machine without a GPU. Compiled with -DDSC_SIMT the emulator's header supplies threads, barriers
// and shuffles.
#pragma once

#ifdef DSC_SIMT
#include "simt.h"
#else
#include <cuda_runtime.h>
#undef NDEBUG  // DSC_DEVICE_ASSERT must not vanish
#include <cassert>
#endif

#include "common/threads.h"
#include "common/types.h"

namespace dsc::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

#ifdef DSC_SIMT

#define DSC_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::simt::dynamic_shared())

#define DSC_DEVICE_ASSERT(condition, message)    \
    do {                                         \
        if (!(condition)) ::simt::fail(message); \
    } while (false)

template <class... Params, class... Args>
Status launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Queue, Args... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
    ::simt::run(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                [=] { kernel(static_cast<Params>(args)...); });
    return {};
}

#else

#define DSC_DYNAMIC_SHARED(T, name)                          \
    extern __shared__ __align__(16) unsigned char name##_[]; \
    T* name = reinterpret_cast<T*>(name##_)

// Values on the device cannot be checked on the host without waiting for them; a violation ends in a device-side
// assertion, as it does in PyTorch, in release builds too.
#define DSC_DEVICE_ASSERT(condition, message) assert((condition) && message)

template <class... Params, class... Args>
Status launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Queue queue, Args... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
    // 48 KB is what a kernel gets unasked; above it the function must opt in.
    if (shared_bytes > 48 * 1024) {
        const cudaError_t opted =
            cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
        if (opted != cudaSuccess) return {opted, cudaGetErrorString(opted)};
    }
    // clang-format off: it would split >>>
    kernel<<<grid, block, shared_bytes, reinterpret_cast<cudaStream_t>(queue)>>>(static_cast<Params>(args)...);
    // clang-format on
    const cudaError_t launched = cudaGetLastError();
    return {launched, launched == cudaSuccess ? "" : cudaGetErrorString(launched)};
}

#endif

// Blocks to cover n items, capped at what grid.x allows; kernels loop with a grid stride where n may exceed it.
inline unsigned blocks_for(int64_t n, int64_t per_block) {
    const int64_t blocks = divide_up(n, per_block);
    return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

}  // namespace dsc::cuda
