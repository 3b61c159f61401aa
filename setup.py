"""Builds dsc_ext/_C by CMake + Ninja; everything else is in pyproject.toml. Never imports torch.

DSCLUST_CUDA        auto (default): CUDA kernels if nvcc is found, else a CPU build with a warning;
                1: fail without nvcc; 0: CPU only
DSCLUST_CUDA_ARCHS  CMake's list, for example "90a" or "80-real;90a-real;90-virtual".
                Default: the GPUs of this machine, else sm_80, 86, 89, 90a and PTX of the newest
DSCLUST_WERROR      1: a compiler's warning is an error (continuous integration); 0 (default): it is shown
MAX_JOBS        parallel compilations. Default: one per core, no more than memory allows (2 GB each)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHS = "80-real;86-real;89-real;90a-real;90-virtual"
GIGABYTES_PER_JOB = 2
PLAIN = re.compile(r"[\w ./+-]*")  # \w: letters of any language


def chosen(variable: str, default: str, *others: str) -> str:
    """Return the value of an environment variable, which must be one of these."""
    value = os.environ.get(variable, default)
    if value not in (default, *others):
        raise SystemExit(f"{variable} must be {', '.join((default, *others)[:-1])} or {others[-1]}, got {value!r}")
    return value


def find_nvcc() -> tuple[str | None, list[str]]:
    """Return where nvcc is, and everywhere it was looked for."""
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
    """Return cmake or ninja: beside this interpreter (a virtual environment need not be activated), else on PATH."""
    beside = str(Path(sys.executable).parent)
    message = f"dsc-ext: {name} not found in {beside} or on PATH. Without build isolation: pip install {name}"
    for folder in [beside, *os.environ.get("PATH", "").split(os.pathsep)]:
        found = shutil.which(name, path=folder)
        if found and name == "cmake" and re.search(r'[][*?;"\\<>]', os.path.realpath(found)):
            message = (
                f"dsc-ext: {found} cannot work: CMake does not find its own files in a folder whose path holds one of "
                '[ ] * ? ; " \\ < >. Install with build isolation, or put a CMake of another folder on PATH.'
            )
        elif found:
            return found
    raise SystemExit(message)


def cuda_archs() -> str:
    """Return DSCLUST_CUDA_ARCHS, or the GPUs of this machine, or the default list.

    Not CMake's "native": without a GPU it builds sm_75.
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


class PlainPaths:
    """Give CMake, Ninja and nvcc paths without the characters that one of them takes for its own, by links.

    Of [ ] ( ) & ; $ and the like not all can be quoted. Where one occurs the path goes through a link in ``folder``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.links: dict[Path, Path] = {}

    def __call__(self, path: str | Path, base: str | Path) -> str:
        """Return ``path``, or the same by a link to ``base``, the folder above it that has to be seen as a whole."""
        path, base = Path(path), Path(base)
        if PLAIN.fullmatch(str(path)):
            return str(path)
        if not PLAIN.fullmatch(str(self.folder)):
            raise SystemExit(
                f"dsc-ext: to build with {path} TMPDIR must name a folder of letters, digits and . _ + - alone, "
                f"got {str(self.folder.parent)!r}"
            )
        base = base if path.is_relative_to(base) else path.parent
        if base not in self.links:
            self.links[base] = self.folder / f"link{len(self.links)}"
            self.links[base].symlink_to(base, target_is_directory=True)
        return str(self.links[base] / path.relative_to(base))


class CMakeBuild(build_ext):
    """Configures and builds csrc/CMakeLists.txt, and puts _C where setuptools expects the extension."""

    def build_extension(self, ext: Extension) -> None:
        wanted, strict = chosen("DSCLUST_CUDA", "auto", "1", "0"), chosen("DSCLUST_WERROR", "0", "1")
        nvcc, searched = (None, []) if wanted == "0" else find_nvcc()
        if nvcc is None and wanted != "0":
            message = (
                f"no CUDA compiler found (looked for nvcc at: {', '.join(searched)}). Set CUDACXX or CUDA_HOME to "
                "build the CUDA kernels, or DSCLUST_CUDA=0 to silence this."
            )
            if wanted == "1":
                raise SystemExit(f"DSCLUST_CUDA=1, but {message}")
            print(f"\n  WARNING: dsc-ext: CPU build: {message}\n", file=sys.stderr, flush=True)

        settings = {
            "DSC_CUDA": "ON" if nvcc else "OFF",
            "CMAKE_COMPILE_WARNING_AS_ERROR": "ON" if strict == "1" else "OFF",
            # pip hides what a successful build prints: the diagnosis has to be able to say it again. As a C string.
            "DSC_NVCC_SEARCHED": "" if nvcc else re.sub(r'["\\;$]', "?", ", ".join(searched)),
        }
        with tempfile.TemporaryDirectory(prefix="dsc-ext-") as folder:
            self.run_cmake(ext, settings, nvcc, PlainPaths(folder))

    def run_cmake(self, ext: Extension, settings: dict[str, str], nvcc: str | None, plain: PlainPaths) -> None:
        import pybind11

        destination = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        for made in (destination, build):
            made.mkdir(parents=True, exist_ok=True)
        cmake, ninja, python = find_tool("cmake"), Path(find_tool("ninja")), Path(sys.executable)
        # A build directory outlives an isolated build environment: the paths below must be given anew every time, or a
        # second `pip install .` meets a cache that points into the deleted one.
        settings = {
            "CMAKE_MAKE_PROGRAM": plain(ninja, ninja.parent),
            "CMAKE_INSTALL_PREFIX": plain(destination, destination),
            # A virtual environment is known by the file beside the interpreter's folder, pybind11 by its own folder.
            "Python_EXECUTABLE": plain(python, python.parent.parent),
            "pybind11_DIR": plain(pybind11.get_cmake_dir(), Path(pybind11.__file__).parent),
            **settings,
        }
        if nvcc:
            settings["CMAKE_CUDA_COMPILER"] = plain(nvcc, Path(nvcc).parent.parent)
            settings["CMAKE_CUDA_ARCHITECTURES"] = cuda_archs()
        source = plain(ROOT / "csrc", ROOT)
        # The links are gone tomorrow, and a build directory that knows them of no use.
        tree = str(plain.folder / "build") if plain.links else plain(build, build)
        definitions = [f"-D{name}={value}" for name, value in settings.items()]
        subprocess.run([cmake, "-S", source, "-B", tree, "-G", "Ninja", *definitions], check=True)
        subprocess.run([cmake, "--build", tree, "--parallel", str(jobs())], check=True)
        subprocess.run([cmake, "--install", tree], check=True)


setup(ext_modules=[Extension("dsc_ext._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
