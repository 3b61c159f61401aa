// InfoNCE against a memory bank as attention whose keys and values are both the bank (Dao et al. 2022).
//
//              32 samples, all d            A block owns 64 anchors (16 a warp) and walks over the samples of its
//            ┌───────────────┐              split in steps of 32, the next step fetched by cp.async meanwhile:
//            │   bank, M     │                scores S = A Mᵀ / (τ log 2), in registers
//   ┌──────┐ └───────────────┘                P = 2^(S - top), sums and E rescaled whenever the running top rises
// 64│ A    │   S, P (64,32)                  E += P M, from the same tile of the bank
//   └──────┘   E (64, width)                Then a block per anchor merges the splits in order. No atomics on values.
//
// E stays in registers, at most 128 columns of it. A wider bank takes a block per 128 columns, each of which forms all
// scores, from pieces of 128 features that end with its own: d = 512 costs 2.5 times the least arithmetic.
//
// Floor: 2·B·N·d FLOP for the loss, 4·B·N·d with E, on tensor cores; bytes N·d·⌈B/64⌉ from the L2 cache. Extra memory:
// splits × B × d sums, and with a mask one bit a score.
#include "common/dtype.h"
#include "common/info_nce_problem.h"
#include "cuda/block.cuh"
#include "cuda/tile.cuh"
#include "info_nce.h"

namespace dsc::cuda {

namespace {

constexpr int kStep = 32;  // samples; also the bits of a word of the mask
using Shape = TileShape<4, 1, 1, kStep / 8>;
constexpr int kMergeThreads = 128;
constexpr int64_t kMostSplits = 264;  // room in the merge; two blocks on each of 132 multiprocessors

// How many columns of E a block holds. float64 is there for checks of gradients: one narrow kernel serves it.
int64_t width_of(bool is_double, int64_t d) { return is_double ? 32 : d <= 64 ? 64 : 128; }

// How the work is cut up and where the pieces lie in the scratch.
struct Plan {
    int64_t chunks, steps, words, per_split, splits;  // of E's columns; of the samples; words of a row of the mask
    int64_t top, sum, negatives, excluded, bytes;     // (splits, chunks, B) twice, (splits, B, d), (B, words)

    Plan(bool is_double, int64_t B, int64_t N, int64_t d, int64_t q, bool expected) {
        const int64_t width = width_of(is_double, d), size = is_double ? 8 : 4;
        chunks = d > width ? divide_up(d, width) : 1;
        steps = words = divide_up(N, kStep);
        // Two blocks fit on a multiprocessor. A split of 16 steps reads four times what its sums move.
        const int64_t filling = splits_to_fill(2 * (divide_up(B, Shape::kRows)) * chunks, steps, 16);
        const int64_t wanted = filling < kMostSplits ? filling : kMostSplits;
        per_split = steps > 0 ? divide_up(steps, wanted) : 1;
        splits = steps > 0 ? divide_up(steps, per_split) : 1;
        int64_t end = 0;
        const auto take = [&](int64_t count) {
            const int64_t begin = end;
            end += round_up(count, 64);
            return begin;
        };
        top = take(splits * chunks * B * size);
        sum = take(splits * chunks * B * size);
        negatives = take(expected ? splits * B * d * size : 0);
        excluded = take(q > 0 ? B * words * 4 : 0);
        bytes = end;
    }
};

// What the streaming kernel is handed; S is how the bank is stored.
template <class S>
struct Stream {
    const Computed<S>* anchor;
    int64_t anchor_stride;
    const S* bank;
    int64_t bank_stride;
    int64_t B, N, d;
    const int64_t* rows;
    const uint32_t* excluded;  // (B, words), or null without a mask
    int64_t words, per_split, chunks;
    Computed<S> scale;                  // log2(e) / τ
    Computed<S>*top, *sum, *negatives;  // negatives null: no E
};

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }

// What is taken off scores whose maximum is top: nothing where it is infinite.
template <class T>
__device__ __forceinline__ T shift_of(T top) {
    return top - top == T(0) ? top : T(0);
}
// By what sums under the maximum `from` are multiplied to stand under `to`.
template <class T>
__device__ __forceinline__ T rescaling(T from, T to) {
    return from == -INFINITY ? T(0) : power_of_two(shift_of(from) - shift_of(to));
}

// Bit j of row b of the mask: sample j is left out.
__global__ void clear_mask_kernel(uint32_t* excluded, int64_t size) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += int64_t(gridDim.x) * blockDim.x) {
        excluded[i] = 0;
    }
}
__global__ void set_mask_kernel(const int64_t* mask, int64_t B, int64_t q, int64_t N, int64_t words,
                                uint32_t* excluded) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < B * q; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t column = mask[i];
        DSC_DEVICE_ASSERT(column < N, "info_nce: the columns of mask must lie in the bank");
        if (column >= 0) atomicOr(&excluded[i / q * words + column / kStep], 1u << (column % kStep));
    }
}

template <class S, bool kExact, int kWidth>
__global__ void __launch_bounds__(Shape::kThreads, 2) info_nce_kernel(Stream<S> p) {
    using T = Computed<S>;
    constexpr int kStride = row_stride(kWidth), kScores = kStep / 8;
    constexpr Tf32 kA = tf32_of<T, kExact>, kM = tf32_of<S, kExact>;
    DSC_DYNAMIC_SHARED(T, shared);
    const int64_t b0 = int64_t(blockIdx.x) * Shape::kRows;
    const int64_t chunk = blockIdx.y, first = blockIdx.z * p.per_split;
    const int64_t steps_in_all = divide_up(p.N, kStep);
    const int64_t steps = first + p.per_split < steps_in_all ? p.per_split : steps_in_all - first;
    const bool resident = p.chunks == 1;  // the anchors stay; else they come along with each piece of the bank
    const auto M_of = [&](int stage) { return shared + stage * kStep * kStride; };
    const auto A_of = [&](int stage) { return shared + (2 * kStep + (resident ? 0 : stage * Shape::kRows)) * kStride; };
    const bool A_wide = wide_rows(p.anchor, p.anchor_stride), M_wide = wide_rows(p.bank, p.bank_stride);
    // A step is one tile of samples and one piece of the features; the last piece is the block's own chunk.
    const auto piece_of = [&](int64_t step) { return (chunk + 1 + step % p.chunks) % p.chunks * kWidth; };
    const auto fetch_anchors = [&](int stage, int64_t c) {
        fetch_rows<Shape::kThreads, Shape::kRows, kWidth>(A_of(stage), kStride, p.d - c, A_wide, [&](int r) {
            return Row<T>{b0 + r < p.B ? p.anchor + (b0 + r) * p.anchor_stride + c : nullptr};
        });
    };

    // The two anchors of this lane's scores and their samples; -1 stands for no anchor.
    int64_t anchor[2], own[2];
    for (int half = 0; half < 2; ++half) {
        const int64_t b = b0 + Shape::first_row() + half * 8 + threadIdx.x % kWarp / 4;
        anchor[half] = b < p.B ? b : -1;
        own[half] = b < p.B ? p.rows[b] : -1;
        DSC_DEVICE_ASSERT(b >= p.B || (own[half] >= 0 && own[half] < p.N), "info_nce: rows must lie in the bank");
    }

    if (resident) fetch_anchors(0, 0);
    T top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    Tile<T, 1, kWidth / 8> E;
    Tile<T, 1, kScores> scores;
    pipeline<2>(
        steps * p.chunks,
        [&](int64_t step, int stage) {
            const int64_t c = piece_of(step), j = (first + step / p.chunks) * kStep;
            fetch_rows<Shape::kThreads, kStep, kWidth>(M_of(stage), kStride, p.d - c, M_wide, [&](int r) {
                return Row<S>{j + r < p.N ? p.bank + (j + r) * p.bank_stride + c : nullptr};
            });
            if (!resident) fetch_anchors(stage, c);
        },
        [&](int64_t step, int stage) {
            const int64_t tile = first + step / p.chunks;
            if (step % p.chunks == 0) scores = {};
            multiply_rows<kWidth, kA, kM>(scores, A_of(stage) + Shape::first_row() * kStride, kStride, M_of(stage),
                                          kStride);
            if (step % p.chunks != p.chunks - 1) return;

            T factor[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t excluded =
                    p.excluded && anchor[half] >= 0 ? p.excluded[anchor[half] * p.words + tile] : 0;
                T highest = top[half];
#pragma unroll
                for (int i = 0; i < kScores * 2; ++i) {
                    const int column = i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
                    const int64_t j = tile * kStep + column;
                    T& score = scores.value[0][i / 2][half * 2 + i % 2];
                    score = j >= p.N || j == own[half] || (excluded >> column & 1u) ? T(-INFINITY) : score * p.scale;
                    highest = score > highest ? score : highest;  // passes over NaN, which the sum will show
                }
                for (int lane = 1; lane <= 2; lane *= 2) {
                    const T other = __shfl_xor_sync(kFullMask, highest, lane);
                    highest = other > highest ? other : highest;
                }
                factor[half] = rescaling(top[half], highest);
                top[half] = highest;
                T total = 0;
#pragma unroll
                for (int i = 0; i < kScores * 2; ++i) {
                    T& score = scores.value[0][i / 2][half * 2 + i % 2];
                    score = power_of_two(score - shift_of(highest));
                    total += score;
                }
                total += __shfl_xor_sync(kFullMask, total, 1);
                total += __shfl_xor_sync(kFullMask, total, 2);
                sum[half] = sum[half] * factor[half] + total;
            }
            if (!p.negatives) return;
            if (__any_sync(kFullMask, factor[0] != T(1) || factor[1] != T(1))) {
#pragma unroll
                for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) E.value[0][n][i] *= factor[i / 2];
                }
            }
#pragma unroll 1  // a piece of P at a time, the others moving up: unrolled, loads that run ahead spill registers
            for (int k = 0; k < kScores; ++k) {
                Tile<T, 1, 1> piece;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    piece.value[0][0][i] = scores.value[0][0][i];
#pragma unroll
                    for (int n = 1; n < kScores; ++n) scores.value[0][n - 1][i] = scores.value[0][n][i];
                }
                multiply_scores<kA, kM>(E, piece, M_of(stage) + k * 8 * kStride, kStride);
            }
        });

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (anchor[half] >= 0 && leads_row()) {
            const int64_t at = (int64_t(blockIdx.z) * p.chunks + chunk) * p.B + anchor[half];
            p.top[at] = top[half];
            p.sum[at] = sum[half];
        }
    }
    if (!p.negatives) return;
    T* const out = p.negatives + int64_t(blockIdx.z) * p.B * p.d + chunk * kWidth;
    for_each(E, [&](int row, int column, T& value) {
        const int64_t b = b0 + Shape::first_row() + row;
        if (b < p.B && chunk * kWidth + column < p.d) out[b * p.d + column] = value;
    });
}

// A block per anchor: the splits' sums become the loss and, chunk by chunk, the expected negative.
template <class T>
__global__ void __launch_bounds__(kMergeThreads)
    info_nce_merge_kernel(InfoNceProblem<T> p, const T* tops, const T* sums, const T* negatives, int64_t splits,
                          int64_t chunks, int64_t width) {
    __shared__ double factor[kMostSplits];
    for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const auto at = [&](int64_t split) { return (split * chunks + chunk) * p.B + b; };
            T top = -INFINITY;
            for (int64_t s = 0; s < splits; ++s) top = tops[at(s)] > top ? tops[at(s)] : top;
            __syncthreads();  // the chunk before has been read
            for (int64_t s = threadIdx.x; s < splits; s += kMergeThreads) {
                factor[s] = rescaling(double(tops[at(s)]), double(top));
            }
            __syncthreads();
            double total = 0;
            for (int64_t s = 0; s < splits; ++s) total += factor[s] * double(sums[at(s)]);
            if (p.expected) {
                const int64_t end = (chunk + 1) * width < p.d ? (chunk + 1) * width : p.d;
                for (int64_t f = chunk * width + threadIdx.x; f < end; f += kMergeThreads) {
                    double mean = 0;
                    for (int64_t s = 0; s < splits; ++s) mean += factor[s] * double(negatives[(s * p.B + b) * p.d + f]);
                    p.expected[b * p.d + f] = total == 0 ? T(0) : T(mean / total);
                }
            }
            if (chunk > 0) continue;
            double own = 0;
            for (int64_t f = threadIdx.x; f < p.d; f += kMergeThreads) {
                own += double(p.anchor[b * p.anchor_stride + f]) * double(p.positive[b * p.positive_stride + f]);
            }
            own = block_sum<kMergeThreads>(own);
            if (threadIdx.x == 0) {
                const double negative = (double(shift_of(top)) + log2(total)) * 0.6931471805599453;
                const double excess = negative - own / p.temperature;
                p.loss[b] = T(excess > 0 ? excess + log1p(exp(-excess)) : log1p(exp(excess)));
            }
        }
    }
}

template <class S, int kWidth>
Status stream(const Stream<S>& p, int64_t blocks_of_E, int64_t splits, bool tf32, Queue queue) {
    using T = Computed<S>;
    const int rows = p.chunks == 1 ? 2 * kStep + Shape::kRows : 2 * (kStep + Shape::kRows);
    static_assert(2 * (kStep + Shape::kRows) * row_stride(kWidth) * sizeof(T) <= 99 * 1024, "what an sm_86 block gets");
    const dim3 grid(blocks_for(p.B, Shape::kRows), static_cast<unsigned>(blocks_of_E), static_cast<unsigned>(splits));
    return with_exactness<T>(tf32, [&](auto exact) {
        return launch(info_nce_kernel<S, exact.value, kWidth>, grid, dim3(Shape::kThreads),
                      rows * row_stride(kWidth) * sizeof(T), queue, p);
    });
}

template <class S>
Status run(const InfoNceProblem<Computed<S>>& p, const S* bank, int64_t bank_stride, bool tf32, char* scratch,
           Queue queue) {
    using T = Computed<S>;
    constexpr bool kDouble = std::is_same_v<T, double>;
    const Plan plan(kDouble, p.B, p.N, p.d, p.q, p.expected != nullptr);
    T *const top = reinterpret_cast<T*>(scratch + plan.top), *const sum = reinterpret_cast<T*>(scratch + plan.sum);
    T* const negatives = reinterpret_cast<T*>(scratch + plan.negatives);
    uint32_t* const excluded = reinterpret_cast<uint32_t*>(scratch + plan.excluded);
    if (p.q > 0) {
        const int64_t size = p.B * plan.words;
        if (Status s = launch(clear_mask_kernel, dim3(blocks_for(size, 256)), dim3(256), 0, queue, excluded, size); !s)
            return s;
        if (Status s = launch(set_mask_kernel, dim3(blocks_for(p.B * p.q, 256)), dim3(256), 0, queue, p.mask, p.B, p.q,
                              p.N, plan.words, excluded);
            !s) {
            return s;
        }
    }
    const Stream<S> streamed = {p.anchor,
                                p.anchor_stride,
                                bank,
                                bank_stride,
                                p.B,
                                p.N,
                                p.d,
                                p.rows,
                                p.q > 0 ? excluded : nullptr,
                                plan.words,
                                plan.per_split,
                                plan.chunks,
                                static_cast<T>(1.4426950408889634 / p.temperature),
                                top,
                                sum,
                                p.expected ? negatives : nullptr};
    const int64_t blocks_of_E = p.expected ? plan.chunks : 1;
    Status done;
    if constexpr (kDouble) {
        done = stream<S, 32>(streamed, blocks_of_E, plan.splits, tf32, queue);
    } else if (width_of(kDouble, p.d) == 64) {
        done = stream<S, 64>(streamed, blocks_of_E, plan.splits, tf32, queue);
    } else {
        done = stream<S, 128>(streamed, blocks_of_E, plan.splits, tf32, queue);
    }
    if (!done) return done;
    return launch(info_nce_merge_kernel<T>, dim3(blocks_for(p.B, 1)), dim3(kMergeThreads), 0, queue, p,
                  static_cast<const T*>(top), static_cast<const T*>(sum), static_cast<const T*>(negatives), plan.splits,
                  p.expected ? plan.chunks : int64_t(1), width_of(kDouble, p.d));
}

}  // namespace

bool info_nce_reads(DType) { return true; }

int64_t info_nce_scratch(DType dtype, int64_t B, int64_t N, int64_t d, int64_t q, bool expected) {
    return Plan(dtype == DType::f64, B, N, d, q, expected).bytes;
}

Status info_nce(DType dtype, Queue queue, const void* anchor, int64_t anchor_stride, const void* positive,
                int64_t positive_stride, const void* bank, int64_t bank_stride, int64_t B, int64_t N, int64_t d,
                const int64_t* rows, const int64_t* mask, int64_t q, double temperature, bool tf32, void* scratch,
                void* loss, void* expected) {
    return with_storage_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        using T = Computed<S>;
        const InfoNceProblem<T> p(anchor, anchor_stride, positive, positive_stride, B, N, d, rows, mask, q, temperature,
                                  loss, expected);
        return run<S>(p, static_cast<const S*>(bank), bank_stride, tf32, static_cast<char*>(scratch), queue);
    });
}

}  // namespace dsc::cuda
