// Row-wise Adam: one pass over the rows of the batch, a block per piece of a row.
//
// Floor: 28 bytes an element in float32 (reads c, m, v, grad; writes c, m, v) over the memory bandwidth; arithmetic is
// hidden. Deterministic: an element is written by one thread; gradients of duplicate rows are added in the order of the
// batch.
#include "common/dtype.h"
#include "cuda/block.cuh"
#include "cuda/row_step.cuh"
#include "row_adam.h"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kPiece = 4096;  // columns a block takes: enough to hide its look at the other rows
constexpr int64_t kMaxPieces = 65535;

template <class T>
__global__ void __launch_bounds__(kThreads)
    row_adam_kernel(T* C, T* exp_avg, T* exp_avg_sq, const int64_t* step, int64_t n, int64_t m, const int64_t* rows,
                    const T* grad, int64_t grad_stride, int64_t B, Rates rates) {
    const int64_t b = blockIdx.x;
    const int64_t row = rows ? rows[b] : b;
    DSC_DEVICE_ASSERT(row >= 0 && row < n, "row_adam_: rows must lie in C");
    if (rows && block_finds<kThreads>(rows, 0, b, row)) return;  // its first occurrence does it
    const bool duplicated = rows && block_finds<kThreads>(rows, b + 1, B, row);

    const RowStep<T> constants = row_step<T>(rates, row, step[row] + 1);

    for (int64_t j = blockIdx.y * kThreads + threadIdx.x; j < m; j += int64_t(gridDim.y) * kThreads) {
        T g = grad[b * grad_stride + j];
        for (int64_t other = b + 1; duplicated && other < B; ++other) {
            if (rows[other] == row) g += grad[other * grad_stride + j];
        }
        const int64_t at = row * m + j;
        step_element(C[at], exp_avg + at, exp_avg_sq + at, g, j, constants);
    }
}

// Counts each row once; a launch of its own, since every block of the row has to read the old count.
__global__ void __launch_bounds__(kThreads) count_steps_kernel(int64_t* step, const int64_t* rows) {
    const int64_t b = blockIdx.x;
    const int64_t row = rows ? rows[b] : b;
    if (rows && block_finds<kThreads>(rows, 0, b, row)) return;
    if (threadIdx.x == 0) ++step[row];
}

}  // namespace

Status row_adam_(DType dtype, Queue queue, void* C, void* exp_avg, void* exp_avg_sq, int64_t* step, int64_t n,
                 int64_t m, const int64_t* rows, const void* grad, int64_t grad_stride, int64_t B, double lr,
                 double beta1, double beta2, double eps, double weight_decay, double l1, int64_t*) {
    const int64_t pieces = divide_up(m, kPiece);
    const dim3 grid(blocks_for(B, 1), static_cast<unsigned>(pieces < kMaxPieces ? pieces : kMaxPieces));
    const Rates rates = {Rule::adam, lr, beta1, beta2, eps, weight_decay, l1};
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        if (Status s = launch(row_adam_kernel<T>, grid, dim3(kThreads), 0, queue, static_cast<T*>(C),
                              static_cast<T*>(exp_avg), static_cast<T*>(exp_avg_sq), static_cast<const int64_t*>(step),
                              n, m, rows, static_cast<const T*>(grad), grad_stride, B, rates);
            !s) {
            return s;
        }
        return launch(count_steps_kernel, dim3(blocks_for(B, 1)), dim3(kThreads), 0, queue, step, rows);
    });
}

}  // namespace dsc::cuda
