// Row-wise Adam: rows are independent, so each thread takes whole rows.
#include "row_adam.h"

#include <algorithm>
#include <cmath>

#include "cpu/rows.h"
#include "cpu/simd.h"

namespace dsc::cpu {

namespace {

// Columns are taken in pieces, so that the summed gradient of duplicate rows needs no more than a buffer on the stack.
template <class T>
void step_row(T* c, T* m, T* v, const T* grad, int64_t grad_stride, int64_t columns, const int64_t* rows, int64_t b,
              int64_t B, bool duplicated, const AdamStep<T>& adam) {
    if (!duplicated) return simd_of<T>().adam_row(c, m, v, grad + b * grad_stride, columns, adam);
    constexpr int64_t kPiece = 1024;
    T sum[kPiece];
    for (int64_t j0 = 0; j0 < columns; j0 += kPiece) {
        const int64_t width = std::min(kPiece, columns - j0);
        std::fill_n(sum, width, T(0));
        for (int64_t other = b; other < B; ++other) {
            if (rows[other] != rows[b]) continue;
            for (int64_t j = 0; j < width; ++j) sum[j] += grad[other * grad_stride + j0 + j];
        }
        simd_of<T>().adam_row(c + j0, m + j0, v + j0, sum, width, adam);
    }
}

template <class T>
void run(T* C, T* exp_avg, T* exp_avg_sq, int64_t* step, int64_t m, const int64_t* rows, const T* grad,
         int64_t grad_stride, int64_t B, double lr, double beta1, double beta2, double eps, double weight_decay,
         double l1, int threads) {
    const bool distinct = !rows || strictly_increasing(rows, B);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4) if (threads > 1)
    for (int64_t b = 0; b < B; ++b) {
        const int64_t row = rows ? rows[b] : b;
        if (!distinct && std::find(rows, rows + b, row) != rows + b) continue;  // its first occurrence has done it
        const bool duplicated = !distinct && std::find(rows + b + 1, rows + B, row) != rows + B;
        const double t = static_cast<double>(++step[row]);
        const AdamStep<T> adam = {T(1.0 - beta1),
                                  T(beta2),
                                  T(1.0 - beta2),
                                  T(eps),
                                  T(weight_decay),
                                  T(l1),
                                  T(lr / (1.0 - std::pow(beta1, t))),
                                  T(std::sqrt(1.0 - std::pow(beta2, t)))};
        step_row(C + row * m, exp_avg + row * m, exp_avg_sq + row * m, grad, grad_stride, m, rows, b, B, duplicated,
                 adam);
    }
}

}  // namespace

Status row_adam_(DType dtype, Queue queue, void* C, void* exp_avg, void* exp_avg_sq, int64_t* step, int64_t n,
                 int64_t m, const int64_t* rows, const void* grad, int64_t grad_stride, int64_t B, double lr,
                 double beta1, double beta2, double eps, double weight_decay, double l1) {
    if (rows && !all_within(rows, B, 0, n)) return {kIndexOutOfRange, "rows must lie in [0, n), the rows of C"};
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        run(static_cast<T*>(C), static_cast<T*>(exp_avg), static_cast<T*>(exp_avg_sq), step, m, rows,
            static_cast<const T*>(grad), grad_stride, B, lr, beta1, beta2, eps, weight_decay, l1,
            static_cast<int>(queue));
        return Status{};
    });
}

}  // namespace dsc::cpu
