// thrC: per row the smallest set of largest |c| whose sum exceeds rho · ‖row‖₁; ties go to the lowest column.
#pragma once

#include "common/types.h"

namespace dsc {

// Bytes of scratch for rows of m columns.
DSC_LAUNCHER(int64_t threshold_coefficients_scratch(int64_t m, Queue queue))

//   C    (n, m), row stride C_stride
//   out  (n, m) contiguous
// Sums are taken in double. A row whose l1 norm is not finite is copied as it is.
DSC_LAUNCHER(Status threshold_coefficients(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n,
                                           int64_t m, double rho, void* scratch, void* out))

}  // namespace dsc
