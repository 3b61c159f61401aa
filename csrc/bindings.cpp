// The Python module: one m.def per launcher that launchers.h names, no logic. Pointers travel as integers, a Status
// becomes an exception.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "bank.h"
#include "common/types.h"
#include "device.h"
#include "info_nce.h"
#include "inner_product_self_expression.h"
#include "on_support.h"
#include "row_adam.h"
#include "rows_scratch.h"
#include "self_expression.h"
#include "self_expression_step.h"
#include "sparse_self_expression.h"
#include "sparse_self_expression_step.h"
#include "symmetrize_affinity.h"
#include "threshold_coefficients.h"
#include "topk_coefficients.h"

#ifndef DSC_MODULE_NAME
#define DSC_MODULE_NAME _C
#endif

namespace py = pybind11;

namespace {

// What Python passes for a parameter: an integer for a pointer or an enum, the value itself otherwise.
template <class P>
using Passed =
    std::conditional_t<std::is_pointer_v<P>, std::uintptr_t, std::conditional_t<std::is_enum_v<P>, int32_t, P>>;

template <class P>
P received(Passed<P> value) {
    if constexpr (std::is_pointer_v<P>) {
        return reinterpret_cast<P>(value);
    } else {
        return static_cast<P>(value);
    }
}

void raise_unless_ok(const dsc::Status& status, const char* name) {
    if (status) return;
    const std::string what = std::string(name) + ": " + status.message;
    if (status.code == dsc::kIndexOutOfRange) throw py::index_error(what);
    if (status.code == dsc::kUnsupportedDType) throw py::type_error(what);
    throw std::runtime_error(what + " (CUDA error " + std::to_string(status.code) + "; `python -m dsc_ext` diagnoses)");
}

template <class Result, class... P>
void define(py::module_& m, const char* name, Result (*launcher)(P...)) {
    m.def(name, [name, launcher](Passed<P>... arguments) {
        if constexpr (std::is_same_v<Result, dsc::Status>) {
            dsc::Status status;
            {
                py::gil_scoped_release release;
                status = launcher(received<P>(arguments)...);
            }
            raise_unless_ok(status, name);
        } else {
            return launcher(received<P>(arguments)...);
        }
    });
}

}  // namespace

PYBIND11_MODULE(DSC_MODULE_NAME, m) {
#ifdef DSC_WITH_CPU
    py::module_ cpu = m.def_submodule("cpu", "launchers on host memory");
#define DSC_LAUNCHER_NAME(name) define(cpu, #name, &dsc::cpu::name);
#include "launchers.h"
#undef DSC_LAUNCHER_NAME
    m.attr("openmp") = dsc::cpu::has_openmp();
    m.attr("isa") = dsc::cpu::instruction_set();
    m.attr("nvcc_searched") = DSC_NVCC_SEARCHED;
#endif
#ifdef DSC_WITH_CUDA
    py::module_ cuda = m.def_submodule("cuda", "launchers on device memory");
#define DSC_LAUNCHER_NAME(name) define(cuda, #name, &dsc::cuda::name);
#include "launchers.h"
#undef DSC_LAUNCHER_NAME
#endif
#ifdef DSC_CUDA_ARCHS
    m.attr("cuda_archs") = DSC_CUDA_ARCHS;
    m.attr("cuda_version") = dsc::cuda::runtime_version();
    m.def("cuda_device_report", [] { return std::string(dsc::cuda::device_report()); });
#endif
}
