// W from rows of entries, on the GPU.
//
// Every entry is filed in its row and mirrored in the row of its column; a warp sorts and merges each row.
//
// Entries arrive in a row in any order (their place is an atomic counter), but are then sorted by the unique key
// (column, tag), so counts, order and sums are the same in every run; no atomics touch a value. Launches: clear,
// degree, scan (2), file, sort, scan (2), then fill. Floor: 16 bytes an entry written and read twice, plus the sort,
// which stays in L1/L2 for rows of usual length; a long row (a hub) is sorted by its whole block.
#include "common/dtype.h"
#include "common/symmetrize_combine.h"
#include "cuda/scan.cuh"
#include "symmetrize_affinity.h"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;
constexpr int64_t kLongRow = 512;

// An entry as it is filed in a row: e at (i, j) is (j, 2e) in row i and (i, 2e + 1), its mirror, in row j.
struct alignas(16) Filed {
    int64_t column;
    int64_t tag;
};

struct Scratch {
    Filed* filed;     // 2 · entries
    int64_t* offset;  // n + 1: where each row's files begin
    int64_t* cursor;  // n
    int64_t* sums;

    Scratch(int64_t* base, int64_t n, int64_t entries)
        : filed(reinterpret_cast<Filed*>(base)), offset(base + 4 * entries), cursor(offset + n + 1), sums(cursor + n) {}

    static int64_t words(int64_t n, int64_t entries) { return 4 * entries + 2 * n + 1 + scan_pieces(n); }
};

__device__ int64_t row_of_warp() { return int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp; }

template <class T>
__device__ T magnitude(T value) {
    return value < T(0) ? -value : value;
}

template <class T>
__device__ bool kept(const T* values, const int64_t* column, int64_t e, T threshold) {
    return column[e] >= 0 && !(magnitude(values[e]) <= threshold);
}

__global__ void __launch_bounds__(kThreads) clear_kernel(int64_t n, int64_t* offset, int64_t* cursor) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i <= n) offset[i] = 0;
    if (i < n) cursor[i] = 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    degree_kernel(int64_t n, const T* values, const int64_t* crow, const int64_t* column, T threshold,
                  unsigned long long* degree) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    for (int64_t e = crow[i] + threadIdx.x % kWarp; e < crow[i + 1]; e += kWarp) {
        DSC_DEVICE_ASSERT(column[e] < n, "symmetrize_affinity: indices must be below N");
        if (!kept(values, column, e, threshold)) continue;
        atomicAdd(&degree[i], 1ull);
        atomicAdd(&degree[column[e]], 1ull);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    file_kernel(int64_t n, const T* values, const int64_t* crow, const int64_t* column, T threshold,
                const int64_t* offset, unsigned long long* cursor, Filed* filed) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    for (int64_t e = crow[i] + threadIdx.x % kWarp; e < crow[i + 1]; e += kWarp) {
        if (!kept(values, column, e, threshold)) continue;
        const int64_t j = column[e];
        filed[offset[i] + static_cast<int64_t>(atomicAdd(&cursor[i], 1ull))] = {j, 2 * e};
        filed[offset[j] + static_cast<int64_t>(atomicAdd(&cursor[j], 1ull))] = {i, 2 * e + 1};
    }
}

__device__ bool before(const Filed& a, const Filed& b) {
    return a.column != b.column ? a.column < b.column : a.tag < b.tag;
}

// One pass of a bitonic sort by `team` threads, in the form whose comparators all point the same way, so that a length
// which is not a power of two only drops the comparators that reach past the end.
__device__ void sort_pass(Filed* row, int64_t length, int64_t size, int64_t stride, int rank, int team) {
    const bool mirrored = stride == size / 2;  // the first pass of a merge compares i with its mirror image
    const int64_t pairs = ((length + 2 * stride - 1) & -(2 * stride)) / 2;
    for (int64_t pair = rank; pair < pairs; pair += team) {
        const int64_t within = pair & (stride - 1), base = 2 * (pair - within);
        const int64_t low = base + within;
        const int64_t high = mirrored ? base + 2 * stride - 1 - within : low + stride;
        if (high < length && before(row[high], row[low])) {
            const Filed moved = row[low];
            row[low] = row[high];
            row[high] = moved;
        }
    }
}

__global__ void __launch_bounds__(kThreads, 4)
    sort_kernel(int64_t n, const int64_t* offset, Filed* filed, int64_t* distinct) {
    const int lane = threadIdx.x % kWarp;
    const int64_t first = int64_t(blockIdx.x) * kRowsPerBlock;
    for (int64_t i = first; i < first + kRowsPerBlock && i < n; ++i) {
        const int64_t length = offset[i + 1] - offset[i];
        if (length <= kLongRow) continue;
        for (int64_t size = 2; size < 2 * length; size *= 2) {
            for (int64_t stride = size / 2; stride > 0; stride /= 2) {
                sort_pass(filed + offset[i], length, size, stride, threadIdx.x, kThreads);
                __syncthreads();
            }
        }
    }
    const int64_t i = row_of_warp();
    if (i >= n) return;
    const int64_t length = offset[i + 1] - offset[i];
    Filed* row = filed + offset[i];
    for (int64_t size = 2; length <= kLongRow && size < 2 * length; size *= 2) {
        for (int64_t stride = size / 2; stride > 0; stride /= 2) {
            sort_pass(row, length, size, stride, lane, kWarp);
            __syncwarp();
        }
    }
    int64_t runs = 0;
    for (int64_t f0 = 0; f0 < length; f0 += kWarp) {
        const int64_t f = f0 + lane;
        runs += __popc(__ballot_sync(kFullMask, f < length && (f == 0 || row[f].column != row[f - 1].column)));
    }
    if (lane == 0) distinct[i] = runs;
    if (lane == 0 && i == 0) distinct[-1] = 0;  // a row's end is the next one's beginning
}

template <Reduce reduce, class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(int64_t n, const T* values, const int64_t* offset, const Filed* filed, const int64_t* out_crow,
                int64_t* out_column, T* out_values) {
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
            for (int64_t at = f; at < length && row[at].column == row[f].column; ++at) {
                (row[at].tag % 2 ? other : own) += magnitude(values[row[at].tag / 2]);
            }
            out_column[mine] = row[f].column;
            out_values[mine] = combine<reduce>(own, other);
        }
        place += __popc(firsts);
    }
}

// The first of sorted[begin, end) that is not below the value.
__device__ int64_t search(const int64_t* sorted, int64_t begin, int64_t end, int64_t value) {
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        if (sorted[middle] < value) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    places_kernel(int64_t n, const T* values, const int64_t* crow, const int64_t* column, T threshold,
                  const int64_t* out_crow, const int64_t* out_column, int64_t* position, int64_t* mirror, T* A) {
    const int64_t i = row_of_warp();
    if (i >= n) return;
    const int lane = threadIdx.x % kWarp;
    const int64_t begin = out_crow[i], end = out_crow[i + 1];
    for (int64_t p = begin + lane; p < end; p += kWarp) {
        const int64_t j = out_column[p];
        mirror[p] = search(out_column, out_crow[j], out_crow[j + 1], i);
        A[p] = 0;
    }
    __syncwarp();
    for (int64_t e = crow[i] + lane; e < crow[i + 1]; e += kWarp) {
        position[e] = out_crow[n];
        if (!kept(values, column, e, threshold)) continue;
        position[e] = search(out_column, begin, end, column[e]);
        // The first of repeated entries adds them all up, in order.
        bool first = true;
        for (int64_t at = crow[i]; first && at < e; ++at) {
            first = column[at] != column[e] || !kept(values, column, at, threshold);
        }
        T sum = 0;
        for (int64_t at = e; first && at < crow[i + 1]; ++at) {
            if (column[at] == column[e] && kept(values, column, at, threshold)) sum += magnitude(values[at]);
        }
        if (first) A[position[e]] = sum;
    }
}

dim3 grid_for(int64_t n) { return dim3(blocks_for(n, kRowsPerBlock)); }

}  // namespace

int64_t symmetrize_scratch(DType, Queue, int64_t n, int64_t entries) { return Scratch::words(n, entries); }

Status symmetrize_count(DType dtype, Queue queue, int64_t n, int64_t entries, const void* values_, const int64_t* crow,
                        const int64_t* column, double threshold_, Reduce, int64_t* scratch, int64_t* out_crow) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const T* values = static_cast<const T*>(values_);
        const T threshold = static_cast<T>(threshold_);
        const Scratch s(scratch, n, entries);
        const dim3 block(kThreads);
        auto* cursor = reinterpret_cast<unsigned long long*>(s.cursor);
        Status done = launch(clear_kernel, dim3(blocks_for(n + 1, kThreads)), block, 0, queue, n, s.offset, s.cursor);
        if (!done) return done;
        done = launch(degree_kernel<T>, grid_for(n), block, 0, queue, n, values, crow, column, threshold,
                      reinterpret_cast<unsigned long long*>(s.offset + 1));
        if (!done) return done;
        if (!(done = scan(queue, s.offset + 1, n, s.sums))) return done;
        done = launch(file_kernel<T>, grid_for(n), block, 0, queue, n, values, crow, column, threshold, s.offset,
                      cursor, s.filed);
        if (!done) return done;
        done = launch(sort_kernel, grid_for(n), block, 0, queue, n, s.offset, s.filed, out_crow + 1);
        if (!done) return done;
        return scan(queue, out_crow + 1, n, s.sums);
    });
}

Status symmetrize_fill(DType dtype, Queue queue, int64_t n, int64_t entries, const void* values, Reduce reduce,
                       int64_t* scratch, int64_t* out_crow, int64_t* out_column, void* out_values) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const Scratch s(scratch, n, entries);
        return with_reduce(reduce, [&](auto how) {
            return launch(fill_kernel<how.value, T>, grid_for(n), dim3(kThreads), 0, queue, n,
                          static_cast<const T*>(values), s.offset, s.filed, out_crow, out_column,
                          static_cast<T*>(out_values));
        });
    });
}

Status symmetrize_places(DType dtype, Queue queue, int64_t n, const void* values, const int64_t* crow,
                         const int64_t* column, double threshold, const int64_t* out_crow, const int64_t* out_column,
                         int64_t* position, int64_t* mirror, void* A) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        return launch(places_kernel<T>, grid_for(n), dim3(kThreads), 0, queue, n, static_cast<const T*>(values), crow,
                      column, static_cast<T>(threshold), out_crow, out_column, position, mirror, static_cast<T*>(A));
    });
}

}  // namespace dsc::cuda
