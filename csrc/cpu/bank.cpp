// Rows into the bank: a copy with a cast, at memory speed unless it must normalize. Floor: bytes of Z read and bank
// written over bandwidth.
#include "bank.h"

#include <algorithm>

#include "common/dtype.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "rows_scratch.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kNumbersToShare = 32768;  // below, a second thread costs more than it does

int64_t bytes_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

bool known(DType dtype) { return DType::f32 <= dtype && dtype <= DType::bf16; }

}  // namespace

int64_t rows_scratch(int64_t B) { return Occurrences::words(B); }

Status bank_scatter_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N,
                     int64_t d, const int64_t* rows, const void* Z, int64_t Z_stride, int64_t B, bool normalize,
                     double momentum, int64_t* scratch) {
    if (!known(bank_dtype) || !known(Z_dtype)) return unsupported_dtype();
    if (!all_within(rows, B, 0, N)) return {kIndexOutOfRange, "rows must lie in [0, N), the slots of the bank"};
    const Occurrences same_row(rows, B, scratch);
    const auto enter = simd().bank_row[static_cast<int>(bank_dtype)][static_cast<int>(Z_dtype)];
    char* to = static_cast<char*>(bank);
    const char* from = static_cast<const char*>(Z);
    const int64_t to_stride = bank_stride * bytes_of(bank_dtype), from_stride = Z_stride * bytes_of(Z_dtype);
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(static) if (queue > 1 && B * d > kNumbersToShare)
    for (int64_t b = 0; b < B; ++b) {
        if (same_row.later(b) < 0) enter(to + rows[b] * to_stride, from + b * from_stride, d, normalize, momentum);
    }
    return {};
}

Status bank_push_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N, int64_t d,
                  int64_t* cursor, const void* Z, int64_t Z_stride, int64_t B, bool normalize) {
    if (!known(bank_dtype) || !known(Z_dtype)) return unsupported_dtype();
    const int64_t start = (*cursor % N + N) % N, first = std::max<int64_t>(0, B - N);
    const auto enter = simd().bank_row[static_cast<int>(bank_dtype)][static_cast<int>(Z_dtype)];
    char* to = static_cast<char*>(bank);
    const char* from = static_cast<const char*>(Z);
    const int64_t to_stride = bank_stride * bytes_of(bank_dtype), from_stride = Z_stride * bytes_of(Z_dtype);
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(static) if (queue > 1 && B * d > kNumbersToShare)
    for (int64_t b = first; b < B; ++b) {
        enter(to + (start + b) % N * to_stride, from + b * from_stride, d, normalize, 0.0);
    }
    *cursor = (start + B) % N;
    return {};
}

}  // namespace dsc::cpu
