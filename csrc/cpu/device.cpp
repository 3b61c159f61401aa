// Which instruction set the CPU kernels use on this machine.
#include "device.h"

#include "cpu/simd.h"

namespace dsc::cpu {

extern const InstructionSet instruction_set_baseline;
#ifdef DSC_X86
extern const InstructionSet instruction_set_avx2;
extern const InstructionSet instruction_set_avx512;
#endif

static const InstructionSet& widest() {
#ifdef DSC_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
        return instruction_set_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return instruction_set_avx2;
#endif
    return instruction_set_baseline;
}

const InstructionSet& simd() {
    static const InstructionSet& chosen = widest();
    return chosen;
}

const char* instruction_set() { return simd().name; }

bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

}  // namespace dsc::cpu
