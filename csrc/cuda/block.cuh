// Block-wide sums in a fixed order, so that a reduction gives the same bits in every run.
#pragma once

#include "common/launch.cuh"

namespace dsc::cuda {
namespace {  // each kernel file has its own, so that the sanitizers can fence its shared memory

template <class T>
__device__ inline T warp_sum(T value) {
    for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_down_sync(kFullMask, value, step);
    return value;
}

// The sum of every thread's value, returned to all of them. kThreads is the block size, a multiple of 32.
template <int kThreads, class T>
__device__ inline T block_sum(T value) {
    __shared__ T partial[kThreads / kWarp];
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    value = warp_sum(value);
    __syncthreads();  // the previous call's readers are done with partial
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) total += partial[w];
    return total;
}

}  // namespace
}  // namespace dsc::cuda
