// Ẑ and its gradients from k coefficients a row: a group of lanes a row, which gathers the k rows of the bank it names.
//
// Floor: B·k·d numbers of the bank read (4·k·d bytes a row in float32, from L2 where the bank fits there) for B·d
// written; the arithmetic, 2 FLOP a number, is hidden. The transposed product reads G in the same way, in the order of
// the sorted entries: a group sums a stretch of them and writes each target that begins and ends in it; targets that
// reach over stretches leave partial sums, which a second kernel adds in order, a block a target. The stretches depend
// on the number of entries alone, so every sum is the same bits in every run, and a hub is as parallel as anything
// else.
#include "common/dtype.h"
#include "cuda/slots.cuh"
#include "cuda/sparse_rows.cuh"
#include "sparse_self_expression.h"

namespace dsc::cuda {

namespace {

template <int kWidth, class Element, class T>
__global__ void __launch_bounds__(kSparseThreads, 2)
    combine_kernel(Support p, SplicedBank<Element, T> bank, const T* values, int64_t values_stride, int lanes, T* out) {
    const Group group(lanes);
    const int64_t b = group.index;
    if (b >= p.B) return;
    const int64_t row = local_row(p, b);
    for (int64_t c0 = 0; c0 < bank.d; c0 += lanes * kWidth) {
        const int64_t c = c0 + group.lane * kWidth;
        T sum[kWidth] = {};
        for (int64_t s0 = 0; s0 < p.k; s0 += lanes) {
            const int count = p.k - s0 < lanes ? static_cast<int>(p.k - s0) : lanes;
            const bool real = group.lane < count;
            const int64_t where = real ? place_of(p, row, s0 + group.lane, bank.N, bank.slot) : kNothing;
            const T value = real ? values[row * values_stride + s0 + group.lane] : T(0);
            for (int i = 0; i < count; i += kInFlight) {
                T x[kInFlight][kWidth], factor[kInFlight];
                bool counts[kInFlight];
                for (int u = 0; u < kInFlight; ++u) {
                    const int source = i + u < count ? i + u : 0;
                    const int64_t place = group.from(where, source);
                    factor[u] = group.from(value, source);
                    counts[u] = i + u < count && place != kNothing && c < bank.d;
                    if (counts[u]) read_row<kWidth>(bank, place, c, x[u]);
                }
                for (int u = 0; u < kInFlight; ++u) {
                    if (!counts[u]) continue;
                    for (int w = 0; w < kWidth; ++w) sum[w] += factor[u] * x[u][w];
                }
            }
        }
        for (int w = 0; w < kWidth; ++w) {
            if (c + w < bank.d) out[b * bank.d + c + w] = sum[w];
        }
    }
}

template <int kWidth, class Element, class T>
__global__ void __launch_bounds__(kSparseThreads, 2)
    dots_kernel(Support p, SplicedBank<Element, T> bank, const T* G, int64_t G_stride, int lanes, T* grad) {
    const Group group(lanes);
    const int64_t b = group.index;
    if (b >= p.B) return;
    const int64_t row = local_row(p, b);
    for (int64_t s0 = 0; s0 < p.k; s0 += lanes) {
        const int count = p.k - s0 < lanes ? static_cast<int>(p.k - s0) : lanes;
        const int64_t s = s0 + group.lane;
        const int64_t where = s < p.k ? place_of(p, row, s, bank.N, bank.slot) : kNothing;
        const T dot = group_dots<kWidth>(group, bank, where, count, G + b * G_stride);
        if (s < p.k) grad[b * p.k + s] = dot;
    }
}

__global__ void __launch_bounds__(kSparseThreads, 2)
    keys_kernel(Support p, int64_t N, const int32_t* slot, bool bank_targets, bool live_targets, int64_t targets,
                int32_t* keys) {
    const int64_t entries = p.B * p.k, step = int64_t(gridDim.x) * kSparseThreads;
    for (int64_t e = int64_t(blockIdx.x) * kSparseThreads + threadIdx.x; e < entries; e += step) {
        const int64_t where = place_of(p, local_row(p, e / p.k), e % p.k, N, slot);
        int64_t key = targets;
        if (where >= 0 && bank_targets) key = where;
        if (where < kNothing && live_targets) key = (bank_targets ? N : 0) + live_of(where);
        keys[e] = static_cast<int32_t>(key);
    }
}

// Entries a group sums: enough groups to fill a GPU, stretches short of 32 not worth their partial sums.
int64_t stretch_for(int64_t entries) {
    int64_t stretch = 32;
    while (stretch < 512 && entries / stretch > 8192) stretch *= 2;
    return stretch;
}

template <class T>
struct Transposed {
    const int32_t* keys;
    const int64_t* order;
    int64_t entries, targets, stretch;
    const T* values;
    int64_t values_stride, row_offset, k;
    const int64_t* rows;
    const T* G;
    int64_t G_stride, d;
    T* partial;  // (stretches, 2, d): of the target that came from before, and of the one that goes on
    T* out;
};

template <int kWidth, class T>
__global__ void __launch_bounds__(kSparseThreads, 2) stretches_kernel(Transposed<T> p, int lanes) {
    const Group group(lanes);
    const int64_t begin = group.index * p.stretch;
    if (begin >= p.entries) return;
    const int64_t end = begin + p.stretch < p.entries ? begin + p.stretch : p.entries;
    const bool goes_on = end < p.entries && p.keys[end] == p.keys[end - 1];
    for (int64_t c0 = 0; c0 < p.d; c0 += lanes * kWidth) {
        const int64_t c = c0 + group.lane * kWidth;
        T sum[kWidth] = {};
        int32_t target = p.keys[begin];
        bool begins_here = begin == 0 || p.keys[begin - 1] != target;
        const auto write = [&](bool ends_here) {
            if (target == p.targets) return;  // what has no target is sorted last
            T* to = begins_here && ends_here ? p.out + target * p.d
                                             : p.partial + (2 * group.index + (begins_here ? 1 : 0)) * p.d;
            for (int w = 0; w < kWidth; ++w) {
                if (c + w < p.d) to[c + w] = sum[w];
            }
        };
        for (int64_t e0 = begin; e0 < end; e0 += lanes) {
            const int count = end - e0 < lanes ? static_cast<int>(end - e0) : lanes;
            int32_t key = static_cast<int32_t>(p.targets);
            int64_t b = 0;
            T value = 0;
            if (group.lane < count) {
                const int64_t e = p.order[e0 + group.lane];
                key = p.keys[e0 + group.lane];
                b = e / p.k;
                value = p.values[(p.rows ? p.rows[b] - p.row_offset : b) * p.values_stride + e % p.k];
            }
            for (int i = 0; i < count; i += kInFlight) {
                T x[kInFlight][kWidth], factor[kInFlight];
                int32_t owner[kInFlight];
                for (int u = 0; u < kInFlight; ++u) {
                    const int source = i + u < count ? i + u : 0;
                    owner[u] = group.from(key, source);
                    factor[u] = group.from(value, source);
                    const int64_t row = group.from(b, source);
                    if (c < p.d) {
                        read<kWidth>(p.G + row * p.G_stride + c, x[u]);
                    } else {
                        for (int w = 0; w < kWidth; ++w) x[u][w] = T(0);
                    }
                }
                for (int u = 0; u < kInFlight && i + u < count; ++u) {
                    if (owner[u] != target) {
                        write(true);
                        target = owner[u];
                        begins_here = true;
                        for (int w = 0; w < kWidth; ++w) sum[w] = T(0);
                    }
                    for (int w = 0; w < kWidth; ++w) sum[w] += factor[u] * x[u][w];
                }
            }
        }
        write(!goes_on);
    }
}

// A block looks whether a target begins in its stretch and goes on beyond it; if so it adds the target's partial sums.
// Warp w takes every eighth of them.
template <class T>
__global__ void __launch_bounds__(kSparseThreads, 2) join_kernel(Transposed<T> p) {
    constexpr int kWarps = kSparseThreads / kWarp;
    __shared__ T shared[kSparseThreads];
    const int64_t stretch = blockIdx.x, begin = stretch * p.stretch, end = begin + p.stretch;
    if (end >= p.entries) return;
    const int32_t target = p.keys[end - 1];
    if (target == p.targets || p.keys[end] != target) return;
    if (p.keys[begin] == target && begin > 0 && p.keys[begin - 1] == target) return;  // began before
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    for (int64_t c0 = 0; c0 < p.d; c0 += kWarp) {
        const int64_t c = c0 + lane;
        T sum = 0;
        for (int64_t at = stretch + 1 + warp; at * p.stretch < p.entries && p.keys[at * p.stretch] == target;
             at += kWarps) {
            if (c < p.d) sum += p.partial[2 * at * p.d + c];
        }
        shared[threadIdx.x] = sum;
        __syncthreads();  // every warp's share is there
        if (warp == 0 && c < p.d) {
            T total = p.partial[(2 * stretch + 1) * p.d + c];
            for (int w = 0; w < kWarps; ++w) total += shared[w * kWarp + lane];
            p.out[target * p.d + c] = total;
        }
        __syncthreads();  // and has been read, before the next columns overwrite it
    }
}

Status find_live_rows(Queue queue, const int64_t* rows, int64_t B, int64_t N, int32_t* slot) {
    return slot ? fill_slots(queue, rows, B, 0, N, slot, N) : Status{};
}

}  // namespace

Status sparse_self_expression(DType dtype, DType bank_dtype, Queue queue, const void* values, int64_t values_stride,
                              const int64_t* indices, int64_t indices_stride, int64_t n, int64_t row_offset, int64_t k,
                              const void* M, int64_t M_stride, int64_t N, int64_t d, const int64_t* rows, int64_t B,
                              const void* Z, int64_t Z_stride, int32_t* slot, bool zero_diagonal, void* out) {
    if (Status s = find_live_rows(queue, rows, B, N, slot); !s) return s;
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    return with_sparse_types(dtype, bank_dtype, [&](auto zero, auto element) -> Status {
        using T = decltype(zero);
        using Element = decltype(element);
        constexpr int kWide = 16 / sizeof(Element);
        const SplicedBank<Element, T> bank = {static_cast<const Element*>(M), M_stride, N,   d,
                                              static_cast<const T*>(Z),       Z_stride, slot};
        const bool is_wide = wide(bank, static_cast<const T*>(nullptr), 0);
        const int lanes = lanes_for(d, is_wide ? kWide : 1);
        return launch(is_wide ? combine_kernel<kWide, Element, T> : combine_kernel<1, Element, T>,
                      grid_of_groups(B, lanes), dim3(kSparseThreads), 0, queue, support, bank,
                      static_cast<const T*>(values), values_stride, lanes, static_cast<T*>(out));
    });
}

Status sparse_self_expression_grad(DType dtype, DType bank_dtype, Queue queue, const int64_t* indices,
                                   int64_t indices_stride, int64_t n, int64_t row_offset, int64_t k, const void* M,
                                   int64_t M_stride, int64_t N, int64_t d, const int64_t* rows, int64_t B,
                                   const void* Z, int64_t Z_stride, int32_t* slot, bool zero_diagonal, const void* G,
                                   int64_t G_stride, void* grad) {
    if (Status s = find_live_rows(queue, rows, B, N, slot); !s) return s;
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    return with_sparse_types(dtype, bank_dtype, [&](auto zero, auto element) -> Status {
        using T = decltype(zero);
        using Element = decltype(element);
        constexpr int kWide = 16 / sizeof(Element);
        const SplicedBank<Element, T> bank = {static_cast<const Element*>(M), M_stride, N,   d,
                                              static_cast<const T*>(Z),       Z_stride, slot};
        const bool is_wide = wide(bank, static_cast<const T*>(G), G_stride);
        const int lanes = lanes_for(d, is_wide ? kWide : 1);
        return launch(is_wide ? dots_kernel<kWide, Element, T> : dots_kernel<1, Element, T>, grid_of_groups(B, lanes),
                      dim3(kSparseThreads), 0, queue, support, bank, static_cast<const T*>(G), G_stride, lanes,
                      static_cast<T*>(grad));
    });
}

Status sparse_self_expression_keys(Queue queue, const int64_t* indices, int64_t indices_stride, int64_t n,
                                   int64_t row_offset, int64_t k, int64_t N, const int64_t* rows, int64_t B,
                                   int32_t* slot, bool zero_diagonal, bool bank_targets, bool live_targets,
                                   int64_t targets, int32_t* keys) {
    if (Status s = find_live_rows(queue, rows, B, N, slot); !s) return s;
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    return launch(keys_kernel, dim3(blocks_for(B * k, kSparseThreads)), dim3(kSparseThreads), 0, queue, support, N,
                  slot, bank_targets, live_targets, targets, keys);
}

bool sparse_self_expression_wants_order() { return true; }

int64_t sparse_self_expression_transposed_scratch(DType dtype, Queue, int64_t entries, int64_t, int64_t d) {
    const int64_t stretch = stretch_for(entries);
    return divide_up(entries, stretch) * 2 * d * static_cast<int64_t>(dtype == DType::f64 ? 8 : 4);
}

Status sparse_self_expression_transposed(DType dtype, Queue queue, const int32_t* keys, const int64_t* order,
                                         int64_t targets, const void* values, int64_t values_stride, int64_t row_offset,
                                         int64_t k, const int64_t* rows, int64_t B, const void* G, int64_t G_stride,
                                         int64_t d, void* scratch, void* out) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        constexpr int kWide = 16 / sizeof(T);
        const int64_t entries = B * k, stretch = stretch_for(entries), stretches = divide_up(entries, stretch);
        const Transposed<T> p = {keys,
                                 order,
                                 entries,
                                 targets,
                                 stretch,
                                 static_cast<const T*>(values),
                                 values_stride,
                                 row_offset,
                                 k,
                                 rows,
                                 static_cast<const T*>(G),
                                 G_stride,
                                 d,
                                 static_cast<T*>(scratch),
                                 static_cast<T*>(out)};
        const bool is_wide = d % kWide == 0 && aligned(G, G_stride, sizeof(T));
        const int lanes = lanes_for(d, is_wide ? kWide : 1);
        if (Status s = launch(is_wide ? stretches_kernel<kWide, T> : stretches_kernel<1, T>,
                              grid_of_groups(stretches, lanes), dim3(kSparseThreads), 0, queue, p, lanes);
            !s) {
            return s;
        }
        return launch(join_kernel<T>, dim3(blocks_for(stretches, 1)), dim3(kSparseThreads), 0, queue, p);
    });
}

}  // namespace dsc::cuda
