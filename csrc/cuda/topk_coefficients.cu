// The k largest of each row, every number looked at once and nearly every one dropped for one comparison.
//
// From a matrix: a block a row. Each thread keeps the largest of its share of the first 4096 numbers; the k-th largest
// of those 256 is a bar that the k best reach, found by bisecting its bits. What reaches it goes to a list in shared
// memory, which is sorted and cut to k when it is full and at the end. Floor: one read of C.
//
// From queries and keys: a block takes 128 queries (double: 64) through its split of the samples, 64 at a time, on
// tensor cores. A warp has 16 queries to itself: what beats their bars goes to a list a query in global memory, and the
// warp cuts a list to its k best when it is nearly full. The first kernel then selects from the lists of all splits.
// Floor: 2·B·N·d FLOP; scores never leave registers.
//
// Places in a list are given out in any order, but Ranked is a total order: the result is the same bits in every run.
#include "common/dtype.h"
#include "common/ranked.h"
#include "cuda/block.cuh"
#include "cuda/tile.cuh"
#include "topk_coefficients.h"

namespace dsc::cuda {

namespace {

constexpr int kMost = 256;

// ---- selection by a block

constexpr int kThreads = 256;
constexpr int kListed = 1024;  // at least kMost + kThreads, a power of 2

// Numbers of a matrix's row, and its own column, which does not count.
template <class T_, bool kSigned>
struct FromMatrix {
    using T = T_;
    using R = Ranked<T, kSigned>;
    using Item = T;
    static constexpr bool kAscending = true;  // a later item has a later column

    const T* C;
    int64_t C_stride, n, row_offset;
    const int64_t* rows;
    bool zero_diagonal;
    int64_t size;

    const T* row;
    int64_t own;

    __device__ void open(int64_t b) {
        const int64_t global = rows ? rows[b] : row_offset + b;
        DSC_DEVICE_ASSERT(global >= row_offset && global - row_offset < n, "topk_coefficients: rows must lie in C");
        row = C + (global - row_offset) * C_stride;
        own = zero_diagonal ? global : -1;
    }
    __device__ bool has(int64_t i) const { return i < size && i != own; }
    __device__ Item operator[](int64_t i) const { return row[i]; }
    __device__ static typename R::Half rank(Item item) { return R::rank(item); }
    __device__ static typename R::Key key(Item item, int64_t i) { return R::key(item, i); }
};

// The candidates that each split has left of a row.
constexpr int kLength = 384;  // of a split's list: kMost and 64 more, and as many again for k up to 160

template <class T_, bool kSigned>
struct FromLists {
    using T = T_;
    using R = Ranked<T, kSigned>;
    using Item = typename R::Key;
    static constexpr bool kAscending = false;

    const Item* lists;  // (B, splits, kLength)
    const int32_t* counts;
    int64_t size;  // splits * kLength

    const Item* row;
    const int32_t* count;

    __device__ void open(int64_t b) {
        row = lists + b * size;
        count = counts + b * (size / kLength);
    }
    __device__ bool has(int64_t i) const {
        return i < size && int(unsigned(i) % kLength) < count[unsigned(i) / kLength];
    }
    __device__ Item operator[](int64_t i) const { return row[i]; }
    __device__ static typename R::Half rank(Item item) { return R::rank_of(item); }
    __device__ static Item key(Item item, int64_t) { return item; }
};

// Sorts the list, its `filled` keys and zeros behind them up to a power of 2, largest first; `filled` <= kListed.
template <class Key>
__device__ void sort_list(Key* list, int filled) {
    int size = 2;
    while (size < filled) size *= 2;
    for (int i = filled + threadIdx.x; i < size; i += kThreads) list[i] = 0;
    for (int run = 2; run <= size; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            __syncthreads();  // the list, or the step before this one, is complete
            for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
                const int low = 2 * pair - (pair & (step - 1)), high = low + step;
                const Key a = list[low], b = list[high];
                if ((a < b) == ((low & run) == 0)) list[low] = b, list[high] = a;
            }
        }
    }
    __syncthreads();  // sorted for whoever reads it
}

template <class Source>
__global__ void __launch_bounds__(kThreads, 2)
    topk_select_kernel(Source from, int64_t k, typename Source::T* values, int64_t* indices) {
    using R = typename Source::R;
    using Half = typename R::Half;
    constexpr int kEach = sizeof(Half) == 4 ? 16 : 8;  // items of a thread at a time
    __shared__ typename R::Key list[kListed];
    __shared__ int next;
    from.open(blockIdx.x);
    if (threadIdx.x == 0) next = 0;
    int filled = 0;
    Half least = 0;  // the rank from which on an item is listed
    for (int64_t j0 = 0; j0 < from.size; j0 += kEach * kThreads) {
        typename Source::Item items[kEach];
        unsigned there = 0, listed = 0;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const int64_t j = j0 + i * kThreads + threadIdx.x;
            if (!from.has(j)) continue;
            items[i] = from[j];
            there |= 1u << i;
        }
        if (j0 == 0) {
            Half best = 0;
#pragma unroll
            for (int i = 0; i < kEach; ++i) {
                if (there >> i & 1) best = max(best, Source::rank(items[i]));
            }
            for (int bit = R::kBits - 1; bit >= 0; --bit) {
                const Half higher = least | Half(1) << bit;
                if (__syncthreads_count(best >= higher) >= k) least = higher;
            }
        }
        const auto passes = [&](int i) { return (there >> i & 1) && Source::rank(items[i]) >= least; };
        const auto append = [&](int i) {
            list[atomicAdd(&next, 1)] = Source::key(items[i], j0 + i * kThreads + threadIdx.x);
        };
#pragma unroll
        for (int i = 0; i < kEach; ++i) listed |= unsigned(passes(i)) << i;
        const int more = block_sum<kThreads>(__popc(listed));
        if (filled + more <= kListed) {
#pragma unroll
            for (int i = 0; i < kEach; ++i) {
                if (listed >> i & 1) append(i);
            }
            filled += more;
            continue;
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            int passing = __syncthreads_count(passes(i));  // and all before are in the list
            if (filled + passing > kListed) {
                if (threadIdx.x == 0) next = int(k);
                sort_list(list, filled);
                filled = int(k);
                const Half last = R::rank_of(list[k - 1]);
                least = Source::kAscending && last != Half(~Half(0)) ? last + 1 : last;
                passing = __syncthreads_count(passes(i));
            }
            if (passes(i)) append(i);
            filled += passing;
        }
    }
    sort_list(list, filled);
    for (int64_t i = threadIdx.x; i < k; i += kThreads) {
        const auto key = i < filled ? list[i] : 0;
        values[blockIdx.x * k + i] = key != 0 ? R::value(key) : typename Source::T(0);
        indices[blockIdx.x * k + i] = key != 0 ? R::column(key) : -1;
    }
}

// ---- scores

template <class T>
using ScoresShape = std::conditional_t<sizeof(T) == 4, TileShape<8, 1, 1, 8>, TileShape<4, 1, 1, 8>>;
constexpr int kDepth = 32;
template <class T>
constexpr int kStages = sizeof(T) == 4 ? 3 : 2;
constexpr int kKeysOfLane = kLength / kWarp;

// How the work is cut: a function of the shape alone.
template <class T>
struct Plan {
    using Shape = ScoresShape<T>;

    int64_t steps_of_d, tiles, splits, split_length;
    bool resident;  // the block's queries stay in shared memory, instead of coming anew for each 64 samples
    int Q_stride;
    size_t shared_bytes;

    Plan(int64_t B, int64_t N, int64_t d) {
        steps_of_d = d > kDepth ? divide_up(d, kDepth) : 1;
        tiles = divide_up(B, Shape::kRows);
        const int64_t steps = divide_up(N, Shape::kColumns);
        splits = splits_to_fill(2 * tiles, steps, 16);  // two blocks of these fill a multiprocessor
        split_length = divide_up(steps, splits) * Shape::kColumns;
        resident = steps_of_d * kDepth <= (sizeof(T) == 4 ? 128 : 64);
        Q_stride = row_stride(resident ? int(steps_of_d) * kDepth : kDepth);
        const int Q_rows = Shape::kRows * (resident ? 1 : kStages<T>);
        shared_bytes = sizeof(T) * (Q_rows * Q_stride + kStages<T> * Shape::kColumns * row_stride(kDepth));
    }
};

template <class S>
struct Scores {
    const S* Q;
    int64_t Q_stride, B;
    const S* K;
    int64_t K_stride, N, d;
    const int64_t* rows;
    int64_t row_offset;
    bool zero_diagonal;
    int k;
    Plan<Computed<S>> plan;
};

// By one warp: cuts a list of `count` > k keys to its k best, and returns a key that just these reach. The keys differ,
// so there is one, found bit by bit.
template <class Key>
__device__ Key cut_list(Key* list, int count, int k) {
    const int lane = threadIdx.x % kWarp;
    Key keys[kKeysOfLane];
#pragma unroll
    for (int i = 0; i < kKeysOfLane; ++i) {
        const int place = i * kWarp + lane;
        keys[i] = place < count ? list[place] : 0;
    }
    __syncwarp();  // everyone has its keys, and has read the count
    Key least = 0;
    for (int bit = 8 * int(sizeof(Key)) - 1; bit >= 0; --bit) {
        const Key higher = least | Key(1) << bit;
        int reaching = 0;
#pragma unroll
        for (int i = 0; i < kKeysOfLane; ++i) reaching += keys[i] >= higher;
        for (int step = kWarp / 2; step > 0; step /= 2) reaching += __shfl_xor_sync(kFullMask, reaching, step);
        if (reaching >= k) least = higher;
        if (reaching == k) break;
    }
    int kept = 0;
#pragma unroll
    for (int i = 0; i < kKeysOfLane; ++i) {
        const unsigned lanes = __ballot_sync(kFullMask, keys[i] >= least);
        if (lanes >> lane & 1) list[kept + __popc(lanes & ((1u << lane) - 1))] = keys[i];
        kept += __popc(lanes);
    }
    return least;
}

// Blocks a multiprocessor holds at least. Two leave the rounding of float to TF32 a few registers short on sm_86.
template <class S, bool kExact>
constexpr int kBlocks = std::is_same_v<S, float> && !kExact ? 1 : 2;

template <class S, bool kExact, bool kSigned>
__global__ void __launch_bounds__(ScoresShape<Computed<S>>::kThreads, kBlocks<S, kExact>)
    topk_scores_kernel(Scores<S> p, typename Ranked<Computed<S>, kSigned>::Key* lists, int32_t* counts) {
    using T = Computed<S>;
    using Shape = ScoresShape<T>;
    using R = Ranked<T, kSigned>;
    constexpr int kStride = row_stride(kDepth), kRows = Shape::kRows, kColumns = Shape::kColumns;
    constexpr Tf32 kTf32 = tf32_of<S, kExact>;
    DSC_DYNAMIC_SHARED(T, shared);
    __shared__ int64_t own[kRows];
    __shared__ T bar[kRows];
    __shared__ int listed[kRows];
    T* const Q_tile = shared + kStages<T> * kColumns * kStride;
    const auto K_of = [&](int stage) { return shared + stage * kColumns * kStride; };
    const int64_t b0 = int64_t(blockIdx.x) * kRows, j_begin = blockIdx.y * p.plan.split_length;
    const int64_t j_end = j_begin + p.plan.split_length < p.N ? j_begin + p.plan.split_length : p.N;

    if (threadIdx.x < kRows) {
        const int64_t b = b0 + threadIdx.x, sample = p.rows && b < p.B ? p.rows[b] : p.row_offset + b;
        DSC_DEVICE_ASSERT(b >= p.B || !p.zero_diagonal || (sample >= 0 && sample < p.N),
                          "topk_coefficients: rows must lie in [0, N), the samples of K");
        own[threadIdx.x] = p.zero_diagonal ? sample : -1;
        // Nothing is at most NaN, and nothing but NaN is not at most infinity.
        bar[threadIdx.x] = T(b < p.B ? NAN : INFINITY);
        listed[threadIdx.x] = 0;
    }
    const bool wide = wide_rows(p.Q, p.Q_stride) && wide_rows(p.K, p.K_stride);
    const auto fetch_queries = [&](int64_t k, T* to) {
        fetch_rows<Shape::kThreads, kRows, kDepth>(to, p.plan.Q_stride, p.d - k, wide, [&](int r) {
            return Row<S>{b0 + r < p.B ? p.Q + (b0 + r) * p.Q_stride + k : nullptr};
        });
    };
    if (p.plan.resident) {  // these join the first group of the pipeline
        for (int64_t i = 0; i < p.plan.steps_of_d; ++i) fetch_queries(i * kDepth, Q_tile + i * kDepth);
    }

    const int lane = threadIdx.x % kWarp, g = lane / 4, row0 = Shape::first_row();
    const int splits = int(gridDim.y);
    auto* const block_lists =
        lists + (b0 * splits + blockIdx.y) * kLength;  // of its row r: r * splits lists further on
    // Which of a piece's numbers are of queries that exist.
    const unsigned exist = (b0 + row0 + g < p.B ? 0x33333333u : 0u) | (b0 + row0 + g + 8 < p.B ? 0xccccccccu : 0u);
    const auto select = [&](const Tile<T, 1, 8>& tile, int64_t j0) {
        const T bars[2] = {bar[row0 + g], bar[row0 + g + 8]};
        unsigned beats = 0;
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            const T value = tile.value[0][e / 4][e % 4];
            beats |= unsigned(!((kSigned || value >= T(0) ? value : -value) <= bars[e % 4 / 2])) << e;
        }
        beats &= exist;
        if (!__any_sync(kFullMask, beats != 0)) return;
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            if (!(beats >> e & 1)) continue;
            const int64_t j = j0 + e / 4 * 8 + lane % 4 * 2 + e % 2;
            const int row = row0 + g + e % 4 / 2 * 8;
            if (j >= j_end || j == own[row]) continue;
            const int place = atomicAdd(&listed[row], 1);
            DSC_DEVICE_ASSERT(place < kLength, "topk_coefficients: a list was not cut in time");
            block_lists[row * splits * kLength + place] = R::key(tile.value[0][e / 4][e % 4], j);
        }
        __syncwarp();  // the lists are complete; the pipeline's barriers do the same for the next step
        unsigned full = __ballot_sync(kFullMask, lane < 16 && listed[row0 + lane % 16] > kLength - kColumns);
        for (; full; full &= full - 1) {
            const int row = row0 + __ffs(int(full)) - 1;
            const auto least = cut_list(block_lists + row * splits * kLength, listed[row], p.k);
            if (lane == 0) {
                bar[row] = R::bar(least);
                listed[row] = p.k;
            }
        }
    };

    Tile<T, 1, 8> tile;
    int64_t fetched_j = j_begin, fetched_k = 0, j0 = j_begin, k0 = 0;
    const auto advance = [&](int64_t& j, int64_t& k) {
        k += kDepth;
        if (k >= p.plan.steps_of_d * kDepth) k = 0, j += kColumns;
    };
    pipeline<kStages<T>>(
        j_begin < j_end ? divide_up(j_end - j_begin, kColumns) * p.plan.steps_of_d : 0,
        [&](int64_t, int stage) {
            fetch_rows<Shape::kThreads, kColumns, kDepth>(K_of(stage), kStride, p.d - fetched_k, wide, [&](int r) {
                const int64_t j = fetched_j + r;
                return Row<S>{j < j_end ? p.K + j * p.K_stride + fetched_k : nullptr};
            });
            if (!p.plan.resident) fetch_queries(fetched_k, Q_tile + stage * kRows * kStride);
            advance(fetched_j, fetched_k);
        },
        [&](int64_t, int stage) {
            const T* const A = Q_tile + row0 * p.plan.Q_stride + (p.plan.resident ? k0 : stage * kRows * kStride);
            multiply_rows<kDepth, kTf32, kTf32>(tile, A, p.plan.Q_stride, K_of(stage), kStride);
            const int64_t j = j0;
            advance(j0, k0);
            if (k0 != 0) return;
            select(tile, j);
            tile = {};
        });
    __syncthreads();  // a list's length is written by another warp than cut it
    if (threadIdx.x < kRows && b0 + threadIdx.x < p.B) {
        counts[(b0 + threadIdx.x) * gridDim.y + blockIdx.y] = listed[threadIdx.x];
    }
}

template <class Visit>
Status with_signedness(bool signed_, Visit&& visit) {
    return signed_ ? visit(std::true_type{}) : visit(std::false_type{});
}

template <class Source>
Status select(const Source& from, int64_t B, int64_t k, void* values, int64_t* indices, Queue queue) {
    return launch(topk_select_kernel<Source>, dim3(blocks_for(B, 1)), dim3(kThreads), 0, queue, from, k,
                  static_cast<typename Source::T*>(values), indices);
}

}  // namespace

int64_t topk_coefficients_most() { return kMost; }

int64_t topk_coefficients_scratch(DType, Queue, int64_t, int64_t, int64_t) { return 0; }

int64_t topk_inner_products_scratch(DType dtype, Queue, int64_t B, int64_t N, int64_t d, int64_t) {
    return with_computed_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return B * Plan<T>(B, N, d).splits * (kLength * 2 * int64_t(sizeof(T)) + int64_t(sizeof(int32_t)));
    });
}

int64_t topk_inner_products_shared(DType dtype, int64_t d) {
    return with_computed_type(
        dtype, [&](auto zero) { return static_cast<int64_t>(Plan<decltype(zero)>(1, 1, d).shared_bytes); });
}

Status topk_coefficients(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n, int64_t row_offset,
                         int64_t N, const int64_t* rows, int64_t B, int64_t k, bool signed_, bool zero_diagonal, void*,
                         void* values, int64_t* indices) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return with_signedness(signed_, [&](auto is_signed) {
            const FromMatrix<T, is_signed> from{
                static_cast<const T*>(C), C_stride, n, row_offset, rows, zero_diagonal, N, nullptr, 0};
            return select(from, B, k, values, indices, queue);
        });
    });
}

Status topk_inner_products(DType dtype, Queue queue, bool tf32, const void* Q, int64_t Q_stride, int64_t B,
                           const void* K, int64_t K_stride, int64_t N, int64_t d, const int64_t* rows,
                           int64_t row_offset, int64_t k, bool signed_, bool zero_diagonal, void* scratch, void* values,
                           int64_t* indices) {
    return with_storage_type(dtype, [&](auto zero) {
        using S = decltype(zero);
        using T = Computed<S>;
        const Plan<T> plan(B, N, d);
        const Scores<S> p{static_cast<const S*>(Q),
                          Q_stride,
                          B,
                          static_cast<const S*>(K),
                          K_stride,
                          N,
                          d,
                          rows,
                          row_offset,
                          zero_diagonal,
                          int(k),
                          plan};
        const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.splits));
        return with_signedness(signed_, [&](auto is_signed) {
            using Key = typename Ranked<T, is_signed>::Key;
            Key* const lists = static_cast<Key*>(scratch);
            int32_t* const counts = reinterpret_cast<int32_t*>(lists + B * plan.splits * kLength);
            const auto score = [&](auto exact) {
                return launch(topk_scores_kernel<S, exact, is_signed>, grid, dim3(Plan<T>::Shape::kThreads),
                              plan.shared_bytes, queue, p, lists, counts);
            };
            const bool rounds = std::is_same_v<S, float> && tf32;
            if (Status s = rounds ? score(std::bool_constant<!std::is_same_v<S, float>>{}) : score(std::true_type{});
                !s) {
                return s;
            }
            const FromLists<T, is_signed> from{lists, counts, plan.splits * kLength, nullptr, nullptr};
            return select(from, B, k, values, indices, queue);
        });
    });
}

}  // namespace dsc::cuda
