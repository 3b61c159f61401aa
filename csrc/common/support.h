// Sparse coefficients as every kernel on them is told: which entries the rows of a batch have.
#pragma once

#include <cstdint>

namespace dsc {

// csrc/sparse_self_expression.h says what each is.
struct Support {
    const int64_t* indices;
    int64_t stride, n, row_offset, k;
    const int64_t* rows;
    int64_t B;
    bool zero_diagonal;
};

}  // namespace dsc
