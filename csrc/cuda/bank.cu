// Rows into the bank, one pass (two with normalization). Floor: bytes of Z read and bank written over bandwidth.
//
// Deterministic: of duplicate rows only the last one's block writes. In a batch of up to kFew rows each block looks for
// a later one itself, in the one launch; in a larger one that would be B² looks, so a hash table of rows is filled
// first. Nothing is read on the host: the FIFO cursor is advanced on the device, by the block itself if it is the only
// one, else in a launch of its own after the rows are in, since every block reads it.
#include "bank.h"
#include "common/bank_row.h"
#include "common/dtype.h"
#include "cuda/block.cuh"
#include "rows_scratch.h"

namespace dsc::cuda {

namespace {

constexpr int kThreads = 128;

constexpr int64_t kFew = 2048;
constexpr int64_t kNumbersForOneBlock = 16384;  // of a push: one block's time stays below that of a launch

// rows -> position of the last occurrence. Slots are claimed by compare-and-swap, in any order; what is read later, the
// last position of a row, does not depend on it.
struct Table {
    unsigned long long* row;  // (size) kEmpty or the row
    long long* last;          // (size)
    int64_t size;             // a power of two, at least 2 B; 0: no table

    static constexpr unsigned long long kEmpty = ~0ull;

    static int64_t size_for(int64_t B) {
        int64_t size = 1;
        while (B > kFew && size < 2 * B) size *= 2;
        return B > kFew ? size : 0;
    }

    Table(int64_t* scratch, int64_t B) : row(reinterpret_cast<unsigned long long*>(scratch)), size(size_for(B)) {
        last = reinterpret_cast<long long*>(scratch) + size;
    }

    __device__ int64_t start(int64_t r) const {
        return static_cast<int64_t>((static_cast<uint64_t>(r) * 0x9e3779b97f4a7c15ull >> 20) & (size - 1));
    }
};

__global__ void __launch_bounds__(kThreads) clear_table_kernel(Table table) {
    const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (at >= table.size) return;
    table.row[at] = Table::kEmpty;
    table.last[at] = -1;
}

__global__ void __launch_bounds__(kThreads) note_rows_kernel(Table table, const int64_t* rows, int64_t B) {
    const int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (b >= B) return;
    const unsigned long long row = static_cast<unsigned long long>(rows[b]);
    for (int64_t at = table.start(rows[b]);; at = (at + 1) & (table.size - 1)) {
        const unsigned long long there = atomicCAS(&table.row[at], Table::kEmpty, row);
        if (there != Table::kEmpty && there != row) continue;
        atomicMax(&table.last[at], static_cast<long long>(b));
        return;
    }
}

// Position b holds the last occurrence of its row; the same answer for every thread of the block.
__device__ bool is_last(const Table& table, const int64_t* rows, int64_t b, int64_t B) {
    if (table.size == 0) return !block_finds<kThreads>(rows, b + 1, B, rows[b]);
    int64_t at = table.start(rows[b]);
    while (table.row[at] != static_cast<unsigned long long>(rows[b])) at = (at + 1) & (table.size - 1);
    return table.last[at] == b;
}

// Thread `rank` of the `team` that enters a row; sum adds up a number of each of them.
template <class Bank, class Live, class Sum>
__device__ void enter_row(Bank* old, const Live* live, int64_t d, bool normalize, double momentum, int rank, int team,
                          Sum sum) {
    using Acc = Mixed<Bank, Live>;
    const Acc keep = static_cast<Acc>(momentum);
    Acc scale = 1;
    if (normalize) {
        Acc squares = 0;
        for (int64_t j = rank; j < d; j += team) {
            const Acc value = mix(old + j, live + j, keep);
            squares += value * value;
        }
        squares = sum(squares);
        if (squares > Acc(0)) scale = Acc(1) / sqrt(squares);
    }
    for (int64_t j = rank; j < d; j += team) old[j] = narrow<Bank>(mix(old + j, live + j, keep) * scale);
}

template <class Bank, class Live>
__global__ void __launch_bounds__(kThreads, 8)
    bank_scatter_kernel(Bank* bank, int64_t bank_stride, int64_t N, int64_t d, const int64_t* rows, const Live* Z,
                        int64_t Z_stride, int64_t B, bool normalize, double momentum, Table table) {
    const int64_t b = blockIdx.x, row = rows[b];
    DSC_DEVICE_ASSERT(row >= 0 && row < N, "bank_scatter_: rows must lie in the bank");
    if (!is_last(table, rows, b, B)) return;  // overwritten by a later one
    enter_row(bank + row * bank_stride, Z + b * Z_stride, d, normalize, momentum, threadIdx.x, kThreads,
              [](auto value) { return block_sum<kThreads>(value); });
}

__device__ int64_t slot_of(const int64_t* cursor, int64_t N) { return (*cursor % N + N) % N; }

// A warp a row.
template <class Bank, class Live>
__global__ void __launch_bounds__(kThreads, 8)
    bank_push_kernel(Bank* bank, int64_t bank_stride, int64_t N, int64_t d, int64_t* cursor, const Live* Z,
                     int64_t Z_stride, int64_t B, int64_t first, bool normalize) {
    constexpr int kWarps = kThreads / kWarp;
    const int64_t start = slot_of(cursor, N);
    for (int64_t b = first + int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp; b < B;
         b += int64_t(gridDim.x) * kWarps) {
        enter_row(bank + (start + b) % N * bank_stride, Z + b * Z_stride, d, normalize, 0.0, threadIdx.x % kWarp, kWarp,
                  [](auto value) { return __shfl_sync(kFullMask, warp_sum(value), 0); });
    }
    if (gridDim.x > 1) return;
    __syncthreads();  // every warp has read the cursor
    if (threadIdx.x == 0) *cursor = (start + B) % N;
}

__global__ void advance_cursor_kernel(int64_t* cursor, int64_t B, int64_t N) { *cursor = (slot_of(cursor, N) + B) % N; }

// Calls visit with a zero of either type.
template <class Visit>
Status with_both_types(DType bank, DType live, Visit&& visit) {
    return with_storage_type(bank, [&](auto bank_zero) {
        return with_storage_type(live, [&](auto live_zero) { return visit(bank_zero, live_zero); });
    });
}

}  // namespace

int64_t rows_scratch(int64_t B) { return 2 * Table::size_for(B); }

Status bank_scatter_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N,
                     int64_t d, const int64_t* rows, const void* Z, int64_t Z_stride, int64_t B, bool normalize,
                     double momentum, int64_t* scratch) {
    const Table table(scratch, B);
    if (table.size > 0) {
        Status done =
            launch(clear_table_kernel, dim3(blocks_for(table.size, kThreads)), dim3(kThreads), 0, queue, table);
        if (!done) return done;
        done = launch(note_rows_kernel, dim3(blocks_for(B, kThreads)), dim3(kThreads), 0, queue, table, rows, B);
        if (!done) return done;
    }
    return with_both_types(bank_dtype, Z_dtype, [&](auto bank_zero, auto live_zero) {
        using Bank = decltype(bank_zero);
        using Live = decltype(live_zero);
        return launch(bank_scatter_kernel<Bank, Live>, dim3(blocks_for(B, 1)), dim3(kThreads), 0, queue,
                      static_cast<Bank*>(bank), bank_stride, N, d, rows, static_cast<const Live*>(Z), Z_stride, B,
                      normalize, momentum, table);
    });
}

Status bank_push_(DType bank_dtype, DType Z_dtype, Queue queue, void* bank, int64_t bank_stride, int64_t N, int64_t d,
                  int64_t* cursor, const void* Z, int64_t Z_stride, int64_t B, bool normalize) {
    const int64_t first = B > N ? B - N : 0;
    const unsigned blocks = (B - first) * d <= kNumbersForOneBlock ? 1 : blocks_for(B - first, kThreads / kWarp);
    const Status written = with_both_types(bank_dtype, Z_dtype, [&](auto bank_zero, auto live_zero) {
        using Bank = decltype(bank_zero);
        using Live = decltype(live_zero);
        return launch(bank_push_kernel<Bank, Live>, dim3(blocks), dim3(kThreads), 0, queue, static_cast<Bank*>(bank),
                      bank_stride, N, d, cursor, static_cast<const Live*>(Z), Z_stride, B, first, normalize);
    });
    if (!written || blocks == 1) return written;
    return launch(advance_cursor_kernel, dim3(1), dim3(1), 0, queue, cursor, B, N);
}

}  // namespace dsc::cuda
