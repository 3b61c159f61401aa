// What every kernel on sparse coefficients shares: which entries a row has, where their rows of the bank lie, and how a
// group of lanes reads them.
//
// A group of 4 to 32 lanes, as many as d needs, takes one row of the batch. Its lanes look up one entry each; then all
// of them read the entries' rows together, 16 bytes a lane if everything is aligned to that, four rows in flight.
#pragma once

#include "common/bank_row.h"
#include "common/dtype.h"
#include "common/launch.cuh"
#include "common/support.h"

namespace dsc::cuda {
namespace {

constexpr int kSparseThreads = 256;
constexpr int kInFlight = 4;

template <class Element, class T>
struct SplicedBank {
    const Element* M;
    int64_t M_stride, N, d;
    const T* Z;
    int64_t Z_stride;
    const int32_t* slot;
};

__device__ inline int64_t local_row(const Support& p, int64_t b) {
    const int64_t row = p.rows ? p.rows[b] - p.row_offset : b;
    DSC_DEVICE_ASSERT(row >= 0 && row < p.n, "sparse_self_expression: rows must lie in values");
    return row;
}

// What an entry names: j >= 0 row j of the bank, kNothing padding, and below that row live_of(where) of the batch.
constexpr int64_t kNothing = -1;
__device__ inline int64_t live_of(int64_t where) { return -2 - where; }

__device__ inline int64_t place_of(const Support& p, int64_t row, int64_t s, int64_t N, const int32_t* slot) {
    const int64_t j = p.indices[row * p.stride + s];
    DSC_DEVICE_ASSERT(j < N, "sparse_self_expression: indices must be below N");
    if (j < 0 || (p.zero_diagonal && j == p.row_offset + row)) return kNothing;
    const int32_t live = slot ? slot[j] : -1;
    return live >= 0 ? -2 - int64_t(live) : j;
}

// kWidth numbers that lie side by side, and are aligned to 16 bytes if there are that many of them.
template <class Element, int kWidth>
struct alignas(kWidth == 1 ? sizeof(Element) : 16) Pack {
    Element at[kWidth];
};

template <int kWidth, class T, class Element>
__device__ inline void read(const Element* from, T (&to)[kWidth]) {
    const Pack<Element, kWidth> pack = *reinterpret_cast<const Pack<Element, kWidth>*>(from);
    for (int i = 0; i < kWidth; ++i) to[i] = widen<T>(pack.at[i]);
}

// Columns c .. c + kWidth of what an entry names; the entry must not be padding.
template <int kWidth, class Element, class T>
__device__ inline void read_row(const SplicedBank<Element, T>& bank, int64_t where, int64_t c, T (&to)[kWidth]) {
    if (where >= 0) {
        read<kWidth>(bank.M + where * bank.M_stride + c, to);
    } else {
        read<kWidth>(bank.Z + live_of(where) * bank.Z_stride + c, to);
    }
}

// The lanes that work on one row: their number (a power of two), this thread among them, and who they are in the warp.
struct Group {
    int lanes, lane;
    unsigned mask;
    int64_t index;  // among all groups of the grid

    __device__ explicit Group(int lanes_) : lanes(lanes_), lane(static_cast<int>(threadIdx.x) % lanes_) {
        const int first = static_cast<int>(threadIdx.x) % kWarp - lane;
        mask = lanes == kWarp ? kFullMask : ((1u << lanes) - 1u) << first;
        index = int64_t(blockIdx.x) * (kSparseThreads / lanes) + static_cast<int>(threadIdx.x) / lanes;
    }
    template <class V>
    __device__ V from(V value, int source) const {
        return __shfl_sync(mask, value, source, lanes);
    }
    template <class V>
    __device__ V sum(V value) const {
        for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(mask, value, step, lanes);
        return value;
    }
};

// As many lanes as have kWidth of the d columns to read, 4 to 32.
inline int lanes_for(int64_t d, int width) {
    int lanes = 4;
    while (lanes < kWarp && int64_t(lanes) * width < d) lanes *= 2;
    return lanes;
}

inline dim3 grid_of_groups(int64_t groups, int lanes) { return dim3(blocks_for(groups, kSparseThreads / lanes)); }

inline bool aligned(const void* base, int64_t stride, int64_t size) {
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride * size % 16 == 0;
}

// Whether rows of the bank, of Z and of G (null: none) can be read 16 bytes at a time.
template <class Element, class T>
bool wide(const SplicedBank<Element, T>& bank, const T* G, int64_t G_stride) {
    constexpr int kWidth = 16 / sizeof(Element);
    return bank.d % kWidth == 0 && aligned(bank.M, bank.M_stride, sizeof(Element)) &&
           (!bank.Z || aligned(bank.Z, bank.Z_stride, sizeof(T))) && (!G || aligned(G, G_stride, sizeof(T)));
}

// Calls visit(T{}, Element{}) for the dtype of the values and that of the bank.
template <class Visit>
Status with_sparse_types(DType dtype, DType bank, Visit&& visit) {
    if (!known_bank(dtype, bank)) return unsupported_dtype();
    return with_storage_type(bank, [&](auto element) { return visit(Computed<decltype(element)>{}, element); });
}

// Lane l of the group gets ⟨g, row l⟩ of the `count` <= lanes entries whose places the lanes hold; zero for padding.
template <int kWidth, class Element, class T>
__device__ T group_dots(const Group& group, const SplicedBank<Element, T>& bank, int64_t where, int count, const T* g) {
    T mine = 0;
    for (int i = 0; i < count; i += kInFlight) {
        int64_t place[kInFlight];
        T dot[kInFlight] = {};
        for (int u = 0; u < kInFlight; ++u) {
            place[u] = group.from(where, i + u < count ? i + u : 0);
            if (i + u >= count) place[u] = kNothing;
        }
        for (int64_t c = group.lane * kWidth; c < bank.d; c += group.lanes * kWidth) {
            T G[kWidth], x[kInFlight][kWidth];
            read<kWidth>(g + c, G);
            for (int u = 0; u < kInFlight; ++u) {
                if (place[u] != kNothing) read_row<kWidth>(bank, place[u], c, x[u]);
            }
            for (int u = 0; u < kInFlight; ++u) {
                if (place[u] == kNothing) continue;
                for (int w = 0; w < kWidth; ++w) dot[u] += G[w] * x[u][w];
            }
        }
        for (int u = 0; u < kInFlight; ++u) {
            const T total = group.sum(dot[u]);
            if (group.lane == i + u) mine = total;
        }
    }
    return mine;
}

}  // namespace
}  // namespace dsc::cuda
