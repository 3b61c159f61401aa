// The memory bank: rows replaced by index or pushed first-in-first-out, mixed, L2-normalized and cast on the way in.
#pragma once

#include "common/types.h"

namespace dsc {

//   bank  (N, d) of bank_dtype, row stride bank_stride
//   rows  (B) slots; of duplicates the last alone counts
//   scratch (rows_scratch(B)), see rows_scratch.h
//   Z     (B, d) of Z_dtype, row stride Z_stride
// new = momentum · old + (1 - momentum) · Z, scaled to unit norm if normalize (a zero row stays zero).
DSC_LAUNCHER(Status bank_scatter_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride,
                                  int64_t N, int64_t d, const int64_t* rows, const void* Z, int64_t Z_stride, int64_t B,
                                  bool normalize, double momentum, int64_t* scratch))

// Row b of Z goes to slot (cursor + b) mod N, then cursor += B mod N; of B > N rows only the last N are written.
DSC_LAUNCHER(Status bank_push_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N,
                               int64_t d, int64_t* cursor, const void* Z, int64_t Z_stride, int64_t B, bool normalize))

}  // namespace dsc
