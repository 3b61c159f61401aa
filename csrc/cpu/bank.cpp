// Rows into the bank: a copy with a cast, at memory speed unless it must normalise.
#include "bank.h"

#include <algorithm>
#include <cmath>

#include "bank_row.h"
#include "cpu/rows.h"

namespace dsc::cpu {

namespace {

template <class Bank, class Live>
void enter_row(Bank* old, const Live* live, int64_t d, bool normalize, double momentum) {
    using Acc = typename Compute<Bank, Live>::type;
    const Acc keep = static_cast<Acc>(momentum);
    Acc scale = 1;
    if (normalize) {
        Acc squares = 0;
        for (int64_t j = 0; j < d; ++j) {
            const Acc value = mix(old + j, live + j, keep);
            squares += value * value;
        }
        if (squares > Acc(0)) scale = Acc(1) / std::sqrt(squares);
    }
    for (int64_t j = 0; j < d; ++j) old[j] = narrow<Bank>(mix(old + j, live + j, keep) * scale);
}

// Position b holds the last occurrence of its row.
bool is_last(const int64_t* rows, int64_t b, int64_t B) {
    return std::find(rows + b + 1, rows + B, rows[b]) == rows + B;
}

}  // namespace

Status bank_scatter_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N,
                     int64_t d, const int64_t* rows, const void* Z, int64_t Z_stride, int64_t B, bool normalize,
                     double momentum) {
    if (!all_within(rows, B, 0, N)) return {kIndexOutOfRange, "rows must lie in [0, N), the slots of the bank"};
    const bool distinct = strictly_increasing(rows, B);
    return with_bank_types(bank_dtype, Z_dtype, [&](auto bank_zero, auto live_zero) {
        using Bank = decltype(bank_zero);
        using Live = decltype(live_zero);
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(static) if (queue > 1 && B * d > 16384)
        for (int64_t b = 0; b < B; ++b) {
            if (!distinct && !is_last(rows, b, B)) continue;
            enter_row(static_cast<Bank*>(bank) + rows[b] * bank_stride, static_cast<const Live*>(Z) + b * Z_stride, d,
                      normalize, momentum);
        }
        return Status{};
    });
}

Status bank_push_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N, int64_t d,
                  int64_t* cursor, const void* Z, int64_t Z_stride, int64_t B, bool normalize) {
    const int64_t start = (*cursor % N + N) % N;
    const Status status = with_bank_types(bank_dtype, Z_dtype, [&](auto bank_zero, auto live_zero) {
        using Bank = decltype(bank_zero);
        using Live = decltype(live_zero);
#pragma omp parallel for num_threads(static_cast<int>(queue)) schedule(static) if (queue > 1 && B * d > 16384)
        for (int64_t b = std::max<int64_t>(0, B - N); b < B; ++b) {
            enter_row(static_cast<Bank*>(bank) + (start + b) % N * bank_stride,
                      static_cast<const Live*>(Z) + b * Z_stride, d, normalize, 0.0);
        }
        return Status{};
    });
    if (status) *cursor = (start + B) % N;
    return status;
}

}  // namespace dsc::cpu
