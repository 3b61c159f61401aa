// Adam, or a proximal step, on some rows of a matrix, each row with its own step count.
#pragma once

#include "common/row_step.h"
#include "common/types.h"

namespace dsc {

//   C        (n, m) contiguous, its first row being global row row_offset (for the rounding of bf16 moments)
//   exp_avg, exp_avg_sq  (n, m) contiguous, of type moments: that of C, or bf16 with C in float32; null if proximal
//   step     (n) counted up by one for each row stepped; null if proximal
//   rows     (B) rows of C to step, or null for rows 0 .. B-1; gradients of duplicates are added
//   grad     (B, m), row stride grad_stride
// The rules: common/row_step.h
DSC_LAUNCHER(Status row_adam_(DType dtype, Queue queue, void* C, DType moments, void* exp_avg, void* exp_avg_sq,
                              int64_t* step, int64_t n, int64_t m, int64_t row_offset, const int64_t* rows,
                              const void* grad, int64_t grad_stride, int64_t B, Rule rule, double lr, double beta1,
                              double beta2, double eps, double weight_decay, double l1))

}  // namespace dsc
