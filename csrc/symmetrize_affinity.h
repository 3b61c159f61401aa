// W = reduce(A, Aᵀ), A_ij = Σ |value| over the entries at (i, j), as CSR with sorted, unique columns.
//
// Two launchers for entries in rows (crow, column), two for a dense matrix: the first says how long each row of W is,
// the second, once the caller has read the length of W, fills it. What the first finds out on the way travels to the
// second in scratch, whose layout is the backend's own. Entries with |value| <= threshold are dropped (NaN is kept); a
// row's entries may be unsorted, repeated or padding (a negative column).
#pragma once

#include "common/types.h"

namespace dsc {

// mean (a + b)/2, max, and the probabilistic sum a + b - a·b of a and b clamped to at most 1.
enum class Reduce : int32_t { mean = 0, max = 1, t_conorm = 2 };

// Length in 8-byte words of the scratch; the launchers that are handed it take the same queue.
DSC_LAUNCHER(int64_t symmetrize_scratch(DType dtype, Queue queue, int64_t n, int64_t entries))

//   values, column (entries), crow (n + 1)
//   out_crow (n + 1)  its last element is set, to the length of W
DSC_LAUNCHER(Status symmetrize_count(DType dtype, Queue queue, int64_t n, int64_t entries, const void* values,
                                     const int64_t* crow, const int64_t* column, double threshold, Reduce reduce,
                                     int64_t* scratch, int64_t* out_crow))

//   out_crow (n + 1)  the rest of it is set
//   out_column, out_values (out_crow[n])
DSC_LAUNCHER(Status symmetrize_fill(DType dtype, Queue queue, int64_t n, int64_t entries, const void* values,
                                    Reduce reduce, int64_t* scratch, int64_t* out_crow, int64_t* out_column,
                                    void* out_values))

// For the gradient: where each entry went, where each place of W has its mirror image, and A itself.
//   position (entries) index into W of the entry's place; out_crow[n] for what was dropped
//   mirror   (out_crow[n]) index into W of (j, i) for each (i, j)
//   A        (out_crow[n]) Σ |value| of the entries at each place
DSC_LAUNCHER(Status symmetrize_places(DType dtype, Queue queue, int64_t n, const void* values, const int64_t* crow,
                                      const int64_t* column, double threshold, const int64_t* out_crow,
                                      const int64_t* out_column, int64_t* position, int64_t* mirror, void* A))

// The same from C (n, n), row stride C_stride; C may as well be the transpose.
DSC_LAUNCHER(int64_t symmetrize_dense_scratch(int64_t n))
DSC_LAUNCHER(Status symmetrize_dense_count(DType dtype, Queue queue, int64_t n, const void* C, int64_t C_stride,
                                           double threshold, int64_t* scratch, int64_t* out_crow))
DSC_LAUNCHER(Status symmetrize_dense_fill(DType dtype, Queue queue, int64_t n, const void* C, int64_t C_stride,
                                          Reduce reduce, int64_t* scratch, const int64_t* out_crow, int64_t* out_column,
                                          void* out_values))

}  // namespace dsc
