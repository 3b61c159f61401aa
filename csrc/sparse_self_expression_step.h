// One step of the batch's rows of sparse coefficients, straight from the gradient G of Ẑ: the k dots of a row with the
// bank are formed and consumed.
#pragma once

#include "common/row_step.h"
#include "common/types.h"

namespace dsc {

// Bytes of scratch that sparse_self_expression_step_ is to be handed.
DSC_LAUNCHER(int64_t sparse_self_expression_step_scratch(int64_t n, int64_t B))

// values, exp_avg, exp_avg_sq  (n, k) contiguous, the moments of type moments: that of values, or bf16 beside float32;
// null
//                              if proximal
// slot                         (max(N, row_offset + n)) scratch, null if rows is
// All else as in sparse_self_expression.h and self_expression_step.h. Padding, and the own row with zero_diagonal, gets
// no gradient of the data; the penalties act on it. Gradients of duplicate rows are added in the order of the batch,
// and the row is stepped once. On the CPU nothing is changed if a row or an index is out of range.
DSC_LAUNCHER(Status sparse_self_expression_step_(
    DType dtype, DType bank, Queue queue, void* values, const int64_t* indices, int64_t indices_stride, int64_t n,
    int64_t row_offset, int64_t k, DType moments, void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G,
    int64_t G_stride, const int64_t* rows, int64_t B, const void* M, int64_t M_stride, int64_t N, int64_t d,
    const void* Z, int64_t Z_stride, int32_t* slot, Rule rule, double lr, double beta1, double beta2, double eps,
    double weight_decay, double l1, bool zero_diagonal, const float* grad_scale, const float* found_inf, void* scratch))

}  // namespace dsc
