// Rows into the bank: a block a row, one pass (two with normalisation). Floor: bytes of Z read and bank written over
// bandwidth.
//
// Deterministic: of duplicate rows only the last one's block writes. Nothing is read on the host: the FIFO cursor is
// advanced on the device, in a launch of its own after the rows are in, since every block reads it.
#include "bank.h"
#include "bank_row.h"
#include "cuda/block.cuh"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 128;

template <class Bank, class Live>
__device__ void enter_row(Bank* old, const Live* live, int64_t d, bool normalize, double momentum) {
    using Acc = typename Compute<Bank, Live>::type;
    const Acc keep = static_cast<Acc>(momentum);
    Acc scale = 1;
    if (normalize) {
        Acc squares = 0;
        for (int64_t j = threadIdx.x; j < d; j += kThreads) {
            const Acc value = mix(old + j, live + j, keep);
            squares += value * value;
        }
        squares = block_sum<kThreads>(squares);
        if (squares > Acc(0)) scale = Acc(1) / sqrt(squares);
    }
    for (int64_t j = threadIdx.x; j < d; j += kThreads) old[j] = narrow<Bank>(mix(old + j, live + j, keep) * scale);
}

template <class Bank, class Live>
__global__ void __launch_bounds__(kThreads)
    bank_scatter_kernel(Bank* bank, int64_t bank_stride, int64_t N, int64_t d, const int64_t* rows, const Live* Z,
                        int64_t Z_stride, int64_t B, bool normalize, double momentum) {
    const int64_t b = blockIdx.x, row = rows[b];
    DSC_DEVICE_ASSERT(row >= 0 && row < N, "bank_scatter_: rows must lie in the bank");
    if (block_finds<kThreads>(rows, b + 1, B, row)) return;  // overwritten by a later one
    enter_row(bank + row * bank_stride, Z + b * Z_stride, d, normalize, momentum);
}

template <class Bank, class Live>
__global__ void __launch_bounds__(kThreads)
    bank_push_kernel(Bank* bank, int64_t bank_stride, int64_t N, int64_t d, const int64_t* cursor, const Live* Z,
                     int64_t Z_stride, int64_t first, bool normalize) {
    const int64_t b = first + blockIdx.x;
    const int64_t start = (*cursor % N + N) % N;
    enter_row(bank + (start + b) % N * bank_stride, Z + b * Z_stride, d, normalize, 0.0);
}

__global__ void advance_cursor_kernel(int64_t* cursor, int64_t B, int64_t N) {
    *cursor = ((*cursor % N + N) % N + B) % N;
}

}  // namespace

Status bank_scatter_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N,
                     int64_t d, const int64_t* rows, const void* Z, int64_t Z_stride, int64_t B, bool normalize,
                     double momentum) {
    return with_bank_types(bank_dtype, Z_dtype, [&](auto bank_zero, auto live_zero) {
        using Bank = decltype(bank_zero);
        using Live = decltype(live_zero);
        return launch(bank_scatter_kernel<Bank, Live>, dim3(blocks_for(B, 1)), dim3(kThreads), 0, queue,
                      static_cast<Bank*>(bank), bank_stride, N, d, rows, static_cast<const Live*>(Z), Z_stride, B,
                      normalize, momentum);
    });
}

Status bank_push_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N, int64_t d,
                  int64_t* cursor, const void* Z, int64_t Z_stride, int64_t B, bool normalize) {
    const int64_t first = B > N ? B - N : 0;
    const Status written = with_bank_types(bank_dtype, Z_dtype, [&](auto bank_zero, auto live_zero) {
        using Bank = decltype(bank_zero);
        using Live = decltype(live_zero);
        return launch(bank_push_kernel<Bank, Live>, dim3(blocks_for(B - first, 1)), dim3(kThreads), 0, queue,
                      static_cast<Bank*>(bank), bank_stride, N, d, static_cast<const int64_t*>(cursor),
                      static_cast<const Live*>(Z), Z_stride, first, normalize);
    });
    if (!written) return written;
    return launch(advance_cursor_kernel, dim3(1), dim3(1), 0, queue, cursor, B, N);
}

}  // namespace dsc::cuda
