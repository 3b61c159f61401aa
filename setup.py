"""Builds dsc_ext/_C by CMake + Ninja; everything else is in pyproject.toml. Never imports torch.

DSCLUST_CUDA        auto (default): CUDA kernels if nvcc is found, else a CPU build with a warning;
                1: fail without nvcc; 0: CPU only
DSCLUST_CUDA_ARCHS  CMake's list, for example "90a" or "80-real;90a-real;90-virtual".
                Default: the GPUs of this machine, else sm_80, 86, 89, 90a and PTX of the newest
MAX_JOBS        parallel compilations. Default: one per core, no more than memory allows (2 GB each)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHS = "80-real;86-real;89-real;90a-real;90-virtual"
GIGABYTES_PER_JOB = 2


def find_nvcc() -> tuple[str | None, list[str]]:
    """Where nvcc is, and everywhere it was looked for."""
    searched = []
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        value = os.environ.get(variable)
        candidate = value if variable == "CUDACXX" else value and os.path.join(value, "bin", "nvcc")
        searched.append(f"{variable}={value}" if value else f"{variable} (not set)")
        if candidate and shutil.which(candidate):
            return shutil.which(candidate), searched
    for place, candidate in (("PATH", "nvcc"), ("/usr/local/cuda", "/usr/local/cuda/bin/nvcc")):
        searched.append(place)
        if shutil.which(candidate):
            return shutil.which(candidate), searched
    return None, searched


def find_tool(name: str) -> str:
    """cmake or ninja: beside this interpreter (a virtual environment need not be activated), else on PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise SystemExit(
            f"dsc-ext: {name} not found in {beside} or on PATH. Without build isolation: pip install {name}"
        )
    return found


def cuda_archs() -> str:
    """DSCLUST_CUDA_ARCHS, or the GPUs of this machine, or the default list. Not CMake's "native": without a GPU it
    builds sm_75.
    """
    if chosen := os.environ.get("DSCLUST_CUDA_ARCHS"):
        return chosen
    try:
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return DEFAULT_ARCHS
    capabilities = sorted(
        {capability.replace(".", "") for capability in found if capability.replace(".", "").isdigit()}
    )
    # sm_90 is built as 90a: Hopper's own instructions need the suffix.
    return (
        ";".join(f"{'90a' if capability == '90' else capability}-real" for capability in capabilities) or DEFAULT_ARCHS
    )


def jobs() -> int:
    if chosen := os.environ.get("MAX_JOBS"):
        return max(1, int(chosen))
    try:
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        gigabytes = 4.0
    return max(1, min(os.cpu_count() or 1, int(gigabytes / GIGABYTES_PER_JOB)))


class CMakeBuild(build_ext):
    """Configures and builds csrc/CMakeLists.txt, and puts _C where setuptools expects the extension."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        wanted = os.environ.get("DSCLUST_CUDA", "auto")
        if wanted not in ("auto", "0", "1"):
            raise SystemExit(f"DSCLUST_CUDA must be auto, 1 or 0, got {wanted!r}")
        nvcc, searched = (None, []) if wanted == "0" else find_nvcc()
        if nvcc is None and wanted != "0":
            message = (
                f"no CUDA compiler found (looked for nvcc at: {', '.join(searched)}). Set CUDACXX or CUDA_HOME to "
                "build the CUDA kernels, or DSCLUST_CUDA=0 to silence this."
            )
            if wanted == "1":
                raise SystemExit(f"DSCLUST_CUDA=1, but {message}")
            print(f"\n  WARNING: dsc-ext: CPU build: {message}\n", file=sys.stderr, flush=True)

        destination = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        # A build directory outlives an isolated build environment: the paths below must be given anew every time, or a
        # second `pip install .` meets a cache that points into the deleted one.
        cmake = find_tool("cmake")
        configure = [
            cmake, "-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={destination}",
            f"-DDSC_CUDA={'ON' if nvcc else 'OFF'}",
            # pip hides what a successful build prints: the diagnosis has to be able to say it again.
            f"-DDSC_NVCC_SEARCHED={'' if nvcc else ', '.join(searched)}",
        ]  # fmt: skip
        if nvcc:
            configure += [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={cuda_archs()}"]
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), "--parallel", str(jobs())], check=True)
        subprocess.run([cmake, "--install", str(build)], check=True)


setup(ext_modules=[Extension("dsc_ext._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
