// Small kernels that exercise every part of the emulator, and the same kernels with one bug planted, each of which
// test_harness.py shows to be caught. Called through ctypes; buffers are the caller's, sizes as named.
#include <cstdio>
#include <exception>

#include "common/launch.cuh"
#include "common/ptx.cuh"

using namespace dsc::cuda;

namespace {

enum Bug {
    kNone,
    kMissingBarrier,
    kOutOfBounds,
    kOutOfShared,
    kMissingWait,
    kDivergentBarrier,
    kExitBeforeBarrier,
    kInactiveLane,
    kPartialMask,
    kMisaligned,
    kExitedLane,
    kDivergentMma,
    kBlocksCollide
};

constexpr int kTile = 16;

// c = a b, (n,k) (k,m) (n,m): 16 x 16 tiles staged in static shared memory.
__global__ void matmul(const float* a, const float* b, float* c, int n, int k, int m, Bug bug) {
    __shared__ float a_tile[kTile][kTile];
    __shared__ float b_tile[kTile][kTile + 1];
    const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * kTile + y, col = blockIdx.x * kTile + x;
    float sum = 0;
    for (int k0 = 0; k0 < k; k0 += kTile) {
        a_tile[y][x] = row < n && k0 + x < k ? a[row * k + k0 + x] : 0.0f;
        b_tile[y][x] = k0 + y < k && col < m ? b[(k0 + y) * m + col] : 0.0f;
        if (bug != kMissingBarrier) __syncthreads();
        for (int i = 0; i < kTile; ++i) sum += a_tile[y][i] * b_tile[i][x];  // PLANTED: race in a tile
        __syncthreads();
    }
    if (bug == kOutOfBounds ? row < n && col <= m : row < n && col < m)
        c[row * m + col] = sum;  // PLANTED: out of bounds
}

// c = a b with 64 x 64 tiles of c, 256 threads, 4 x 4 values a thread: for the speed figure.
__global__ void __launch_bounds__(256) matmul_64(const float* a, const float* b, float* c, int n, int k, int m) {
    __shared__ float a_tile[16][64];
    __shared__ float b_tile[16][64];
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += 16) {
        for (int i = threadIdx.x; i < 1024; i += 256) {
            const int row = blockIdx.y * 64 + i / 16, col = blockIdx.x * 64 + i % 64;
            a_tile[i % 16][i / 16] = row < n && k0 + i % 16 < k ? a[row * k + k0 + i % 16] : 0.0f;
            b_tile[i / 64][i % 64] = col < m && k0 + i / 64 < k ? b[(k0 + i / 64) * m + col] : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < 16; ++i)
            for (int r = 0; r < 4; ++r)
                for (int s = 0; s < 4; ++s) sum[r][s] += a_tile[i][y * 4 + r] * b_tile[i][x * 4 + s];
        __syncthreads();
    }
    for (int r = 0; r < 4; ++r)
        for (int s = 0; s < 4; ++s) {
            const int row = blockIdx.y * 64 + y * 4 + r, col = blockIdx.x * 64 + x * 4 + s;
            if (row < n && col < m) c[row * m + col] = sum[r][s];
        }
}

// out[row] = sum of row: shuffles within a warp, shared memory between warps.
template <class T>
__global__ void row_sum(const T* in, T* out, int cols, Bug bug) {
    __shared__ T partial[kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    T sum = 0;
    for (int col = threadIdx.x; col < cols; col += blockDim.x) sum += in[static_cast<size_t>(blockIdx.x) * cols + col];
    for (int delta = kWarp / 2; delta > 0; delta /= 2) {
        if (bug == kPartialMask) {
            sum += __shfl_sync(0x7fffffffu, sum, 0);  // PLANTED: own lane 31 not in the mask
        } else if (bug == kInactiveLane) {
            if (lane < 16) sum += __shfl_down_sync(0x0000ffffu, sum, delta);  // PLANTED: lane 16 takes no part
        } else {
            sum += __shfl_down_sync(kFullMask, sum, delta);
        }
    }
    T* const mine = bug == kOutOfShared ? partial + kWarp + warp : partial + warp;
    if (lane == 0) *mine = sum;  // PLANTED: out of static shared
    if (bug == kExitBeforeBarrier && threadIdx.x == 40) return;
    if (bug == kDivergentBarrier && warp == 1) {
        __syncthreads();  // PLANTED: divergent barrier
    } else if (bug != kMissingBarrier) {
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        T total = 0;
        for (int i = 0; i < warps; ++i) total += partial[i];  // PLANTED: race between warps
        out[blockIdx.x] = total;
    }
}

// counts[in[i]] += 1, sums[in[i]] += weights[i], largest = max, by atomics on shared and on global memory.
__global__ void histogram(const int* in, const float* weights, int n, unsigned* counts, float* sums, int* largest,
                          int bins, Bug bug) {
    DSC_DYNAMIC_SHARED(unsigned, local);
    for (int i = threadIdx.x; i < bins; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&local[in[i]], 1u);
        atomicAdd(&sums[in[i]], weights[i]);
        if (bug == kBlocksCollide) {
            if (*largest < in[i]) *largest = in[i];  // PLANTED: race between blocks
        } else {
            atomicMax(largest, in[i]);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < bins; i += blockDim.x) atomicAdd(&counts[i], local[i]);
}

// out[i] = in[i] + in[i's mirror image within its tile]: tiles double-buffered through cp.async.
__global__ void mirror(const float* in, float* out, int tiles, Bug bug) {
    DSC_DYNAMIC_SHARED(float, buffer);
    const int n = blockDim.x, i = threadIdx.x, shift = bug == kMisaligned ? 1 : 0;
    if (i % 4 == 0) cp_async<16>(buffer + i, in + i + shift);
    cp_async_commit();
    for (int tile = 0; tile < tiles; ++tile) {
        float* const now = buffer + tile % 2 * n;
        float* const next = buffer + (tile + 1) % 2 * n;
        if (tile + 1 < tiles && i % 4 == 0) cp_async<16>(next + i, in + (tile + 1) * n + i);
        cp_async_commit();
        if (bug != kMissingWait) cp_async_wait<1>();
        __syncthreads();
        const int partner = bug == kOutOfShared ? n - i : n - 1 - i;
        out[tile * n + i] = now[i] + now[partner];  // PLANTED: race on a buffer, and out of dynamic shared
        if (bug != kMissingBarrier) __syncthreads();
    }
}

// Votes, the four shuffles in segments of 8 lanes, barriers with a predicate, and half-warp masks, 12 numbers a thread.
__global__ void collectives(const int* in, long long* out) {
    const int i = threadIdx.x, lane = i % kWarp, value = in[i];
    long long* const mine = out + i * 12;
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    mine[0] = __shfl_sync(kFullMask, value, 3, 8);
    mine[1] = __shfl_up_sync(kFullMask, static_cast<double>(value), 3, 8);
    mine[2] = __shfl_down_sync(kFullMask, static_cast<long long>(value) * (1ll << 33), 2, 8);
    mine[3] = __shfl_xor_sync(kFullMask, value, 9, 16);
    mine[4] = __ballot_sync(half, value > 0);
    mine[5] = __any_sync(half, value > 40) + 2 * __all_sync(half, value > -40);
    mine[6] = __syncthreads_count(value > 0);
    mine[7] = __syncthreads_or(value > 45);
    mine[8] = __syncthreads_and(value > -60);
    mine[9] = __popc(value) + 100 * __ffs(value) + 10000 * __clz(value);
    __syncwarp();
    mine[10] = __brev(static_cast<unsigned>(value));
    if (lane >= 16) mine[11] = __shfl_xor_sync(0xffff0000u, value, 1);  // the other half goes elsewhere, and may
    if (lane < 16) mine[11] = -1;
}

// What shared memory holds at the start of a block: static, then dynamic.
template <class T>
__global__ void fresh_memory(T* out) {
    __shared__ T fixed[4];
    DSC_DYNAMIC_SHARED(T, dynamic);
    if (threadIdx.x < 4) {
        out[blockIdx.x * 8 + threadIdx.x] = fixed[threadIdx.x];
        out[blockIdx.x * 8 + 4 + threadIdx.x] = dynamic[threadIdx.x];
        fixed[threadIdx.x] = dynamic[threadIdx.x] = 0;
    }
}

// acc += a b, (16,8) (8,8), as TF32 by one warp; a and b through ldmatrix (b transposed, as its rows then lie), and
// rounded to nearest, not cut, if asked for.
__global__ void tf32_product(const float* a, const float* b, float* acc, bool round, Bug bug) {
    __shared__ __align__(16) float a_tile[16][8];
    __shared__ __align__(16) float b_tile[16][8];  // transposed; the second half is not used
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    for (int e = lane; e < 128; e += kWarp) {
        a_tile[e / 8][e % 8] = round ? to_tf32(a[e]) : a[e];
        b_tile[e / 8][e % 8] = e >= 64 ? 0.0f : round ? to_tf32(b[e % 8 * 8 + e / 8]) : b[e % 8 * 8 + e / 8];
    }
    __syncwarp();
    if (bug == kExitedLane && lane == 9) return;
    if (bug == kDivergentMma && lane == 9) __syncwarp();  // PLANTED: elsewhere than the product
    float fragment[4], columns[4], sum[4];
    if (bug == kMisaligned) load_matrices(fragment, &a_tile[lane % 16][1]);  // PLANTED: row off by a float
    load_matrices(fragment, &a_tile[lane % 16][lane / 16 * 4]);              // PLANTED: lane 9 has exited
    load_matrices(columns, &b_tile[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 4]);
    for (int i = 0; i < 4; ++i) sum[i] = acc[(g + i / 2 * 8) * 8 + t * 2 + i % 2];
    const float first_columns[2] = {columns[0], columns[1]};
    mma(sum, fragment, first_columns);
    for (int i = 0; i < 4; ++i) acc[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sum[i];
}

// acc += a b, (8,4) (4,8), in double precision by one warp.
__global__ void f64_product(const double* a, const double* b, double* acc, Bug bug) {
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    double sum[2] = {acc[g * 8 + t * 2], acc[g * 8 + t * 2 + 1]};
    if (bug == kExitedLane && lane == 31) return;
    mma(sum, a[g * 4 + t], b[t * 8 + g]);  // PLANTED: lane 31 has exited
    for (int i = 0; i < 2; ++i) acc[g * 8 + t * 2 + i] = sum[i];
}

// out = the first `valid` of every 4 numbers of in, and zeros.
__global__ void copy_some(const float* in, float* out, int valid) {
    __shared__ __align__(16) float buffer[32 * 4];
    const int i = threadIdx.x * 4;
    cp_async<16>(buffer + i, valid ? in + i : nullptr, valid * int(sizeof(float)));
    cp_async_commit();
    cp_async_wait<0>();
    for (int e = 0; e < 4; ++e) out[i + e] = buffer[i + e];
}

thread_local char last_message[1024];

template <class... Params, class... Args>
int run(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
    try {
        launch(kernel, grid, block, shared_bytes, 0, args...);
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(last_message, sizeof(last_message), "%s", error.what());
        return 1;
    }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* message() { return last_message; }
EXPORT int run_matmul(const float* a, const float* b, float* c, int n, int k, int m, Bug bug) {
    return run(matmul, dim3((m + kTile - 1) / kTile, (n + kTile - 1) / kTile), dim3(kTile, kTile), 0, a, b, c, n, k, m,
               bug);
}
EXPORT int run_matmul_64(const float* a, const float* b, float* c, int n, int k, int m) {
    return run(matmul_64, dim3((m + 63) / 64, (n + 63) / 64), dim3(256), 0, a, b, c, n, k, m);
}
EXPORT int run_row_sum_float(const float* in, float* out, int rows, int cols, Bug bug) {
    return run(row_sum<float>, dim3(rows), dim3(128), 0, in, out, cols, bug);
}
EXPORT int run_row_sum_double(const double* in, double* out, int rows, int cols, Bug bug) {
    return run(row_sum<double>, dim3(rows), dim3(128), 0, in, out, cols, bug);
}
EXPORT int run_histogram(const int* in, const float* weights, int n, unsigned* counts, float* sums, int* largest,
                         int bins, Bug bug) {
    return run(histogram, dim3(3), dim3(64), bins * sizeof(unsigned), in, weights, n, counts, sums, largest, bins, bug);
}
EXPORT int run_mirror(const float* in, float* out, int tiles, int tile, Bug bug) {
    return run(mirror, dim3(1), dim3(tile), 2 * tile * sizeof(float), in, out, tiles, bug);
}
EXPORT int run_collectives(const int* in, long long* out) { return run(collectives, dim3(1), dim3(64), 0, in, out); }
EXPORT int run_tf32_product(const float* a, const float* b, float* acc, int round, Bug bug) {
    return run(tf32_product, dim3(1), dim3(32), 0, a, b, acc, round != 0, bug);
}
EXPORT int run_f64_product(const double* a, const double* b, double* acc, Bug bug) {
    return run(f64_product, dim3(1), dim3(32), 0, a, b, acc, bug);
}
EXPORT int run_copy_some(const float* in, float* out, int valid) {
    return run(copy_some, dim3(1), dim3(32), 0, in, out, valid);
}
EXPORT int run_fresh_memory(unsigned* out) { return run(fresh_memory<unsigned>, dim3(2), dim3(32), 16, out); }
EXPORT int run_too_large() {
    return run(fresh_memory<unsigned>, dim3(1), dim3(1025), 16, static_cast<unsigned*>(nullptr));
}
