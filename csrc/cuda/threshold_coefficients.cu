// thrC without sorting: a block a row bisects, over the bits of |c|, for the smallest magnitude that is still kept.
//
// With S(x) = Σ |c| over |c| > x, an entry of magnitude x is kept (the first of its ties) iff S(x) ≤ ρ‖row‖₁: what
// comes before it in sorted order does not yet exceed the target. S falls as x grows, and the bits of a non-negative
// float grow with its value, so 31 (63 in double) block sums find the threshold. Ties at it are kept from the lowest
// column up while the sum allows.
//
// Floor: one read and one write of C; the bisection re-reads the row from L1/L2 (32 KB at 8192 columns). Deterministic.
#include "common/dtype.h"
#include "cuda/block.cuh"
#include "threshold_coefficients.h"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
struct Bits;
template <>
struct Bits<float> {
    using type = unsigned;
    static constexpr int kMagnitude = 31;
    __device__ static type of(float value) { return __float_as_uint(value) & 0x7fffffffu; }
    __device__ static float value(type bits) { return __uint_as_float(bits); }
};
template <>
struct Bits<double> {
    using type = unsigned long long;
    static constexpr int kMagnitude = 63;
    __device__ static type of(double value) {
        return static_cast<unsigned long long>(__double_as_longlong(value)) & 0x7fffffffffffffffull;
    }
    __device__ static double value(type bits) { return __longlong_as_double(static_cast<long long>(bits)); }
};

// Σ |c| over entries whose magnitude has bits above `bits`.
template <class T>
__device__ double sum_above(const T* row, int64_t m, typename Bits<T>::type bits) {
    double sum = 0.0;
    for (int64_t j = threadIdx.x; j < m; j += kThreads) {
        const auto mine = Bits<T>::of(row[j]);
        if (mine > bits) sum += static_cast<double>(Bits<T>::value(mine));
    }
    return block_sum<kThreads>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    threshold_kernel(const T* C, int64_t C_stride, int64_t m, double rho, T* out) {
    __shared__ int ties_in_warp[kThreads / kWarp];
    const T* row = C + blockIdx.x * C_stride;
    out += blockIdx.x * m;
    const double total = sum_above(row, m, 0);
    if (!(total <= 1.7976931348623157e308)) {  // not finite: NaN and infinity stay visible
        for (int64_t j = threadIdx.x; j < m; j += kThreads) out[j] = row[j];
        return;
    }
    const double target = rho * total;

    // The smallest bits with sum_above(bits) <= target, one bit at a time from the top: take the largest that still
    // exceeds, plus one.
    typename Bits<T>::type exceeding = 0;
    const bool all_kept = sum_above(row, m, 0) <= target;
    for (int bit = Bits<T>::kMagnitude - 1; !all_kept && bit >= 0; --bit) {
        const auto candidate = exceeding | typename Bits<T>::type(1) << bit;
        if (sum_above(row, m, candidate) > target) exceeding = candidate;
    }
    const auto threshold = all_kept ? typename Bits<T>::type(0) : exceeding + 1;
    const double above = sum_above(row, m, threshold);
    const double tie = static_cast<double>(Bits<T>::value(threshold));

    // Columns in order, a block's width at a time, so that ties are ranked from the lowest column up.
    int64_t ties_before = 0;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    for (int64_t j0 = 0; j0 < m; j0 += kThreads) {
        const int64_t j = j0 + threadIdx.x;
        const T value = j < m ? row[j] : T(0);
        const auto mine = Bits<T>::of(value);
        const bool tied = j < m && mine != 0 && mine == threshold;
        const unsigned tied_lanes = __ballot_sync(kFullMask, tied);
        if (lane == 0) ties_in_warp[warp] = __popc(tied_lanes);
        __syncthreads();
        int64_t rank = ties_before + __popc(tied_lanes & ((1u << lane) - 1u));
        for (int w = 0; w < kThreads / kWarp; ++w) {
            if (w < warp) rank += ties_in_warp[w];
            ties_before += ties_in_warp[w];
        }
        __syncthreads();
        const bool kept = mine > threshold || (tied && above + static_cast<double>(rank) * tie <= target);
        if (j < m) out[j] = kept ? value : T(0);
    }
}

}  // namespace

int64_t threshold_coefficients_scratch(int64_t, Queue) { return 0; }

Status threshold_coefficients(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n, int64_t m,
                              double rho, void*, void* out) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(threshold_kernel<T>, dim3(blocks_for(n, 1)), dim3(kThreads), 0, queue, static_cast<const T*>(C),
                      C_stride, m, rho, static_cast<T*>(out));
    });
}

}  // namespace dsc::cuda
