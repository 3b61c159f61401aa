// Each sample from the atoms of its support, on the GPU.
//
// A warp takes a row of the batch. The Gram matrix of its atoms and target grows in shared memory, a slice of 128 bytes
// of every atom at a time, each lane adding to tiles of 4 × 4 products of its own; then the warp solves on it, lanes
// being columns (common/on_support_row.h), and writes the k coefficients. Nothing else leaves the multiprocessor.
//
// Floor: B k² d FLOP of FP32, half of them for the symmetric half. A tile reads 8 numbers for 16 multiplications, which
// is what shared memory can deliver for every second one. Shared memory bounds k, and how many warps share a
// multiprocessor (13 at k = 50).
#include <limits>
#include <type_traits>

#include "common/dtype.h"
#include "common/half.h"
#include "common/launch.cuh"
#include "common/on_support_row.h"
#include "on_support.h"

namespace dsc::cuda {

namespace {

template <class T>
constexpr int kMostAtoms = sizeof(T) == 4 ? 120 : 80;
template <class T>
constexpr int kFeatures = 128 / sizeof(T);  // in a slice
constexpr int kSide = 4;                    // of a tile
constexpr int kInFlight = 8;                // numbers that a lane waits for at a time

template <class T>
struct Problem {
    const T* X;
    int64_t X_stride, N, d;
    const int64_t* indices;
    int64_t indices_stride;
    int k;
    const T* Q;
    int64_t Q_stride;
    T rounding;
    T* values;
};

// Where things lie in a block's shared memory.
template <class T>
struct Layout {
    static constexpr int kStride = kFeatures<T> + 1;  // of a slice, odd as all strides: columns meet no bank twice

    int sides;   // tiles down the Gram matrix
    int64_t ld;  // of V
    size_t gram, area, vectors, lists, bytes;

    DSC_HOST_DEVICE explicit Layout(int k) : sides((k + kSide) / kSide), ld((k + 1) | 1) {
        gram = (k + 1) * sizeof(const T*);  // after the addresses of the atoms and the target
        area = gram + sizeof(T) * size_t(k + 1) * (k + 2) / 2;
        const int64_t slice = int64_t(sides) * kSide * kStride, factor = k * ld;  // one after the other
        vectors = area + sizeof(T) * size_t(slice > factor ? slice : factor);
        lists = vectors + sizeof(T) * size_t(kNumberArrays) * (k + 1);
        bytes = lists + sizeof(int32_t) * size_t(kIntegerArrays) * k;
    }
};

template <class T>
struct Warp {
    const T* G;  // the lower triangle, row after row

    static __device__ int lane() { return static_cast<int>(threadIdx.x); }
    static __device__ constexpr int lanes() { return kWarp; }
    static __device__ void sync() {
        __syncwarp();  // nothing else orders the lanes of a row
    }
    static __device__ bool any(bool value) { return __any_sync(kFullMask, value) != 0; }
    static __device__ Event<T> first(Event<T> event) {
        for (int step = kWarp / 2; step > 0; step /= 2) {
            const Event<T> other = {__shfl_xor_sync(kFullMask, event.value, step),
                                    __shfl_xor_sync(kFullMask, event.which, step)};
            if (other.before(event)) event = other;
        }
        return event;
    }
    static __device__ T root(T value) { return sqrt(value); }
    __device__ T gram(int i, int j) const {
        const int low = i < j ? i : j, high = i < j ? j : i;
        return G[high * (high + 1) / 2 + low];
    }
    __device__ void eliminate(const SupportRow<T>& row, int j, T shift, T scale) const {
        for (int c = lane(); c <= row.m; c += kWarp) {
            T sum = gram(j, c) + (c == j ? shift : T(0));
            for (int p = 0; p < row.n; ++p) sum -= row.V[p * row.ld + j] * row.V[p * row.ld + c];
            row.V[row.n * row.ld + c] = sum * scale;
        }
    }
};

// Features [f0, f0 + kFeatures) of all atoms, zero where there is none.
template <class T>
__device__ void fetch_slice(const T* const* atoms, int rows, int count, int64_t d, int64_t f0, T* slice) {
    constexpr int kAtOnce = kWarp / kFeatures<T> > 0 ? kWarp / kFeatures<T> : 1;
    const int lane = static_cast<int>(threadIdx.x), f = lane % kFeatures<T>;
    for (int i0 = lane / kFeatures<T>; i0 < rows; i0 += kAtOnce * kInFlight) {
        T number[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
            const int i = i0 + u * kAtOnce;
            const T* from = i < count ? atoms[i] : nullptr;
            number[u] = from && f0 + f < d ? from[f0 + f] : T(0);
        }
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
            const int i = i0 + u * kAtOnce;
            if (i < rows) slice[i * Layout<T>::kStride + f] = number[u];
        }
    }
}

// The slice's products, added to the lower triangle of the first `count` rows, or put there if they are the first.
template <class T>
__device__ void add_products(const T* slice, int sides, int count, bool first, T* G) {
    constexpr int kStride = Layout<T>::kStride;
    int row = 0, column = static_cast<int>(threadIdx.x);
    for (int tile = column; tile < sides * (sides + 1) / 2; tile += kWarp, column += kWarp) {
        for (; column > row; ++row) column -= row + 1;
        const T *a = slice + row * kSide * kStride, *b = slice + column * kSide * kStride;
        T sum[kSide][kSide] = {};
        for (int f = 0; f < kFeatures<T>; ++f) {
            T x[kSide], y[kSide];
#pragma unroll
            for (int i = 0; i < kSide; ++i) {
                x[i] = a[i * kStride + f];
                y[i] = b[i * kStride + f];
            }
#pragma unroll
            for (int i = 0; i < kSide; ++i) {
#pragma unroll
                for (int j = 0; j < kSide; ++j) sum[i][j] += x[i] * y[j];
            }
        }
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
            const int r = row * kSide + i;
            T* to = G + r * (r + 1) / 2 + column * kSide;
#pragma unroll
            for (int j = 0; j < kSide; ++j) {
                if (r < count && column * kSide + j <= r) to[j] = first ? sum[i][j] : to[j] + sum[i][j];
            }
        }
    }
}

template <class T, class Solve>
__global__ void __launch_bounds__(kWarp) on_support_kernel(Problem<T> p, Solve solve) {
    DSC_DYNAMIC_SHARED(unsigned char, shared);
    const Layout<T> layout(p.k);
    const T** const atoms = reinterpret_cast<const T**>(shared);
    T* const G = reinterpret_cast<T*>(shared + layout.gram);
    T* const area = reinterpret_cast<T*>(shared + layout.area);
    const int64_t b = blockIdx.x;
    const int lane = static_cast<int>(threadIdx.x);
    for (int s = lane; s <= p.k; s += kWarp) {
        const int64_t j = s < p.k ? p.indices[b * p.indices_stride + s] : -1;
        DSC_DEVICE_ASSERT(j < p.N, "on_support: indices must be below N, the rows of X");
        atoms[s] = j < 0 || (!p.Q && j == b) ? nullptr : p.X + j * p.X_stride;
        if (s == p.k) atoms[s] = p.Q ? p.Q + b * p.Q_stride : p.X + b * p.X_stride;
    }
    for (int64_t f0 = 0; f0 < p.d; f0 += kFeatures<T>) {
        __syncwarp();  // the addresses are there, and the slice before this one has been multiplied
        fetch_slice(atoms, layout.sides * kSide, p.k + 1, p.d, f0, area);
        __syncwarp();  // the slice is there
        add_products(area, layout.sides, p.k + 1, f0 == 0, G);
    }
    __syncwarp();  // the Gram matrix is there, and nobody reads the slice, where V will lie
    SupportRow<T> row(p.k, layout.ld, p.rounding, area, reinterpret_cast<T*>(shared + layout.vectors),
                      reinterpret_cast<int32_t*>(shared + layout.lists));
    solve(row, Warp<T>{G});
    for (int s = lane; s < p.k; s += kWarp) p.values[b * p.k + s] = atoms[s] ? row.c[s] : T(0);
}

template <class T>
struct Ridge {
    T lam;
    __device__ void operator()(SupportRow<T>& row, const Warp<T>& team) const { ridge(row, team, lam); }
};
template <class T>
struct ElasticNet {
    T l1, l2;
    __device__ void operator()(SupportRow<T>& row, const Warp<T>& team) const { elastic_net(row, team, l1, l2); }
};
template <class T>
struct Pursuit {
    int64_t most;
    T tolerance;
    __device__ void operator()(SupportRow<T>& row, const Warp<T>& team) const { pursuit(row, team, most, tolerance); }
};

// Launches the kernel with what make(T{}) gives for the dtype.
template <class Make>
Status on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                  const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q, int64_t Q_stride,
                  void* values, Make&& make) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const auto solve = make(zero);
        const Problem<T> problem = {static_cast<const T*>(X),
                                    X_stride,
                                    N,
                                    d,
                                    indices,
                                    indices_stride,
                                    static_cast<int>(k),
                                    static_cast<const T*>(Q),
                                    Q_stride,
                                    static_cast<T>(10 + k) * std::numeric_limits<T>::epsilon(),
                                    static_cast<T*>(values)};
        return launch(on_support_kernel<T, std::decay_t<decltype(solve)>>, dim3(blocks_for(B, 1)), dim3(kWarp),
                      Layout<T>(problem.k).bytes, queue, problem, solve);
    });
}

}  // namespace

int64_t on_support_most(DType dtype) {
    return with_computed_type(dtype, [&](auto zero) { return kMostAtoms<decltype(zero)>; });
}

int64_t on_support_scratch(DType, Queue, int64_t) { return 0; }

int64_t on_support_shared(DType dtype, int64_t k) {
    return with_computed_type(
        dtype, [&](auto zero) { return static_cast<int64_t>(Layout<decltype(zero)>(static_cast<int>(k)).bytes); });
}

Status ridge_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                        const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                        int64_t Q_stride, double lam, void*, void* values) {
    return on_support(dtype, queue, X, X_stride, N, d, indices, indices_stride, B, k, Q, Q_stride, values,
                      [=](auto zero) {
                          using T = decltype(zero);
                          return Ridge<T>{static_cast<T>(lam)};
                      });
}

Status elastic_net_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                              const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                              int64_t Q_stride, double l1, double l2, void*, void* values) {
    return on_support(dtype, queue, X, X_stride, N, d, indices, indices_stride, B, k, Q, Q_stride, values,
                      [=](auto zero) {
                          using T = decltype(zero);
                          return ElasticNet<T>{static_cast<T>(l1), static_cast<T>(l2)};
                      });
}

Status omp_on_support(DType dtype, Queue queue, const void* X, int64_t X_stride, int64_t N, int64_t d,
                      const int64_t* indices, int64_t indices_stride, int64_t B, int64_t k, const void* Q,
                      int64_t Q_stride, int64_t n_nonzero, double tolerance, void*, void* values) {
    return on_support(dtype, queue, X, X_stride, N, d, indices, indices_stride, B, k, Q, Q_stride, values,
                      [=](auto zero) {
                          using T = decltype(zero);
                          return Pursuit<T>{n_nonzero, static_cast<T>(tolerance)};
                      });
}

}  // namespace dsc::cuda
