// The step of the batch's rows of sparse coefficients, on the GPU.
//
// A group of lanes forms the k dots of a row with the bank, one a lane, and each lane steps its own coefficient.
//
// Floor: k·d numbers of the bank read a row, and 24·k bytes for the coefficients and moments (float32, stored as such).
// Deterministic: a row has one group, that of its last position in the batch, which adds the gradients of the others in
// the order of the batch.
#include "cuda/row_step.cuh"
#include "cuda/slots.cuh"
#include "cuda/sparse_rows.cuh"
#include "sparse_self_expression_step.h"

namespace dsc::cuda {

namespace {

template <class T>
struct SparseStep {
    T* values;
    void *exp_avg, *exp_avg_sq;
    int64_t* step;
    const T* G;
    int64_t G_stride;
    const int32_t *first, *last;  // of local and of global rows: positions in the batch
    const float *grad_scale, *found_inf;
    Rates rates;
};

__global__ void first_positions_kernel(const int64_t* rows, int64_t B, int64_t row_offset, int64_t n, int32_t* first) {
    for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < B; b += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = rows[b] - row_offset;
        DSC_DEVICE_ASSERT(row >= 0 && row < n, "sparse_self_expression_step_: rows must lie in values");
        atomicMin(&first[row], static_cast<int32_t>(b));
    }
}

__global__ void clear_first_kernel(int32_t* first, int64_t n) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
        first[i] = 0x7fffffff;
    }
}

template <int kWidth, class Moment, class Element, class T>
__global__ void __launch_bounds__(kSparseThreads, 2)
    sparse_step_kernel(Support p, SplicedBank<Element, T> bank, SparseStep<T> o, int lanes) {
    if (o.found_inf && *o.found_inf != 0.0f) return;
    const Group group(lanes);
    const int64_t b = group.index;
    if (b >= p.B) return;
    const int64_t row = local_row(p, b);
    if (p.rows && o.last[p.rows[b]] != b) return;
    const int64_t first = p.rows ? o.first[row] : b;
    const T scale = o.grad_scale ? T(*o.grad_scale) : T(1);
    // One lane reads the count and, having told the others, writes it.
    const int64_t t = o.step ? group.from(group.lane == 0 ? o.step[row] : int64_t(0), 0) + 1 : 1;
    const RowStep<T> constants = row_step<T>(o.rates, p.row_offset + row, t);
    for (int64_t s0 = 0; s0 < p.k; s0 += lanes) {
        const int count = p.k - s0 < lanes ? static_cast<int>(p.k - s0) : lanes;
        const int64_t s = s0 + group.lane;
        const int64_t where = s < p.k ? place_of(p, row, s, bank.N, bank.slot) : kNothing;
        T grad = 0;
        for (int64_t other = first; other <= b; ++other) {
            if (other != b && p.rows[other] != p.rows[b]) continue;
            grad += group_dots<kWidth>(group, bank, where, count, o.G + other * o.G_stride);
        }
        if (s < p.k) {
            const int64_t at = row * p.k + s;
            step_element(o.values[at], static_cast<Moment*>(o.exp_avg) + at, static_cast<Moment*>(o.exp_avg_sq) + at,
                         grad / scale, s, constants);
        }
    }
    if (o.step && group.lane == 0) o.step[row] = t;
}

template <class Moment, class Element, class T>
Status run(const Support& support, const SplicedBank<Element, T>& bank, const SparseStep<T>& step, Queue queue) {
    constexpr int kWide = 16 / sizeof(Element);
    const bool is_wide = wide(bank, step.G, step.G_stride);
    const int lanes = lanes_for(bank.d, is_wide ? kWide : 1);
    return launch(is_wide ? sparse_step_kernel<kWide, Moment, Element, T> : sparse_step_kernel<1, Moment, Element, T>,
                  grid_of_groups(support.B, lanes), dim3(kSparseThreads), 0, queue, support, bank, step, lanes);
}

}  // namespace

int64_t sparse_self_expression_step_scratch(int64_t n, int64_t) { return n * 4; }

Status sparse_self_expression_step_(DType dtype, DType bank_dtype, Queue queue, void* values, const int64_t* indices,
                                    int64_t indices_stride, int64_t n, int64_t row_offset, int64_t k, DType moments,
                                    void* exp_avg, void* exp_avg_sq, int64_t* step, const void* G, int64_t G_stride,
                                    const int64_t* rows, int64_t B, const void* M, int64_t M_stride, int64_t N,
                                    int64_t d, const void* Z, int64_t Z_stride, int32_t* slot, Rule rule, double lr,
                                    double beta1, double beta2, double eps, double weight_decay, double l1,
                                    bool zero_diagonal, const float* grad_scale, const float* found_inf,
                                    void* scratch) {
    auto* first = static_cast<int32_t*>(scratch);
    if (rows) {
        const int64_t slots = N > row_offset + n ? N : row_offset + n;
        if (Status s = fill_slots(queue, rows, B, row_offset, row_offset + n, slot, slots); !s) return s;
        const dim3 block(kSlotThreads);
        if (Status s = launch(clear_first_kernel, dim3(blocks_for(n, kSlotThreads)), block, 0, queue, first, n); !s) {
            return s;
        }
        if (Status s = launch(first_positions_kernel, dim3(blocks_for(B, kSlotThreads)), block, 0, queue, rows, B,
                              row_offset, n, first);
            !s) {
            return s;
        }
    }
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    return with_sparse_types(dtype, bank_dtype, [&](auto zero, auto element) -> Status {
        using T = decltype(zero);
        using Element = decltype(element);
        const SplicedBank<Element, T> bank = {
            static_cast<const Element*>(M), M_stride, N, d, static_cast<const T*>(Z), Z_stride, Z ? slot : nullptr};
        const SparseStep<T> operands = {static_cast<T*>(values),
                                        exp_avg,
                                        exp_avg_sq,
                                        step,
                                        static_cast<const T*>(G),
                                        G_stride,
                                        first,
                                        slot,
                                        grad_scale,
                                        found_inf,
                                        {rule, lr, beta1, beta2, eps, weight_decay, l1}};
        if constexpr (sizeof(T) == sizeof(float)) {
            if (moments == DType::bf16) return run<uint16_t>(support, bank, operands, queue);
        }
        return run<T>(support, bank, operands, queue);
    });
}

}  // namespace dsc::cuda
