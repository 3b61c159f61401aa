// Adam on some rows of a matrix, each row with its own step count.
#pragma once

#include "common/types.h"

namespace dsc {

//   C, exp_avg, exp_avg_sq  (n, m) contiguous
//   step                    (n)
//   rows                    (B) rows to step, or null for rows 0 .. B-1; gradients of duplicates are added
//   grad                    (B, m), row stride grad_stride
//   scratch                 (rows_scratch(B)), see rows_scratch.h; not needed without rows
// g = grad + weight_decay · c + l1 · sign(c)
DSC_LAUNCHER(Status row_adam_(DType dtype, Queue queue, void* C, void* exp_avg, void* exp_avg_sq, int64_t* step,
                              int64_t n, int64_t m, const int64_t* rows, const void* grad, int64_t grad_stride,
                              int64_t B, double lr, double beta1, double beta2, double eps, double weight_decay,
                              double l1, int64_t* scratch))

}  // namespace dsc
