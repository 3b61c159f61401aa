// What a whole block does together: sums in a fixed order, so that they are the same bits in every run, and searches.
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

// Whether any of rows[begin, end) equals row; the same answer for every thread of the block.
template <int kThreads>
__device__ inline bool block_finds(const int64_t* rows, int64_t begin, int64_t end, int64_t row) {
    bool found = false;
    for (int64_t b = begin + threadIdx.x; b < end; b += kThreads) found |= rows[b] == row;
    return __syncthreads_or(found) != 0;
}

}  // namespace
}  // namespace dsc::cuda
