// Each sample as a combination of the k that its support names: ridge, elastic net, or orthogonal matching pursuit.
//
// What the three share is the Gram matrix of a row's atoms, which is gathered, multiplied and factored in fast memory;
// common/on_support_row.h has what comes after the product, for every backend.
#pragma once

#include "common/types.h"

namespace dsc {

// Throughout:
//   X        (N, d), row stride X_stride: the samples that atoms are taken from
//   indices  (B, k), row stride indices_stride: each row's atoms; a negative one is padding
//   Q        (B, d), row stride Q_stride: what is to be written by them; or null for the samples themselves. Then
//            B = N, and an entry that names its own row is padding
//   scratch  on_support_scratch bytes
//   values   (B, k) contiguous; zero for padding

// The largest k the launchers serve.
DSC_LAUNCHER(int64_t on_support_most(DType dtype))

// Bytes of scratch, as shape and queue have it.
DSC_LAUNCHER(int64_t on_support_scratch(DType dtype, Queue queue, int64_t k))

// Bytes of shared memory a row asks for (0 on the CPU).
DSC_LAUNCHER(int64_t on_support_shared(DType dtype, int64_t k))

// argmin ‖q − Σ c_s x_s‖² + λ ‖c‖²
DSC_LAUNCHER(Status ridge_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                                     const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k,
                                     const void* Q, int64_t Q_stride, double lam, void* scratch, void* values))

// argmin ½ ‖q − Σ c_s x_s‖² + λ1 ‖c‖₁ + ½ λ2 ‖c‖²
DSC_LAUNCHER(Status elastic_net_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N,
                                           int64_t d, const int64_t* indices, int64_t indices_stride, int64_t B,
                                           int64_t k, const void* Q, int64_t Q_stride, double l1, double l2,
                                           void* scratch, void* values))

// At most n_nonzero atoms, one at a time, until the squared residual is at most tolerance · ‖q‖².
DSC_LAUNCHER(Status omp_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                                   const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                                   int64_t Q_stride, int64_t n_nonzero, double tolerance, void* scratch, void* values))

}  // namespace dsc
