// Every entry is filed in its row and mirrored in the row of its column; a warp sorts and merges each row.
//
// Entries arrive in a row in any order (their place is an atomic counter), but are then sorted by the unique key
// (column, tag), so counts, order and sums are the same in every run; no atomics touch a value. Floor: 16 bytes an
// entry written and read twice, plus the sort, which stays in L1/L2 for rows of usual length. nnz is small beside the
// dense C it came from.
#include "common/launch.cuh"
#include "symmetrize_affinity.h"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarp;

__device__ int64_t row_of_warp() { return int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp; }

__global__ void __launch_bounds__(kThreads, 8)
    degree_kernel(int64_t n, const int64_t* crow, const int64_t* column, unsigned long long* degree) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    for (int64_t e = crow[i] + threadIdx.x % kWarp; e < crow[i + 1]; e += kWarp) {
        if (column[e] < 0) continue;
        DSC_DEVICE_ASSERT(column[e] < n, "symmetrize_affinity: indices must be below N");
        atomicAdd(&degree[i], 1ull);
        atomicAdd(&degree[column[e]], 1ull);
    }
}

__global__ void __launch_bounds__(kThreads, 8)
    file_kernel(int64_t n, const int64_t* crow, const int64_t* column, const int64_t* offset,
                unsigned long long* cursor, Filed* filed) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    for (int64_t e = crow[i] + threadIdx.x % kWarp; e < crow[i + 1]; e += kWarp) {
        const int64_t j = column[e];
        if (j < 0) continue;
        filed[offset[i] + static_cast<int64_t>(atomicAdd(&cursor[i], 1ull))] = {j, 2 * e};
        filed[offset[j] + static_cast<int64_t>(atomicAdd(&cursor[j], 1ull))] = {i, 2 * e + 1};
    }
}

__device__ bool before(const Filed& a, const Filed& b) {
    return a.column != b.column ? a.column < b.column : a.tag < b.tag;
}

// Bitonic sort by one warp, in the form whose comparators all point the same way, so that a length which is not a power
// of two only drops the comparators that reach past the end.
__device__ void sort_row(Filed* row, int64_t length) {
    const int lane = threadIdx.x % kWarp;
    for (int64_t size = 2; size < 2 * length; size *= 2) {
        for (int64_t stride = size / 2; stride > 0; stride /= 2) {
            const bool mirrored = stride == size / 2;  // the first pass of a merge compares i with its mirror image
            const int64_t pairs = ((length + 2 * stride - 1) & -(2 * stride)) / 2;
            for (int64_t pair = lane; pair < pairs; pair += kWarp) {
                const int64_t within = pair & (stride - 1), base = 2 * (pair - within);
                const int64_t low = base + within;
                const int64_t high = mirrored ? base + 2 * stride - 1 - within : low + stride;
                if (high < length && before(row[high], row[low])) {
                    const Filed moved = row[low];
                    row[low] = row[high];
                    row[high] = moved;
                }
            }
            __syncwarp();
        }
    }
}

__global__ void __launch_bounds__(kThreads, 8)
    sort_kernel(int64_t n, const int64_t* offset, Filed* filed, int64_t* unique) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    const int lane = threadIdx.x % kWarp;
    Filed* row = filed + offset[i];
    const int64_t length = offset[i + 1] - offset[i];
    sort_row(row, length);
    int64_t distinct = 0;
    for (int64_t f0 = 0; f0 < length; f0 += kWarp) {
        const int64_t f = f0 + lane;
        distinct += __popc(__ballot_sync(kFullMask, f < length && (f == 0 || row[f].column != row[f - 1].column)));
    }
    if (lane == 0) unique[i] = distinct;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 8)
    merge_kernel(int64_t n, const T* values, const int64_t* offset, const Filed* filed, const int64_t* out_crow,
                 bool maximum, int64_t* out_column, T* out_values, int64_t* position, int64_t* mirror, T* share) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    const int lane = threadIdx.x % kWarp;
    const Filed* row = filed + offset[i];
    const int64_t length = offset[i + 1] - offset[i];
    int64_t place = out_crow[i];
    for (int64_t f0 = 0; f0 < length; f0 += kWarp) {
        const int64_t f = f0 + lane;
        const bool first = f < length && (f == 0 || row[f].column != row[f - 1].column);
        const unsigned firsts = __ballot_sync(kFullMask, first);
        if (first) {  // this lane walks its run, in order
            const int64_t mine = place + __popc(firsts & ((1u << lane) - 1u));
            T own = 0, other = 0;
            int64_t end = f;
            for (; end < length && row[end].column == row[f].column; ++end) {
                const T value = values[row[end].tag / 2];
                (row[end].tag % 2 ? other : own) += value < T(0) ? -value : value;
            }
            out_column[mine] = row[f].column;
            // NaN on either side stays NaN, as with torch.maximum.
            out_values[mine] = !maximum         ? (own + other) / T(2)
                               : own != own     ? own
                               : other != other ? other
                               : own > other    ? own
                                                : other;
            const T own_share = !maximum ? T(0.5) : own > other ? T(1) : own == other ? T(0.5) : T(0);
            for (int64_t at = f; at < end; ++at) {
                const int64_t e = row[at].tag / 2;
                if (row[at].tag % 2) {
                    mirror[e] = mine;
                } else {
                    position[e] = mine;
                    share[e] = own_share;
                }
            }
        }
        place += __popc(firsts);
    }
}

dim3 grid_for(int64_t n) { return dim3(blocks_for(n, kRowsPerBlock)); }

}  // namespace

Status symmetrize_degree(Queue queue, int64_t n, const int64_t* crow, const int64_t* column, int64_t* degree) {
    return launch(degree_kernel, grid_for(n), dim3(kThreads), 0, queue, n, crow, column,
                  reinterpret_cast<unsigned long long*>(degree));
}

Status symmetrize_file(Queue queue, int64_t n, const int64_t* crow, const int64_t* column, const int64_t* offset,
                       int64_t* cursor, Filed* filed, int64_t* unique) {
    const Status written = launch(file_kernel, grid_for(n), dim3(kThreads), 0, queue, n, crow, column, offset,
                                  reinterpret_cast<unsigned long long*>(cursor), filed);
    if (!written) return written;
    return launch(sort_kernel, grid_for(n), dim3(kThreads), 0, queue, n, offset, filed, unique);
}

Status symmetrize_merge(DType dtype, Queue queue, int64_t n, const void* values, const int64_t* offset,
                        const Filed* filed, const int64_t* out_crow, bool maximum, int64_t* out_column,
                        void* out_values, int64_t* position, int64_t* mirror, void* share) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        return launch(merge_kernel<T>, grid_for(n), dim3(kThreads), 0, queue, n, static_cast<const T*>(values), offset,
                      filed, out_crow, maximum, out_column, static_cast<T*>(out_values), position, mirror,
                      static_cast<T*>(share));
    });
}

}  // namespace dsc::cuda
