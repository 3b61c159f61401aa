// What this build is and what it finds on the machine: read by `python -m dsc_ext`.
#pragma once

#include "common/types.h"

namespace dsc {

namespace cpu {
bool has_openmp();
const char* instruction_set();  // the widest one the kernels will use here
}  // namespace cpu

namespace cuda {
int32_t runtime_version();    // of the statically linked CUDA runtime, as 13000 for 13.0
const char* device_report();  // one line a device, or why there is none
}  // namespace cuda

}  // namespace dsc
