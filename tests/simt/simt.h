// The part of CUDA that this package's kernels use, on a CPU: what a .cu file sees when it is compiled with -DDSC_SIMT.
//
// Qualifiers vanish, __shared__ becomes `static`, and every thread of a block is a fiber: __syncthreads, __syncwarp,
// shuffles and ballots suspend it until its partners arrive. Blocks run one after another, in an order a test can
// choose. The fibers and the rules they are held to live in simt.cpp, which is compiled without any sanitizer, so that
// under ThreadSanitizer and AddressSanitizer a report names a line of the kernel. Semantics: CUDA C++ Programming
// Guide, "C++ Language Extensions".
#pragma once

#include <math.h>  // not <cmath>: sqrt(float) and its like must be found in the global namespace, as in CUDA

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

// ---- qualifiers
// ------------------------------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static  // one block runs at a time; simt.cpp poisons the bytes before each (see shared.ld)
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// ---- vector types
// ----------------------------------------------------------------------------------------------------------
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
    unsigned x, y, z;
};

#define SIMT_VECTORS(T, name, align2, align4)                  \
    struct alignas(align2) name##2 { T x, y; };                \
    struct alignas(align4) name##4 { T x, y, z, w; };          \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)
#undef SIMT_VECTORS

// ---- the engine (simt.cpp)
// -------------------------------------------------------------------------------------------------
namespace simt {

inline constexpr int kWarp = 32;

// Where a kernel called, for the message: filled in by the default arguments of the intrinsics below.
struct Site {
    const char* file;
    int line;
};
#define SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Runs body(closure) once per thread of the grid. Throws std::runtime_error with thread and line if the kernel breaks a
// rule: divergent barrier, deadlock, exit before a barrier, shuffle from a lane that takes no part, misaligned
// cp.async.
void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*),
              const void* closure);

template <class Body>
void run(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, const Body& body) {
    run_grid(
        kernel, grid, block, shared_bytes, [](const void* closure) { (*static_cast<const Body*>(closure))(); }, &body);
}

// What a failed device-side assertion does: the launch throws with the message, the thread and the line.
[[noreturn]] void fail(const char* message, SIMT_HERE);

unsigned char* dynamic_shared();  // 16-byte aligned, exactly shared_bytes long, 0xCD at the start of each block

int barrier(int predicate, Site site);  // returns how many threads of the block came with a non-zero predicate
void sync_warp(unsigned mask, Site site);
uint64_t shuffle(unsigned mask, uint64_t word, int source_lane, Site site);
unsigned ballot(unsigned mask, bool predicate, Site site);
int lane();
int block_threads();
void fence();

// The copy is performed by the wait that covers its group, so a missing or too weak wait gives a wrong result (see
// simt.cpp).
void cp_async(void* shared, const void* global, int bytes, int valid_bytes, SIMT_HERE);
void cp_async_commit();
void cp_async_wait(int pending, Site site);

// Tensor cores: the whole warp together, with the fragment layouts of the PTX ISA (see common/ptx.cuh). Of a TF32
// operand the low 13 bits are dropped, products are exact, and their sum with acc is rounded towards zero, as
// measurements of the hardware have found (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021).
void mma_tf32(float* acc, const float* a, const float* b, Site site);
void mma_f64(double* acc, const double* a, const double* b, Site site);
float round_to_tf32(float x);
void gather_rows(const void* (&rows)[4], const void* row,
                 Site site);  // the addresses that ldmatrix.x4 makes a lane read

// Written by the engine between fibers; reading it is no access of the kernel, so ThreadSanitizer is kept out.
struct Coordinates {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
extern Coordinates coordinates;

#ifdef __SANITIZE_THREAD__
#define SIMT_QUIET inline __attribute__((no_sanitize("thread"), noinline))
#else
#define SIMT_QUIET inline
#endif
SIMT_QUIET uint3 thread_index() { return coordinates.thread; }
SIMT_QUIET uint3 block_index() { return coordinates.block; }
SIMT_QUIET dim3 block_dim() { return coordinates.block_dim; }
SIMT_QUIET dim3 grid_dim() { return coordinates.grid_dim; }
#undef SIMT_QUIET

}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_dim())
#define gridDim (::simt::grid_dim())
inline constexpr int warpSize = simt::kWarp;

// ---- barriers, votes, shuffles
// -----------------------------------------------------------------------------------------------
inline void __syncthreads(SIMT_HERE) { simt::barrier(0, {file, line}); }
inline int __syncthreads_count(int predicate, SIMT_HERE) { return simt::barrier(predicate, {file, line}); }
inline int __syncthreads_or(int predicate, SIMT_HERE) { return simt::barrier(predicate, {file, line}) > 0; }
inline int __syncthreads_and(int predicate, SIMT_HERE) {
    return simt::barrier(predicate, {file, line}) == simt::block_threads();
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) { simt::sync_warp(mask, {file, line}); }

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
    return simt::ballot(mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
    return simt::ballot(mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
    return simt::ballot(mask, predicate == 0, {file, line}) == 0;
}

namespace simt {
template <class T>
T shuffle_value(unsigned mask, T value, int source_lane, Site site) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "shuffles take 32- and 64-bit numbers");
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T));
    word = shuffle(mask, word, source_lane, site);
    std::memcpy(&value, &word, sizeof(T));
    return value;
}
}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_HERE) {
    const int first = simt::lane() & ~(width - 1);
    return simt::shuffle_value(mask, value, first + (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
    const int lane = simt::lane(), source = lane - static_cast<int>(delta);
    return simt::shuffle_value(mask, value, source < (lane & ~(width - 1)) ? lane : source, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
    const int lane = simt::lane(), source = lane + static_cast<int>(delta);
    return simt::shuffle_value(mask, value, source > (lane | (width - 1)) ? lane : source, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_HERE) {
    const int lane = simt::lane(), source = lane ^ lane_mask;
    return simt::shuffle_value(mask, value, source > (lane | (width - 1)) ? lane : source, {file, line});
}

namespace simt {
inline void load_matrices(float (&words)[4], const float* row, Site site) {  // read here, where a sanitizer sees it
    const void* rows[4];
    gather_rows(rows, row, site);
    for (int m = 0; m < 4; ++m) words[m] = static_cast<const float*>(rows[m])[lane() % 4];
}
}  // namespace simt

// ---- atomics: relaxed, as in CUDA, and for CUDA's types only
// -------------------------------------------------------------------
namespace simt {
template <class T, class... Allowed>
using Only = std::enable_if_t<(std::is_same_v<T, Allowed> || ...), T>;
template <class T>
using Same = std::common_type_t<T>;  // not deduced, so that atomicAdd(float*, 1) converts
using u64 = unsigned long long;

template <class T, class Combine>
T atomic_update(T* address, Combine combine) {
    T old;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    for (T next = combine(old);
         !__atomic_compare_exchange(address, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)
        next = combine(old);
    return old;
}
}  // namespace simt

#define SIMT_ATOMIC(name, expression, ...)                                               \
    template <class T>                                                                   \
    simt::Only<T, __VA_ARGS__> name(T* address, simt::Same<T> value) {                   \
        return simt::atomic_update(address, [value](T old) -> T { return expression; }); \
    }
SIMT_ATOMIC(atomicAdd, old + value, int, unsigned, simt::u64, float, double)
SIMT_ATOMIC(atomicSub, old - value, int, unsigned)
SIMT_ATOMIC(atomicMax, old < value ? value : old, int, unsigned, long long, simt::u64)
SIMT_ATOMIC(atomicMin, value < old ? value : old, int, unsigned, long long, simt::u64)
SIMT_ATOMIC(atomicOr, old | value, int, unsigned, simt::u64)
SIMT_ATOMIC(atomicAnd, old& value, int, unsigned, simt::u64)
SIMT_ATOMIC(atomicExch, (static_cast<void>(old), value), int, unsigned, simt::u64, float)
#undef SIMT_ATOMIC

template <class T>
simt::Only<T, int, unsigned, simt::u64> atomicCAS(T* address, simt::Same<T> compare, simt::Same<T> value) {
    return simt::atomic_update(address, [=](T old) -> T { return old == compare ? value : old; });
}

inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() { simt::fence(); }

// ---- bits and numbers
// --------------------------------------------------------------------------------------------------------
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline int __clzll(long long bits) { return bits ? __builtin_clzll(static_cast<unsigned long long>(bits)) : 64; }
inline unsigned __brev(unsigned bits) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (bits >> i & 1u) << (31 - i);
    return reversed;
}

namespace simt {
template <class To, class From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
}  // namespace simt
inline unsigned __float_as_uint(float x) { return simt::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return simt::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return simt::bit_cast<float>(x); }
inline float __int_as_float(int x) { return simt::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return simt::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::bit_cast<double>(x); }

// Rounded once each and never contracted into a fused multiply-add (built without -mfma, so plain operators do).
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

// Cached and streaming loads and stores are plain ones here.
template <class T>
T __ldg(const T* address) {
    return *address;
}
template <class T>
T __ldcs(const T* address) {
    return *address;
}
template <class T>
T __ldcg(const T* address) {
    return *address;
}
template <class T>
void __stcs(T* address, std::common_type_t<T> value) {
    *address = value;
}
