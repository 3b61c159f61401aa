// W from a dense C: a bit a number (above the threshold or not), 32 × 32 bits a tile; then each row is as long as the
// bits of its tiles and of their mirror images say, and a block fills 32 rows, tile by tile.
//
// Floor: n² numbers read, 8 + sizeof(T) bytes a place of W written. C is read twice, a tile without a bit not at all
// the second time; mirrored tiles go through shared memory, so that both directions are read in rows of 128 bytes.
#include "common/dtype.h"
#include "common/symmetrize_combine.h"
#include "cuda/scan.cuh"
#include "symmetrize_affinity.h"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRowsEach = kWarp / kWarps;  // of a tile's 32, by a warp

template <class T>
__global__ void __launch_bounds__(kThreads)
    bits_kernel(int64_t n, int64_t tiles, const T* C, int64_t stride, T threshold, unsigned* bits) {
    const int64_t i = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
    const int lane = threadIdx.x % kWarp;
    if (i >= tiles * kWarp) return;
    unsigned* row = bits + i / kWarp * tiles * kWarp + i % kWarp;
    for (int64_t J = 0; J < tiles; ++J) {
        const int64_t j = J * kWarp + lane;
        const T c = i < n && j < n ? C[i * stride + j] : T(0);
        const bool inside = i < n && j < n;
        const unsigned word = __ballot_sync(kFullMask, inside && !((c < T(0) ? -c : c) <= threshold));
        if (lane == 0) row[J * kWarp] = word;
    }
}

// A 32 × 32 matrix of bits, a row a lane, transposed (Warren, Hacker's Delight, §7-3).
__device__ unsigned transpose_bits(unsigned row) {
    const int lane = threadIdx.x % kWarp;
    unsigned mask = 0x0000ffffu;
    for (int width = 16; width > 0; width /= 2, mask ^= mask << width) {
        const unsigned other = __shfl_xor_sync(kFullMask, row, width);
        row = lane & width ? (row & ~mask) | (other >> width & mask) : (row & mask) | (other << width & ~mask);
    }
    return row;
}

__global__ void __launch_bounds__(kThreads)
    lengths_kernel(int64_t n, int64_t tiles, const unsigned* bits, int64_t* lengths) {
    __shared__ int64_t counts[kWarps][kWarp];
    const int64_t I = blockIdx.x;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    int64_t count = 0;
    for (int64_t J = warp; J < tiles; J += kWarps) {
        const unsigned own = bits[(I * tiles + J) * kWarp + lane];
        count += __popc(own | transpose_bits(bits[(J * tiles + I) * kWarp + lane]));
    }
    counts[warp][lane] = count;
    __syncthreads();
    const int64_t i = I * kWarp + lane;
    if (warp > 0 || i >= n) return;
    for (int w = 1; w < kWarps; ++w) count += counts[w][lane];
    lengths[i] = count;
    if (i == 0) lengths[-1] = 0;  // a row's end is the next one's beginning
}

template <Reduce reduce, class T>
__global__ void __launch_bounds__(kThreads)
    dense_fill_kernel(int64_t n, int64_t tiles, const T* C, int64_t stride, const unsigned* bits, const int64_t* crow,
                      int64_t* out_column, T* out_values) {
    __shared__ T image[kWarp][kWarp + 1];
    const int64_t I = blockIdx.x;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    int64_t to[kRowsEach];
    for (int r = 0; r < kRowsEach; ++r) {
        const int64_t i = I * kWarp + warp * kRowsEach + r;
        to[r] = i < n ? crow[i] : 0;
    }
    for (int64_t J = 0; J < tiles; ++J) {
        const unsigned own = bits[(I * tiles + J) * kWarp + lane];
        const unsigned other = transpose_bits(bits[(J * tiles + I) * kWarp + lane]);
        const int64_t j = J * kWarp + lane;
        if (__any_sync(kFullMask, other != 0)) {  // as every warp of the block finds
            __syncthreads();                      // the tile before is no longer read
            for (int r = warp; r < kWarp; r += kWarps) {
                const int64_t row = J * kWarp + r, column = I * kWarp + lane;
                image[r][lane] = row < n && column < n ? C[row * stride + column] : T(0);
            }
            __syncthreads();
        }
        for (int r = 0; r < kRowsEach; ++r) {
            const int in_tile = warp * kRowsEach + r;
            const unsigned mine = __shfl_sync(kFullMask, own, in_tile), its = __shfl_sync(kFullMask, other, in_tile);
            const unsigned all = mine | its, bit = 1u << lane;
            if (all & bit) {
                const T a = mine & bit ? C[(I * kWarp + in_tile) * stride + j] : T(0);
                const T b = its & bit ? image[lane][in_tile] : T(0);
                const int64_t mine_at = to[r] + __popc(all & (bit - 1u));
                out_column[mine_at] = j;
                out_values[mine_at] = combine<reduce>(a < T(0) ? -a : a, b < T(0) ? -b : b);
            }
            to[r] += __popc(all);
        }
    }
}

int64_t tiles_of(int64_t n) { return divide_up(n, kWarp); }

}  // namespace

int64_t symmetrize_dense_scratch(int64_t n) { return tiles_of(n) * tiles_of(n) * kWarp / 2 + scan_pieces(n); }

Status symmetrize_dense_count(DType dtype, Queue queue, int64_t n, const void* C, int64_t C_stride, double threshold,
                              int64_t* scratch, int64_t* out_crow) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const int64_t tiles = tiles_of(n);
        unsigned* bits = reinterpret_cast<unsigned*>(scratch);
        Status done = launch(bits_kernel<T>, dim3(blocks_for(tiles * kWarp, kWarps)), dim3(kThreads), 0, queue, n,
                             tiles, static_cast<const T*>(C), C_stride, static_cast<T>(threshold), bits);
        if (!done) return done;
        done =
            launch(lengths_kernel, dim3(blocks_for(tiles, 1)), dim3(kThreads), 0, queue, n, tiles, bits, out_crow + 1);
        if (!done) return done;
        return scan(queue, out_crow + 1, n, scratch + tiles * tiles * kWarp / 2);
    });
}

Status symmetrize_dense_fill(DType dtype, Queue queue, int64_t n, const void* C, int64_t C_stride, Reduce reduce,
                             int64_t* scratch, const int64_t* out_crow, int64_t* out_column, void* out_values) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const int64_t tiles = tiles_of(n);
        return with_reduce(reduce, [&](auto how) {
            return launch(dense_fill_kernel<how.value, T>, dim3(blocks_for(tiles, 1)), dim3(kThreads), 0, queue, n,
                          tiles, static_cast<const T*>(C), C_stride, reinterpret_cast<const unsigned*>(scratch),
                          out_crow, out_column, static_cast<T*>(out_values));
        });
    });
}

}  // namespace dsc::cuda
