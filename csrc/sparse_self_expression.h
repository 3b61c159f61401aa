// Ẑ_b = Σ_s values[r_b, s] · M'[indices[r_b, s]]: self-expression with k coefficients a row, its gradients, and the
// step that consumes them. M' is the bank M whose rows r are replaced by the live rows Z.
#pragma once

#include "common/types.h"

namespace dsc {

// Throughout:
//   values   (n, k), row stride values_stride, its first row being global row row_offset
//   indices  (n, k), row stride indices_stride: columns of the coefficients; a negative one is padding
//   rows     (B) global rows in [row_offset, row_offset + n), or null for all n of them in order; then B = n
//   M        (N, d) of dtype `bank`, row stride M_stride; the dtype of values, or 16 bits wide beside float32
//   Z        (B, d) of the dtype of values, row stride Z_stride, or null for no splice; then slot is null as well
//   slot     (N) scratch: which row of Z stands in for row j of M
// With zero_diagonal an entry that names its own row counts as padding.

// out (B, d) contiguous.
DSC_LAUNCHER(Status sparse_self_expression(DType dtype, DType bank, Queue queue, const void* values,
                                           int64_t values_stride, const int64_t* indices, int64_t indices_stride,
                                           int64_t n, int64_t row_offset, int64_t k, const void* M, int64_t M_stride,
                                           int64_t N, int64_t d, const int64_t* rows, int64_t B, const void* Z,
                                           int64_t Z_stride, int32_t* slot, bool zero_diagonal, void* out))

// grad (B, k) contiguous: ⟨G_b, M'[indices[r_b, s]]⟩, zero for padding. G (B, d), row stride G_stride.
DSC_LAUNCHER(Status sparse_self_expression_grad(
    DType dtype, DType bank, Queue queue, const int64_t* indices, int64_t indices_stride, int64_t n, int64_t row_offset,
    int64_t k, const void* M, int64_t M_stride, int64_t N, int64_t d, const int64_t* rows, int64_t B, const void* Z,
    int64_t Z_stride, int32_t* slot, bool zero_diagonal, const void* G, int64_t G_stride, void* grad))

// The transposed product, out[t] = Σ values[r_b, s] · G_b over the entries (b, s) of target t, takes two launches.
//
// First keys (B · k): the target of each entry. Row j of the bank is target j, if bank_targets; row b of the live batch
// is target b after those of the bank, if live_targets; what has no target gets `targets`, the number of them.
DSC_LAUNCHER(Status sparse_self_expression_keys(Queue queue, const int64_t* indices, int64_t indices_stride, int64_t n,
                                                int64_t row_offset, int64_t k, int64_t N, const int64_t* rows,
                                                int64_t B, int32_t* slot, bool zero_diagonal, bool bank_targets,
                                                bool live_targets, int64_t targets, int32_t* keys))

// Whether the second launch wants the keys sorted: CUDA does (by a library's radix sort), the CPU counts them itself.
DSC_LAUNCHER(bool sparse_self_expression_wants_order())

// Bytes of scratch for the second launch.
DSC_LAUNCHER(int64_t sparse_self_expression_transposed_scratch(DType dtype, Queue queue, int64_t entries,
                                                               int64_t targets, int64_t d))

//   keys   (B · k) as above; if the order is wanted, sorted
//   order  (B · k) where each sorted key came from, ties in their old order; or null
//   out    (targets, d) contiguous; zeroed if the order is wanted, else targets without entries become zero
// Entries of a target are added in the order of (b, s), in pieces whose bounds depend on the keys alone.
DSC_LAUNCHER(Status sparse_self_expression_transposed(DType dtype, Queue queue, const int32_t* keys,
                                                      const int64_t* order, int64_t targets, const void* values,
                                                      int64_t values_stride, int64_t row_offset, int64_t k,
                                                      const int64_t* rows, int64_t B, const void* G, int64_t G_stride,
                                                      int64_t d, void* scratch, void* out))

}  // namespace dsc
