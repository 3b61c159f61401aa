// The kernels of simd/ for one instruction set: DSC_ISA names it, DSC_VECTOR_BYTES and DSC_TILE_ROWS fit its registers
// (CMakeLists.txt, which compiles this file once for each).
#include "cpu/simd.h"

#include "cpu/simd/above.h"
#include "cpu/simd/adam.h"
#include "cpu/simd/enter_row.h"
#include "cpu/simd/gather.h"
#include "cpu/simd/select.h"
#include "cpu/simd/soft_threshold.h"
#include "cpu/simd/softmax.h"
#include "cpu/simd/solve_on_support.h"
#include "cpu/simd/tile.h"
#include "cpu/simd/tile_in_place.h"
#include "cpu/simd/transpose.h"

#define DSC_JOIN_(a, b) a##b
#define DSC_JOIN(a, b) DSC_JOIN_(a, b)

namespace dsc::cpu {
namespace {

template <class T>
constexpr Simd<T> table() {
    Simd<T> simd{};
    simd.tile_rows = kRows;
    simd.tile_columns = kColumns<T>;
    simd.above = above<T>;
    simd.adam_row = adam_row<T, T>;
    simd.adam_row_bf16 = adam_row<T, uint16_t>;
    simd.gather = gather_table<T>();
    simd.on_support = {ridge_on_support<T>, elastic_net_on_support<T>, pursuit_on_support<T>};
    simd.proximal_row = proximal_row<T>;
    simd.tile = tile<T, false>;
    simd.tile_fetching = tile_fetching<T>;
    simd.tile_transposed = tile<T, true>;
    simd.transpose = transpose<T>;
    simd.soft_threshold = soft_threshold<T>;
    simd.soft_threshold_backward = soft_threshold_backward<T>;
    simd.tile_rows_in_place = tile_rows_in_place<T>;
    simd.tile_columns_in_place = tile_columns_in_place<T>;
    simd.softmax = softmax<T>;
    simd.next_above = next_above<T>;
    simd.maxima = maxima<T>;
    return simd;
}

static_assert(kRows <= kMaxTileRows && kColumns<float> <= kMaxTileColumns);

}  // namespace

extern const InstructionSet DSC_JOIN(instruction_set_, DSC_ISA);
const InstructionSet DSC_JOIN(instruction_set_, DSC_ISA) = {
    DSC_ISA_NAME,
    table<float>(),
    table<double>(),
    {DSC_BANK_ROWS(float), DSC_BANK_ROWS(double), DSC_BANK_ROWS(Float16), DSC_BANK_ROWS(BFloat16)}};

}  // namespace dsc::cpu
