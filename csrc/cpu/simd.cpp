// Compiled once per instruction set: DSC_ISA names it, DSC_VECTOR_BYTES and DSC_TILE_ROWS fit its registers
// (CMakeLists.txt).
//
// Includes nothing with inline functions of the standard library: the linker keeps one copy of those, and it must not
// be one compiled for a processor wider than the one at hand.
#include "cpu/simd.h"

#define DSC_JOIN_(a, b) a##b
#define DSC_JOIN(a, b) DSC_JOIN_(a, b)

namespace dsc::cpu {
namespace {

constexpr int kRows = DSC_TILE_ROWS;
constexpr int kVectors = 2;

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(DSC_VECTOR_BYTES)));
    static constexpr int kLanes = DSC_VECTOR_BYTES / sizeof(T);
};

// rows × 2 vectors of accumulators stay in registers; each step loads two vectors of B and broadcasts one number of A
// per row.
template <class T>
void tile(const T* A, const T* B, int64_t k, T* acc) {
    using V = typename Vector<T>::type;
    V sum[kRows][kVectors] = {};
    const V* b = reinterpret_cast<const V*>(B);
    for (int64_t j = 0; j < k; ++j, b += kVectors) {
        for (int r = 0; r < kRows; ++r) {
            const T a = A[r * kSlice + j];
            for (int v = 0; v < kVectors; ++v) sum[r][v] += a * b[v];
        }
    }
    V* out = reinterpret_cast<V*>(acc);
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) out[r * kVectors + v] = sum[r][v];
    }
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

template <class T>
void adam_row(T* __restrict__ c, T* __restrict__ m, T* __restrict__ v, const T* __restrict__ grad, int64_t columns,
              const AdamStep<T>& step) {
    const AdamStep<T> s = step;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
        const T sign = T(c[j] > 0) - T(c[j] < 0);
        const T g = grad[j] + s.weight_decay * c[j] + s.l1 * sign;
        const T first = m[j] + s.one_minus_beta1 * (g - m[j]);
        const T second = s.beta2 * v[j] + s.one_minus_beta2 * g * g;
        m[j] = first;
        v[j] = second;
        c[j] -= s.step_size * first / (root(second) / s.second_moment_root + s.eps);
    }
}

template <class T>
constexpr Simd<T> table() {
    return {kRows, kVectors * Vector<T>::kLanes, tile<T>, adam_row<T>};
}

static_assert(kRows <= kMaxTileRows && kVectors * Vector<float>::kLanes <= kMaxTileColumns);

}  // namespace

extern const InstructionSet DSC_JOIN(instruction_set_, DSC_ISA);
const InstructionSet DSC_JOIN(instruction_set_, DSC_ISA) = {DSC_ISA_NAME, table<float>(), table<double>()};

}  // namespace dsc::cpu
