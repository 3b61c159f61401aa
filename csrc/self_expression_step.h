// One step of the batch's rows of C, straight from the gradient G of Ẑ: dC = G M'ᵀ is formed tile by tile and consumed.
#pragma once

#include "common/row_step.h"
#include "common/types.h"

namespace dsc {

// Bytes of scratch that self_expression_step_ is to be handed, aligned to 64. On the CPU it grows with the threads.
DSC_LAUNCHER(int64_t self_expression_step_scratch(DType dtype, Queue queue, int64_t B, int64_t N, int64_t d))

//   tf32        products of float32 may be taken in TF32 (tensor cores; the CPU takes no notice)
//   C           (n, N) contiguous, its first row being global row row_offset
//   exp_avg, exp_avg_sq  (n, N) contiguous, of type moments: that of C, or bf16 with C in float32; null if proximal
//   step        (n) counted up by one for each row stepped; null if proximal
//   G           (B, d), row stride G_stride
//   rows        (B) global rows in [row_offset, row_offset + n), or null for row_offset .. row_offset + B - 1. The
//               gradients of duplicates are added in the order of the batch, and the row is stepped once
//   M, Z        as in self_expression.h: the bank, and the live rows spliced into it at rows, or null
//   slot        (slots) scratch for the last position in rows that holds row j, or -1, with slots the larger of N and
//               row_offset + n; null if rows is
//   zero_diagonal        the entry (i, row_offset + i) gets no gradient of the data; the penalties act on it
//   grad_scale  one float that G is divided by, or null
//   found_inf   one float: unless it is zero nothing is changed; or null
// g = dC + weight_decay · c + l1 · sign(c), and so on by the rule: common/row_step.h
DSC_LAUNCHER(Status self_expression_step_(DType dtype, Queue queue, bool tf32, void* C, int64_t n, int64_t row_offset,
                                          DType moments, void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G,
                                          int64_t G_stride, const int64_t* rows, int64_t B, const void* M,
                                          int64_t M_stride, int64_t N, int64_t d, const void* Z, int64_t Z_stride,
                                          int32_t* slot, Rule rule, double lr, double beta1, double beta2, double eps,
                                          double weight_decay, double l1, bool zero_diagonal, const float* grad_scale,
                                          const float* found_inf, void* scratch))

}  // namespace dsc
