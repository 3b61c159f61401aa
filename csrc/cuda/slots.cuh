// Which position of the batch stands for a sample: slot[j] is the last b with rows[b] = j, or -1.
#pragma once

#include "common/launch.cuh"

namespace dsc::cuda {
namespace {

constexpr int kSlotThreads = 256;

__global__ void clear_slots_kernel(int32_t* slot, int64_t slots) {
    for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < slots; j += int64_t(gridDim.x) * blockDim.x)
        slot[j] = -1;
}

// The last of duplicate rows wins: the largest b.
__global__ void claim_slots_kernel(const int64_t* rows, int64_t B, int64_t first, int64_t end, int32_t* slot) {
    for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < B; b += int64_t(gridDim.x) * blockDim.x) {
        DSC_DEVICE_ASSERT(rows[b] >= first && rows[b] < end, "rows must lie in the coefficient matrix and in the bank");
        atomicMax(&slot[rows[b]], static_cast<int32_t>(b));
    }
}

// For rows (B), which must lie in [first, end), and slot (slots) with slots >= end.
inline Status fill_slots(Queue queue, const int64_t* rows, int64_t B, int64_t first, int64_t end, int32_t* slot,
                         int64_t slots) {
    const dim3 clearing(blocks_for(slots, kSlotThreads)), claiming(blocks_for(B, kSlotThreads));
    if (Status s = launch(clear_slots_kernel, clearing, dim3(kSlotThreads), 0, queue, slot, slots); !s) return s;
    return launch(claim_slots_kernel, claiming, dim3(kSlotThreads), 0, queue, rows, B, first, end, slot);
}

}  // namespace
}  // namespace dsc::cuda
