// Row-wise Adam: rows are independent, so each thread takes whole rows.
#include "row_adam.h"

#include <algorithm>

#include "common/dtype.h"
#include "cpu/row_stepper.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

// Columns are taken in pieces, so that the summed gradient of duplicate rows needs no more than a buffer on the stack.
template <class T>
void step_row(const RowStepper<T>& stepper, const T* grad, int64_t grad_stride, const int64_t* rows, int64_t b,
              const Occurrences& same_row) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t row = rows ? rows[b] : b, columns = stepper.columns;
    typename RowStepper<T>::Next next;
    stepper.prepare(next, row, row);
    stepper.count(row);
    if (same_row.later(b) < 0) return stepper(simd, row, 0, columns, grad + b * grad_stride, next.constants);
    constexpr int64_t kPiece = 1024;
    T sum[kPiece];
    for (int64_t j0 = 0; j0 < columns; j0 += kPiece) {
        const int64_t width = std::min(kPiece, columns - j0);
        std::fill_n(sum, width, T(0));
        for (int64_t other = b; other >= 0; other = same_row.later(other)) {
            for (int64_t j = 0; j < width; ++j) sum[j] += grad[other * grad_stride + j0 + j];
        }
        stepper(simd, row, j0, width, sum, next.constants);
    }
}

template <class T>
void run(const RowStepper<T>& stepper, const int64_t* rows, const T* grad, int64_t grad_stride, int64_t B,
         int64_t* scratch, int threads) {
    const Occurrences same_row(rows, rows ? B : 0, scratch);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4) if (threads > 1)
    for (int64_t b = 0; b < B; ++b) {
        if (same_row.earlier(b) >= 0) continue;  // its first occurrence does it
        step_row(stepper, grad, grad_stride, rows, b, same_row);
    }
}

}  // namespace

Status row_adam_(DType dtype, Queue queue, void* C, void* exp_avg, void* exp_avg_sq, int64_t* step, int64_t n,
                 int64_t m, const int64_t* rows, const void* grad, int64_t grad_stride, int64_t B, double lr,
                 double beta1, double beta2, double eps, double weight_decay, double l1, int64_t* scratch) {
    if (rows && !all_within(rows, B, 0, n)) return {kIndexOutOfRange, "rows must lie in [0, n), the rows of C"};
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Rates rates = {Rule::adam, lr, beta1, beta2, eps, weight_decay, l1};
        const RowStepper<T> stepper = {static_cast<T*>(C), m, dtype, exp_avg, exp_avg_sq, step, rates};
        run(stepper, rows, static_cast<const T*>(grad), grad_stride, B, scratch, static_cast<int>(queue));
        return Status{};
    });
}

}  // namespace dsc::cpu
