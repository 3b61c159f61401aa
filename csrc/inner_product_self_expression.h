// Ẑ_b = Σ_{j ≠ r_b} c_bj v_j with c_bj = scale · φ(⟨q_b, k_j⟩), φ(s) = sign(s) · max(|s| − threshold, 0), and the row
// norms ‖c_b‖₁ and ‖c_b‖₂². The coefficients c are never stored: the backward computes them again.
#pragma once

#include "common/types.h"

namespace dsc {

// Whether the kernels read matrices of this type; others are cast before. All else (threshold, scratch, results) has
// the type they compute in: double for double, float for the rest.
DSC_LAUNCHER(bool inner_product_self_expression_reads(DType dtype))

// How many numbers of the compute type the forward, or the backward, needs as scratch.
DSC_LAUNCHER(int64_t inner_product_self_expression_scratch(DType dtype, int64_t B, int64_t N, int64_t dq, int64_t dv,
                                                           bool backward))

//   Q          (B, dq), row stride Q_stride          threshold  one number
//   K          (N, dq), row stride K_stride          rows       (B) in [0, N): the sample that each query is, whose
//   V          (N, dv), row stride V_stride                     coefficient is left out; or null where none is
//   out        (B, dv) contiguous                    l1, l2     (B)
// tf32: float products on tensor cores may round their operands to TF32 (CUDA).
DSC_LAUNCHER(Status inner_product_self_expression(DType dtype, Queue queue, bool tf32, const void* Q, int64_t Q_stride,
                                                  int64_t B, int64_t dq, const void* K, int64_t K_stride, int64_t N,
                                                  const void* V, int64_t V_stride, int64_t dv, const void* threshold,
                                                  double scale, const int64_t* rows, void* scratch, void* out, void* l1,
                                                  void* l2))

//   G          (B, dv), row stride G_stride, in Q's type: the gradient of out; G1, G2 (B) those of l1 and l2
//   dQ         (B, dq), dK (N, dq), dV (N, dv) contiguous, dthreshold one number; null for what is not wanted
DSC_LAUNCHER(Status inner_product_self_expression_backward(
    DType dtype, Queue queue, bool tf32, const void* Q, int64_t Q_stride, int64_t B, int64_t dq, const void* K,
    int64_t K_stride, int64_t N, const void* V, int64_t V_stride, int64_t dv, const void* threshold, double scale,
    const int64_t* rows, const void* G, int64_t G_stride, const void* G1, const void* G2, void* scratch, void* dQ,
    void* dK, void* dV, void* dthreshold))

}  // namespace dsc
