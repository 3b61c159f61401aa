"""`python -m dsc_ext`: what was built, what this machine has, which op runs where, what is missing and what to do."""

from __future__ import annotations

import platform
import sys

import torch

import dsc_ext
from dsc_ext import _native

OPS = {
    "self_expression": "rows given; with rows=None a library GEMM, but on a CPU from d = 129 up only",
    "self_expression_step_": "",
    "sparse_self_expression": "",
    "sparse_self_expression_step_": "",
    "inner_product_self_expression": "with a threshold; without one library GEMMs, linear in N",
    "threshold_coefficients": "",
    "topk_coefficients": "on CUDA up to k = 256, above it a library sort",
    "ridge_on_support": "on CUDA up to k = 120 (float64: 80), above it library solvers",
    "elastic_net_on_support": "likewise",
    "omp_on_support": "likewise",
    "symmetrize_affinity": "",
    "info_nce": "",
    "bank_scatter_": "",
    "bank_push_": "",
    "row_adam_": "",
}


def advice(native: object | None) -> list[str]:
    """Return what is missing and what to do, most important first."""
    if native is None:
        return [
            _native.hidden_package()
            or f"The extension is not usable: {_native.load_error()}. Reinstall from source with "
            "`pip install --no-cache-dir .`; the build prints what it looked for."
        ]
    found = []
    archs = getattr(native, "cuda_archs", None)
    if archs is None:
        searched = getattr(native, "nvcc_searched", "")
        why = f"no nvcc was found (looked at: {searched})" if searched else "CUDA was switched off (DSCLUST_CUDA=0)"
        found.append(f"CPU build: {why}. With a CUDA toolkit: `CUDA_HOME=/path/to/cuda DSCLUST_CUDA=1 pip install .`")
    if not getattr(native, "openmp", False):
        found.append(
            "Built without OpenMP: the CPU kernels use one thread. Install a compiler with OpenMP and reinstall."
        )
    if archs is not None and torch.version.cuda is None:
        found.append("This PyTorch is a CPU build, so no CUDA tensors exist: the CUDA kernels are there but idle.")
    if archs is not None and torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(device)
            built = {arch.partition("-")[0].rstrip("af") for arch in archs.split()}
            newest_ptx = max(
                (int(a.partition("-")[0].rstrip("af")) for a in archs.split() if not a.endswith("-real")), default=0
            )
            if f"{major}{minor}" not in built and newest_ptx > 10 * major + minor:
                found.append(
                    f"GPU {device} is sm_{major}{minor}, the kernels were built for {archs}: "
                    f"reinstall with DSCLUST_CUDA_ARCHS={major}{minor}-real."
                )
    return found


def main() -> int:
    native = _native.load()
    print(f"dsc-ext      {dsc_ext.__version__}")
    print(f"python       {platform.python_version()} on {platform.platform()}")
    print(f"torch        {torch.__version__} (CUDA {torch.version.cuda or 'none'}), {torch.get_num_threads()} threads")
    if native is None:
        print("extension    not loaded")
    else:
        print(f"extension    {native.__file__}")
        print(f"cpu kernels  {native.isa}, OpenMP {'yes' if native.openmp else 'no'}")
        if hasattr(native, "cuda_archs"):
            version = native.cuda_version
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            print(f"cuda kernels built for {native.cuda_archs} with CUDA {cuda} (runtime linked in)")
            print("cuda devices " + native.cuda_device_report().replace("\n", "\n             "))
        else:
            print("cuda kernels not built")
    width = max(map(len, OPS))
    print(f"\n{'op':<{width}} CPU tensors   CUDA tensors")
    for name, note in OPS.items():
        where = [
            "kernel" if native is not None and hasattr(getattr(native, backend, None), launcher(name)) else "reference"
            for backend in ("cpu", "cuda")
        ]
        print(f"{name:<{width}} {where[0]:<13} {where[1]:<13} {note}".rstrip())
    advised = advice(native)
    for sentence in advised:
        print(f"\n* {sentence}")
    return 0 if native is not None else 1


def launcher(op: str) -> str:
    """Return the native function behind an op; symmetrize_affinity is made of several."""
    return "symmetrize_fill" if op == "symmetrize_affinity" else op


if __name__ == "__main__":
    sys.exit(main())
