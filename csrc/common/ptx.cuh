// Every line of inline PTX in this package, behind a function whose host twin the emulator supplies (tests/simt).
#pragma once

#include "common/launch.cuh"

namespace dsc::cuda {

#ifdef DSC_SIMT

// The emulator performs the copy only when it is waited for, so that a missing wait shows as a wrong result.
template <int kBytes>
inline void cp_async(void* shared, const void* global, int valid_bytes = kBytes) {
    ::simt::cp_async(shared, global, kBytes, valid_bytes);
}
inline void cp_async_commit() { ::simt::cp_async_commit(); }
template <int kPending>
inline void cp_async_wait(SIMT_HERE) {
    ::simt::cp_async_wait(kPending, {file, line});
}

inline float to_tf32(float x) { return ::simt::round_to_tf32(x); }
inline void load_matrices(float (&words)[4], const float* row, SIMT_HERE) {
    ::simt::load_matrices(words, row, {file, line});
}
inline void mma(float (&acc)[4], const float (&a)[4], const float (&b)[2], SIMT_HERE) {
    ::simt::mma_tf32(acc, a, b, {file, line});
}
inline void mma(double (&acc)[2], double a, double b, SIMT_HERE) { ::simt::mma_f64(acc, &a, &b, {file, line}); }

#else

// Copies kBytes (4, 8 or 16; both addresses aligned to it) from global to shared memory without passing through
// registers. Bytes from valid_bytes on are set to zero instead; with none valid, global is not read.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int valid_bytes = kBytes) {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
    const unsigned destination = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(destination), "l"(global), "n"(kBytes),
                 "r"(valid_bytes)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Blocks until at most kPending of this thread's committed groups are still in flight.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// x rounded to the 11 significant bits of TF32, to nearest, ties away from zero.
__device__ __forceinline__ float to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

// Four matrices of 8 rows × 4 floats from shared memory: lane 8m + i gives the address (16-byte aligned) of row i of
// matrix m, and every lane receives element (lane / 4, lane % 4) of each.
__device__ __forceinline__ void load_matrices(float (&words)[4], const float* row) {
    unsigned bits[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
    for (int m = 0; m < 4; ++m) words[m] = __uint_as_float(bits[m]);
}

// acc (16,8) += a (16,8) · b (8,8) by the whole warp. Of a and b the tensor core reads the 19 bits of TF32 and ignores
// the 13 below them. With g = lane / 4 and t = lane % 4 the lane holds
//   a: (g,t) (g+8,t) (g,t+4) (g+8,t+4)    b: (t,g) (t+4,g)    acc: (g,2t) (g,2t+1) (g+8,2t) (g+8,2t+1)
__device__ __forceinline__ void mma(float (&acc)[4], const float (&a)[4], const float (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// acc (8,8) += a (8,4) · b (4,8) in double precision: the lane holds a (g,t), b (t,g), acc (g,2t) (g,2t+1).
__device__ __forceinline__ void mma(double (&acc)[2], double a, double b) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};\n"
        : "+d"(acc[0]), "+d"(acc[1])
        : "d"(a), "d"(b));
}

#endif

}  // namespace dsc::cuda
