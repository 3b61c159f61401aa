// The inner loops that gain from wide vectors, compiled once per instruction set and chosen at run time.
//
// simd.cpp is built several times (baseline, AVX2, AVX-512) from the kernels in simd/, each time filling one table of
// functions; simd() returns the widest table this processor can run. One binary therefore serves every machine, and no
// result depends on the build host.
#pragma once

#include <cstdint>

#include "cpu/spliced_bank.h"
#include "cpu/support_task.h"

namespace dsc::cpu {

// Length of the slices in which a long sum over samples is taken: long enough that gathered rows are read in runs of
// 2 KB, short enough that a slice of the batch and of the bank stay in the L2 cache.
inline constexpr int64_t kSlice = 512;
inline constexpr int64_t kFetched = 128;
inline constexpr int kMaxTileRows = 12;
inline constexpr int kMaxTileColumns = 32;

// The constants of one Adam step of one row.
template <class T>
struct AdamStep {
    T one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay, l1;
    T step_size;        // lr / (1 - beta1^t)
    T root_correction;  // 1 / sqrt(1 - beta2^t)
    T keep = 1;         // what decoupled decay leaves of c
    uint32_t seed = 0;  // of the rounding of bf16 moments, for the first column given
};

template <class T>
struct Simd {
    int tile_rows, tile_columns;
    // out (tile_rows, tile_columns), row stride ldo, becomes A B, or gains it if accumulate: A is (tile_rows, k), row
    // stride lda; B is a panel (k, tile_columns), packed and aligned to 64 bytes. Nothing is assumed of out's
    // alignment.
    void (*tile)(const T* A, int64_t lda, const T* B, int64_t k, T* out, int64_t ldo, bool accumulate);
    // The same for Aᵀ B, with A (k, tile_rows), row stride lda.
    void (*tile_transposed)(const T* A, int64_t lda, const T* B, int64_t k, T* out, int64_t ldo, bool accumulate);
    // As tile; meanwhile kFetched bytes from each of count addresses come into the second-level cache.
    void (*tile_fetching)(const T* A, int64_t lda, const T* B, int64_t k, T* out, int64_t ldo, bool accumulate,
                          const char* const* from, int count);
    // panel (d, tile_columns) becomes the transpose of count <= tile_columns rows of d numbers, and zero beyond count.
    void (*transpose)(const T* const* rows, int count, int64_t d, T* panel);
    // The same with an A of rows <= tile_rows that nobody packed: out (rows, tile_columns), aligned to 64 bytes,
    // becomes A B.
    void (*tile_rows_in_place)(int rows, const T* A, int64_t lda, const T* B, int64_t k, T* out);
    // out (rows, tile_columns) becomes Aᵀ B, or scale · out + Aᵀ B with a scale for each column: A is (k, rows).
    void (*tile_columns_in_place)(int rows, const T* A, int64_t lda, const T* B, int64_t k, T* out, const T* scale);
    // One step of an online softmax: see simd/softmax.h. All are aligned to 64 bytes.
    void (*softmax)(T* S, int64_t k, T* top, T* sum, T* factor);
    // The first block of tile_columns numbers of x, from number begin on and before end (multiples of tile_columns), in
    // which some number, or magnitude, is not at most bar[its place in the block]: where it begins, and a bit for each
    // such number. end if there is none.
    int64_t (*next_above)(const T* x, int64_t begin, int64_t end, const T* bar, bool magnitude, uint32_t* found);
    // most (tile_columns): column by column the largest number, or magnitude, in x (blocks, tile_columns), NaN apart.
    void (*maxima)(const T* x, int64_t blocks, bool magnitude, T* most);
    void (*adam_row)(T* c, T* m, T* v, const T* grad, int64_t columns, const AdamStep<T>& step);
    // The same with the bits of bf16 moments, rounded stochastically; of use with float32 alone.
    void (*adam_row_bf16)(T* c, uint16_t* m, uint16_t* v, const T* grad, int64_t columns, const AdamStep<T>& step);
    // c = soft(c - lr (grad + weight_decay c), threshold)
    void (*proximal_row)(T* c, const T* grad, int64_t columns, T lr, T weight_decay, T threshold);
    // Bit j % 64 of words[j / 64 * word_stride]: whether |c[j]| exceeds the threshold, or is NaN; zero from n on.
    void (*above)(const T* c, int64_t n, T threshold, uint64_t* words, int64_t word_stride);
    void (*soft_threshold)(T* s, int64_t columns, T threshold, T scale, T* norms);
    void (*soft_threshold_backward)(T* s, T* g, int64_t columns, T threshold, T scale, T g1, T g2, T* dthreshold);
    Gather<T> gather;
    OnSupport<T> on_support;
};

struct InstructionSet {
    const char* name;
    Simd<float> f32;
    Simd<double> f64;
    // [bank's dtype][live row's dtype]: what becomes of d numbers of the bank, see common/bank_row.h.
    void (*bank_row[4][4])(void* old, const void* live, int64_t d, bool normalize, double momentum);
};

const InstructionSet& simd();

template <class T>
const Simd<T>& simd_of();
template <>
inline const Simd<float>& simd_of<float>() {
    return simd().f32;
}
template <>
inline const Simd<double>& simd_of<double>() {
    return simd().f64;
}

}  // namespace dsc::cpu
