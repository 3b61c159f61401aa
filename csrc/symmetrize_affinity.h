// W = reduce(A, Aᵀ), A_ij = Σ |value| over the entries at (i, j), in three launches with a prefix sum after the first
// two:
//   degree -> offset = prefix sum -> file (and sort) -> out_crow = prefix sum of unique -> merge
// Entries come as rows of (crow, column), unsorted, possibly repeated; a negative column is padding.
#pragma once

#include "common/types.h"

namespace dsc {

// degree[i] += the number of entries filed in row i: its own, and those whose column is i. degree comes zeroed.
DSC_LAUNCHER(Status symmetrize_degree(Queue queue, int64_t n, const int64_t* crow, const int64_t* column,
                                      int64_t* degree))

// An entry as it is filed in a row: e at (i, j) is (j, 2e) in row i and (i, 2e + 1), its mirror, in row j.
struct alignas(16) Filed {
    int64_t column;
    int64_t tag;
};

// Files every entry twice, sorts each row by (column, tag), and counts its distinct columns.
//   offset   (n + 1) where each row's files begin
//   cursor   (n) scratch, zeroed
DSC_LAUNCHER(Status symmetrize_file(Queue queue, int64_t n, const int64_t* crow, const int64_t* column,
                                    const int64_t* offset, int64_t* cursor, Filed* filed, int64_t* unique))

// Merges each row's runs of equal columns into W, and notes for every entry where it went.
//   position, mirror (entries) index into W of (i, j) and of (j, i); untouched for padding
//   share            (entries) dA's share of the gradient: 1/2 for the mean; 1, 1/2 or 0 for the larger side of max
DSC_LAUNCHER(Status symmetrize_merge(DType dtype, Queue queue, int64_t n, const void* values, const int64_t* offset,
                                     const Filed* filed, const int64_t* out_crow, bool maximum, int64_t* out_column,
                                     void* out_values, int64_t* position, int64_t* mirror, void* share))

}  // namespace dsc
