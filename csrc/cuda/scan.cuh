// Prefix sums of counts, in two launches: every block adds up its piece, then every block adds the sums of the pieces
// before its own and scans. Nobody waits for another block, and integers add up the same in any order.
#pragma once

#include "cuda/block.cuh"

namespace dsc::cuda {
namespace {

constexpr int kScanThreads = 256;
constexpr int64_t kScanEach = 8;
constexpr int64_t kScanPiece = kScanThreads * kScanEach;

__host__ __device__ inline int64_t scan_pieces(int64_t n) { return divide_up(n, kScanPiece); }

__global__ void __launch_bounds__(kScanThreads) piece_sums_kernel(const int64_t* counts, int64_t n, int64_t* sums) {
    const int64_t begin = blockIdx.x * kScanPiece, end = begin + kScanPiece < n ? begin + kScanPiece : n;
    int64_t sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kScanThreads) sum += counts[i];
    sum = block_sum<kScanThreads>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kScanThreads) scan_kernel(int64_t* counts, int64_t n, const int64_t* sums) {
    __shared__ int64_t before[kScanThreads / kWarp];
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    int64_t total = 0;
    for (int64_t piece = threadIdx.x; piece < blockIdx.x; piece += kScanThreads) total += sums[piece];
    total = block_sum<kScanThreads>(total);

    const int64_t begin = blockIdx.x * kScanPiece + threadIdx.x * kScanEach;
    int64_t mine = 0;
    for (int64_t i = begin; i < begin + kScanEach && i < n; ++i) mine += counts[i];
    int64_t up_to = mine;  // of the warp's threads up to this one
    for (int step = 1; step < kWarp; step *= 2) {
        const int64_t other = __shfl_up_sync(kFullMask, static_cast<long long>(up_to), step);
        if (lane >= step) up_to += other;
    }
    if (lane == kWarp - 1) before[warp] = up_to;
    __syncthreads();
    for (int w = 0; w < warp; ++w) total += before[w];
    total += up_to - mine;
    for (int64_t i = begin; i < begin + kScanEach && i < n; ++i) counts[i] = total += counts[i];
}

// counts (n) becomes its inclusive prefix sums; sums is scratch of scan_pieces(n).
inline Status scan(Queue queue, int64_t* counts, int64_t n, int64_t* sums) {
    const dim3 grid(static_cast<unsigned>(scan_pieces(n)));
    const Status added = launch(piece_sums_kernel, grid, dim3(kScanThreads), 0, queue, counts, n, sums);
    if (!added) return added;
    return launch(scan_kernel, grid, dim3(kScanThreads), 0, queue, counts, n, sums);
}

}  // namespace
}  // namespace dsc::cuda
