// The step of the batch's rows of sparse coefficients, on the CPU.
//
// The gradient of a row of coefficients, k dots with the bank, goes to the stack and from there into the step: no more
// of it exists than a piece of one row.
#include "sparse_self_expression_step.h"

#include <algorithm>

#include "common/dtype.h"
#include "common/threads.h"
#include "cpu/row_stepper.h"
#include "cpu/sparse_support.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kPiece = 512;  // entries of a row that are stepped at a time

// Positions of the batch that hold the same row, in order: the first steps it for all of them.
struct Duplicates {
    int32_t* first;  // (n) of local rows; only valid where it names a position that holds the row
    int32_t* next;   // (B) position, or -1

    Duplicates(const Support& support, void* scratch)
        : first(support.rows ? static_cast<int32_t*>(scratch) : nullptr), next(nullptr) {
        if (!first) return;
        next = first + support.n;
        for (int64_t b = support.B - 1; b >= 0; --b) {
            const int64_t row = local_row(support, b), later = first[row];
            const bool known = later > b && later < support.B && local_row(support, later) == row;
            next[b] = known ? static_cast<int32_t>(later) : -1;
            first[row] = static_cast<int32_t>(b);
        }
    }
    bool steps(int64_t b, int64_t row) const { return !first || first[row] == b; }
    int64_t after(int64_t b) const { return first ? next[b] : -1; }
};

bool indices_within(const Support& support, int64_t N, Queue queue) {
    return for_each_batch_row(support.B, support.B * support.k, queue, [&](int64_t b) {
        const SparseRow row = entries_of(support, b);
        bool within = true;
        for (int64_t s = 0; s < row.k; ++s) within &= row.indices[s] < N;
        return within;
    });
}

template <class T>
struct Problem {
    const Support& support;
    const Duplicates& duplicates;
    const RowStepper<T>& stepper;
    const SplicedBank<T>& bank;
    typename Gather<T>::Dots dots;
    const T* G;
    int64_t G_stride;
    T scale;

    void unscale(T* grad, int64_t width) const {
        if (scale == T(1)) return;
        for (int64_t s = 0; s < width; ++s) grad[s] /= scale;
    }
};

// One row of the batch, however long, with the gradients of its duplicates.
template <class T>
void step_row(const Problem<T>& p, const Simd<T>& simd, int64_t b, typename RowStepper<T>::Next& next) {
    const Support& support = p.support;
    const int64_t row = local_row(support, b);
    if (!p.duplicates.steps(b, row)) return;
    T grad[kPiece], other[kPiece];
    const SparseRow all = entries_of(support, b);
    p.stepper.prepare(next, row, support.row_offset + row);
    for (int64_t s0 = 0; s0 < support.k; s0 += kPiece) {
        const int64_t width = std::min(kPiece, support.k - s0);
        const int64_t* after = s0 + width < support.k ? nullptr : all.next;
        const SparseRow piece = {all.indices + s0, after, width, all.own};
        p.dots(p.bank, p.G + b * p.G_stride, piece, grad);
        for (int64_t twin = p.duplicates.after(b); twin >= 0; twin = p.duplicates.after(twin)) {
            p.dots(p.bank, p.G + twin * p.G_stride, piece, other);
            for (int64_t s = 0; s < width; ++s) grad[s] += other[s];
        }
        p.unscale(grad, width);
        p.stepper(simd, row, s0, width, grad, next.constants);
    }
    p.stepper.count(row);
}

// Rows [b0, b1) of all rows, which lie one after the other: those at the same count are stepped as one long row, since
// rows of ten leave most of a vector idle.
template <class T>
void step_adjacent_rows(const Problem<T>& p, const Simd<T>& simd, int64_t b0, int64_t b1,
                        typename RowStepper<T>::Next& next) {
    T grad[kPiece];
    const int64_t k = p.support.k;
    for (int64_t b = b0; b < b1; ++b)
        p.dots(p.bank, p.G + b * p.G_stride, entries_of(p.support, b), grad + (b - b0) * k);
    p.unscale(grad, (b1 - b0) * k);
    const int64_t* step = p.stepper.step;
    for (int64_t first = b0, last; first < b1; first = last) {
        for (last = first + 1; last < b1 && (!step || step[last] == step[first]);) ++last;
        p.stepper.prepare(next, first, p.support.row_offset + first);
        p.stepper(simd, first, 0, (last - first) * k, grad + (first - b0) * k, next.constants);
        for (int64_t b = first; b < last; ++b) p.stepper.count(b);
    }
}

template <class T>
void run(const Problem<T>& p, Queue queue) {
    const Simd<T>& simd = simd_of<T>();
    const int64_t B = p.support.B, k = p.support.k;
    // The rounding of bf16 moments has a seed of its own for each row.
    const bool adjacent = !p.support.rows && p.stepper.moments != DType::bf16 && k > 0;
    const int64_t together = adjacent ? std::max<int64_t>(kPiece / k, 1) : 1;
    const int64_t turns = divide_up(B, together), turns_each = std::max<int64_t>(kRowsATurn / together, 1);
#pragma omp parallel num_threads(static_cast<int>(queue)) if (queue > 1 && B * k * p.bank.d > kWorthThreads)
    {
        typename RowStepper<T>::Next next;
#pragma omp for schedule(dynamic, turns_each)
        for (int64_t turn = 0; turn < turns; ++turn) {
            if (together > 1) {
                step_adjacent_rows(p, simd, turn * together, std::min((turn + 1) * together, B), next);
            } else {
                step_row(p, simd, turn, next);
            }
        }
    }
}

}  // namespace

int64_t sparse_self_expression_step_scratch(int64_t n, int64_t B) { return (n + B) * 4; }

Status sparse_self_expression_step_(DType dtype, DType bank, Queue queue, void* values, const int64_t* indices,
                                    int64_t indices_stride, int64_t n, int64_t row_offset, int64_t k, DType moments,
                                    void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G, int64_t G_stride,
                                    const int64_t* rows, int64_t B, const void* M, int64_t M_stride, int64_t N,
                                    int64_t d, const void* Z, int64_t Z_stride, int32_t* slot, Rule rule, double lr,
                                    double beta1, double beta2, double eps, double weight_decay, double l1,
                                    bool zero_diagonal, const float* grad_scale, const float* found_inf,
                                    void* scratch) {
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    if (!rows_within(support)) return {kIndexOutOfRange, kRowsBeyond};
    if (!indices_within(support, N, queue)) return {kIndexOutOfRange, kIndicesBeyond};
    if (!known_bank(dtype, bank)) return unsupported_dtype();
    if (found_inf && *found_inf != 0.0f) return {};
    const Splice splice = Z ? splice_rows(rows, B, slot) : Splice{};
    const Duplicates duplicates(support, scratch);
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const RowStepper<T> stepper = {static_cast<T*>(values),
                                       k,
                                       moments,
                                       exp_avg,
                                       exp_avg_sq,
                                       step,
                                       {rule, lr, beta1, beta2, eps, weight_decay, l1}};
        const SplicedBank<T> from = {M, M_stride, N, d, static_cast<const T*>(Z), Z_stride, splice};
        run(Problem<T>{support, duplicates, stepper, from, dots_for<T>(bank), static_cast<const T*>(G), G_stride,
                       grad_scale ? T(*grad_scale) : T(1)},
            queue);
        return Status{};
    });
}

}  // namespace dsc::cpu
