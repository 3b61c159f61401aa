// Ẑ_b = Σ_{j ≠ r_b} C[r_b, j] M'_j, with M' the bank M whose rows r are replaced by the live rows Z.
#pragma once

#include "common/types.h"

namespace dsc {

// How many pieces the sum over j is cut into, each summed by itself and then added in order: enough to fill a GPU when
// B and d are small, 1 on the CPU. A function of the shape alone, so that results do not depend on the device.
DSC_LAUNCHER(int64_t self_expression_splits(int64_t B, int64_t N, int64_t d))

//   tf32     products of float32 may be taken in TF32 (tensor cores; the CPU takes no notice)
//   C        (n, N), row stride C_stride, its first row being global row row_offset
//   M        (N, d), row stride M_stride
//   rows     (B) global rows; each must lie in [row_offset, row_offset + n), and in [0, N) with a zero diagonal or a
//            splice
//   Z        (B, d), row stride Z_stride, or null for no splice; then slot is null as well
//   slot     (N) scratch: which row of Z stands in for row j of M, or -1
//   partial  (splits, B, d) scratch, or out itself with splits = 1
//   out      (B, d) contiguous
DSC_LAUNCHER(Status self_expression(DType dtype, Queue queue, bool tf32, const void* C, int64_t C_stride, int64_t n,
                                    int64_t row_offset, const void* M, int64_t M_stride, int64_t N, int64_t d,
                                    const int64_t* rows, int64_t B, const void* Z, int64_t Z_stride, int32_t* slot,
                                    bool zero_diagonal, int64_t splits, void* partial, void* out))

// The batch's own block of C, which carries the gradient to the live rows: block[a, b] = C[r_a, r_b], and zero where
// r_b is lost to a later duplicate, and where r_a = r_b with a zero diagonal.
//   block    (B, B) contiguous; the other arguments as above
DSC_LAUNCHER(Status self_expression_block(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n,
                                          int64_t row_offset, int64_t N, const int64_t* rows, int64_t B, int32_t* slot,
                                          bool zero_diagonal, void* block))

}  // namespace dsc
