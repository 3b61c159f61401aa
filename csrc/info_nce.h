// The InfoNCE loss of anchors against a memory bank, and what its gradient needs: nothing of size B × N is stored.
//
//   own_b  = ⟨a_b, p_b⟩ / τ
//   lse_b  = log Σ_j exp(⟨a_b, m_j⟩ / τ)          over j ≠ r_b outside the mask
//   loss_b = log(1 + exp(lse_b - own_b))          = -own_b + log(exp(own_b) + exp(lse_b))
//   E_b    = Σ_j softmax_j(⟨a_b, m_j⟩ / τ) m_j    the expected negative, over the same j; 0 where there is none
//
// ∂loss_b/∂a_b = (1 - exp(-loss_b)) (E_b - p_b) / τ and ∂loss_b/∂p_b = -(1 - exp(-loss_b)) a_b / τ, which Python takes.
#pragma once

#include "common/types.h"

namespace dsc {

// Whether the kernel reads a bank of this dtype as it is stored; else it has to be widened to float32 first.
DSC_LAUNCHER(bool info_nce_reads(DType bank))

// Bytes of scratch, aligned to 64. A function of the arguments alone, as is the order of summation.
DSC_LAUNCHER(int64_t info_nce_scratch(DType dtype, int64_t B, int64_t N, int64_t d, int64_t q, bool expected))

//   dtype      of the bank; anchor, positive, loss and expected are float64 with a float64 bank, else float32
//   anchor     (B, d), row stride anchor_stride; positive likewise
//   bank       (N, d), row stride bank_stride
//   rows       (B) the sample of each anchor, in [0, N)
//   mask       (B, q) contiguous, columns below N in any order, negative ones are padding
//   loss       (B)
//   expected   (B, d) contiguous, or null where no gradient is wanted, which halves the work
//   tf32       CUDA: products of float32 may be rounded to TF32; the CPU ignores it
DSC_LAUNCHER(Status info_nce(DType dtype, Queue queue, const void* anchor, int64_t anchor_stride, const void* positive,
                             int64_t positive_stride, const void* bank, int64_t bank_stride, int64_t B, int64_t N,
                             int64_t d, const int64_t* rows, const int64_t* mask, int64_t q, double temperature,
                             bool tf32, void* scratch, void* loss, void* expected))

}  // namespace dsc
