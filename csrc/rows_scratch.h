// Scratch of the ops that look for duplicates among a batch's row indices.
#pragma once

#include "common/types.h"

namespace dsc {

// Its length in int64, for a batch of B rows.
DSC_LAUNCHER(int64_t rows_scratch(int64_t B))

}  // namespace dsc
