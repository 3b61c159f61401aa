// Per row the k largest |c| (or c), with their columns; c from a matrix, or computed on the way as ⟨q_b, k_j⟩.
//
// Largest first, NaN before everything, ties to the lowest column; a row with fewer than k columns ends in (0, -1).
#pragma once

#include "common/types.h"

namespace dsc {

// The largest k the launchers serve.
DSC_LAUNCHER(int64_t topk_coefficients_most())

// Bytes of scratch for the two launchers below, as shape and queue have it.
DSC_LAUNCHER(int64_t topk_coefficients_scratch(DType dtype, Queue queue, int64_t B, int64_t N, int64_t k))
DSC_LAUNCHER(int64_t topk_inner_products_scratch(DType dtype, Queue queue, int64_t B, int64_t N, int64_t d, int64_t k))

// Bytes of shared memory a block of the second asks for (0 on the CPU).
DSC_LAUNCHER(int64_t topk_inner_products_shared(DType dtype, int64_t d))

//   C        (n, N), row stride C_stride, its first row being global row row_offset
//   rows     (B) global rows in [row_offset, row_offset + n), or null for rows row_offset .. row_offset + B - 1
//   signed_  the largest c, not |c|
//   values, indices  (B, k) contiguous, k >= 1
// With a zero diagonal column j of row j is passed over.
DSC_LAUNCHER(Status topk_coefficients(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n,
                                      int64_t row_offset, int64_t N, const int64_t* rows, int64_t B, int64_t k,
                                      bool signed_, bool zero_diagonal, void* scratch, void* values, int64_t* indices))

//   Q        (B, d), row stride Q_stride; its row b is sample rows[b], or row_offset + b without rows
//   K        (N, d), row stride K_stride
//   tf32     (CUDA) products in one pass of TF32 instead of three
//   values   (B, k) of float32, or float64 if that is the dtype of Q and K
DSC_LAUNCHER(Status topk_inner_products(DType dtype, Queue queue, bool tf32, const void* Q, int64_t Q_stride, int64_t B,
                                        const void* K, int64_t K_stride, int64_t N, int64_t d, const int64_t* rows,
                                        int64_t row_offset, int64_t k, bool signed_, bool zero_diagonal, void* scratch,
                                        void* values, int64_t* indices))

}  // namespace dsc
