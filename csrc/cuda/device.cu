// What CUDA devices this process sees, in words: for `python -m dsc_ext`.
#include <cuda_runtime.h>

#include <string>

#include "device.h"

namespace dsc::cuda {

int32_t runtime_version() { return CUDART_VERSION; }

const char* device_report() {
    static thread_local std::string report;
    int count = 0;
    const cudaError_t counted = cudaGetDeviceCount(&count);
    if (counted != cudaSuccess) {
        report = std::string("none: ") + cudaGetErrorString(counted) + " (CUDA error " + std::to_string(counted) + ")";
        return report.c_str();
    }
    report = count == 0 ? "none" : "";
    for (int device = 0; device < count; ++device) {
        cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
        report += (device ? "\n" : "") + std::string(properties.name) + ", sm_" + std::to_string(properties.major) +
                  std::to_string(properties.minor) + ", " + std::to_string(properties.totalGlobalMem >> 30) + " GiB";
    }
    return report.c_str();
}

}  // namespace dsc::cuda
