"""Compiles CUDA sources for the CPU with g++ and the emulator of simt.h, and loads the result.

``emulator()`` is the package's own launchers: csrc/bindings.cpp and every csrc/cuda/*.cu in one extension module
``_emu``, with the signatures of ``dsc_ext._C``. Variants: ``plain`` (fast), ``asan`` (AddressSanitizer and
UndefinedBehaviorSanitizer), ``tsan`` (ThreadSanitizer, a race check). The sanitized ones load only into a process that
``sanitized_environment`` prepared. Objects are kept in the checkout's build folder, under a hash of all that went
into them, so that nothing is compiled twice. Needs g++ (GCC 11 or newer) and GNU ld; no CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
ORDERS = (("forward", 0), ("reversed", 0), ("shuffled", 1))

_COMMON = "-std=c++17 -fPIC -fvisibility=hidden -fno-gnu-unique -g1 -Wall -Wextra -Wno-unknown-pragmas"


@dataclass(frozen=True)
class Variant:
    """Flags of one way to build: of the code under test, of the engine, of the rest, and of the linker."""

    kernels: str
    engine: str
    link: str
    runtime: str | None  # the sanitizer's library, which the process must have loaded first


VARIANTS = {
    # -O1: of -O2's time to compile, which a developer waits for, three fifths. Lost: warnings that need -O2.
    "plain": Variant("-O1", "-O2", "", None),
    "asan": Variant(
        "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined",
        "-O2 -fno-omit-frame-pointer -DSIMT_ASAN",
        "-fsanitize=address,undefined",
        "libasan.so",
    ),
    "tsan": Variant(
        "-O1 -g -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan",
        "-O2 -fno-omit-frame-pointer -DSIMT_TSAN",
        "-fsanitize=thread",
        "libtsan.so",
    ),
}


def compiler() -> str:
    """The C++ compiler: environment variable CXX, else g++. What built the package is there to test it, so RuntimeError
    where it is not: without it the CUDA kernels would be proved by nothing, in silence.
    """
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(
            f"the emulator needs a C++ compiler: looked for {name} on PATH; the variable CXX names another"
        )
    return found


def cache_directory() -> Path:
    """Return where objects are kept: $DSC_EMULATOR_CACHE, else build/emulator of the checkout."""
    path = Path(os.environ.get("DSC_EMULATOR_CACHE") or ROOT / "build" / "emulator")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _included(source: Path, folders: list[Path]) -> set[Path]:
    """The headers of ``folders`` that ``source`` includes, and those that these include."""
    found: set[Path] = set()
    pending = [source]
    while pending:
        file = pending.pop()
        for name in re.findall(r'^\s*#include "([^"]+)"', file.read_text(), re.MULTILINE):
            header = next((folder / name for folder in folders if (folder / name).exists()), None)
            if header is not None and header not in found:
                found.add(header)
                pending.append(header)
    return found


@functools.lru_cache(maxsize=1)
def _toolchain(cxx: str) -> str:
    return subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout


def _digest(*parts: str | bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
        state.update(b"\0")
    return state.hexdigest()[:24]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)


def _compile(cxx: str, source: Path, flags: str, folders: list[Path]) -> Path:
    headers = sorted(_included(source, folders))
    seen = [part for header in headers for part in (str(header), header.read_bytes())]
    key = _digest(_toolchain(cxx), _COMMON, flags, *seen, str(source), source.read_bytes())
    flags = f"{_COMMON} {flags} {' '.join(f'-I{folder}' for folder in folders)}"
    # shared.ld knows the kernels' objects by this suffix.
    target = cache_directory() / f"{source.stem}-{key}{source.suffix}.o"
    if not target.exists():
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        partial = target.with_name(f".{os.getpid()}-{target.name}")
        try:
            _run([cxx, *shlex.split(flags), *language, "-c", str(source), "-o", str(partial)])
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def build(name: str, sources: Iterable[Path], variant: str = "plain") -> Path:
    """Compile ``sources`` and the engine, link them into the shared object ``name`` and return its path.

    ``.cu`` files are compiled with the variant's sanitizer, files that include pybind11 without: they hold no logic,
    and instrumenting pybind11 takes long. Raises RuntimeError with the compiler's output where it fails.
    """
    cxx = compiler()
    kind = VARIANTS[variant]
    folders = [CSRC, HERE]
    work: list[tuple[Path, str]] = [(HERE / "simt.cpp", kind.engine)]
    for source in sources:
        if source.suffix == ".cu":
            work.append((source, f"{kind.kernels} -DDSC_SIMT -fdata-sections"))
        elif "pybind11" in source.read_text():
            work.append((source, f"-O1 -DDSC_WITH_CUDA -DDSC_MODULE_NAME={name} {_python_includes()}"))
        else:
            raise ValueError(f"build: sources must be kernels (.cu) or bindings, got {source}")
    work.sort(key=lambda item: "pybind11" not in item[1])  # the slowest first

    with open(cache_directory() / "lock", "w") as lock:  # one builder at a time: the others find the objects made
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            made = pool.map(lambda item: _compile(cxx, item[0], item[1], folders), work)
            objects = [str(path) for path in made]
        script = HERE / "shared.ld"
        link = f"-shared -Wl,-T,{script} {kind.link} -ldl"
        key = _digest(link, script.read_bytes(), *objects)
        target = cache_directory() / f"{variant}-{key}" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            partial = target.with_name(f".{os.getpid()}.so")
            _run([cxx, *objects, *shlex.split(link), "-o", str(partial)])
            os.replace(partial, target)
    return target


def _python_includes() -> str:
    import pybind11

    return f"-isystem{pybind11.get_include()} -isystem{sysconfig.get_path('include')}"


class Control:
    """The engine inside a shared object that ``build`` made: the order of execution, and which kernels have run."""

    def __init__(self, path: Path, sources: Iterable[Path]) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.simt_set_order.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
        self.library.simt_executed.argtypes = [ctypes.POINTER(ctypes.c_uint64), ctypes.c_int]
        self.library.simt_take_out.argtypes = [ctypes.c_char_p, ctypes.c_int]
        self.library.simt_take_out.restype = None
        self._path = path
        self._sources = [source for source in sources if source.suffix in (".cu", ".cuh")]

    def set_order(self, name: str, seed: int = 0) -> None:
        """Run blocks and threads ``forward``, ``reversed``, or ``shuffled`` anew at every barrier, by ``seed``."""
        if self.library.simt_set_order(name.encode(), seed) != 0:
            raise ValueError(f"set_order: name must be forward, reversed or shuffled, got {name!r}")

    def take_out(self, file: str, line: int) -> None:
        """From now on let the barrier, ``__syncwarp`` or wait for copies in that line do nothing."""
        self.library.simt_take_out(f"/{file}".encode(), line)

    @functools.cached_property
    def kernels(self) -> Mapping[int, str]:
        """Every instance of every ``__global__`` function in the shared object: offset -> demangled name."""
        declaration = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)")
        names = {name for source in self._sources for name in declaration.findall(source.read_text())}
        function = re.compile(rf"(?:^|[ :])(?:{'|'.join(sorted(names))})(?:<.*>)?\(.*\)$")
        command = ["nm", "-C", "--defined-only", str(self._path)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True)
        found = {}
        for line in listing.stdout.splitlines():
            offset, kind, name = line.split(maxsplit=2)
            if kind in "tTwW" and function.search(name) and "::{lambda" not in name:
                found[int(offset, 16)] = name.replace("(anonymous namespace)::", "")
        return found

    def executed(self) -> set[str]:
        """Names of the kernels launched so far in this process."""
        count = self.library.simt_executed(None, 0)
        offsets = (ctypes.c_uint64 * count)()
        self.library.simt_executed(offsets, count)
        return {self.kernels.get(offset, hex(offset)) for offset in offsets}


def build_package(variant: str = "plain") -> Path:
    """Build ``_emu``: the bindings and the kernels of csrc, but not what talks to a real device."""
    kernels = sorted(path for path in (CSRC / "cuda").glob("*.cu") if "<cuda_runtime.h>" not in path.read_text())
    return build("_emu", [CSRC / "bindings.cpp", *kernels], variant)


def load_package(path: Path) -> ModuleType:
    """The module in a file that ``build_package`` made, with its ``Control`` as ``control``."""
    # Of modules with one full name pybind11 would give back the first; its init function goes by the last part.
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}._emu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.control = Control(path, CSRC.glob("cuda/*.cu*"))  # type: ignore[attr-defined]
    module.set_order = module.control.set_order  # type: ignore[attr-defined]
    return module


@functools.lru_cache
def emulator(variant: str = "plain") -> ModuleType:
    """The module ``_emu``, whose ``cuda`` has the launchers of ``dsc_ext._C.cuda``, run on host pointers.

    ``_emu.set_order(name, seed)`` chooses the order of blocks and threads, ``_emu.control`` is its ``Control``.
    """
    return load_package(build_package(variant))


def sanitized_environment(variant: str) -> dict[str, str]:
    """Environment for a Python process that loads a sanitized build: the runtime preloaded, one thread per library.

    Raises RuntimeError where the compiler has no such runtime.
    """
    cxx, runtime = compiler(), VARIANTS[variant].runtime
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if runtime is None:
        return environment
    command = [cxx, f"-print-file-name={runtime}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        raise RuntimeError(f"{cxx} has no {runtime}")
    environment["LD_PRELOAD"] = str(Path(path).resolve())
    environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
    environment["UBSAN_OPTIONS"] = "print_stacktrace=1"
    environment["TSAN_OPTIONS"] = (
        "report_thread_leaks=0:report_signal_unsafe=0:ignore_noninstrumented_modules=1:halt_on_error=1"
    )
    return environment


def sanitized_command(variant: str, arguments: Iterable[str]) -> list[str]:
    """This Python with ``arguments``; for ThreadSanitizer without address randomization, which it may not bear."""
    command = [sys.executable, *arguments]
    setarch = shutil.which("setarch")
    if variant == "tsan" and setarch and subprocess.run([setarch, "-R", "true"], capture_output=True).returncode == 0:
        return [setarch, "-R", *command]
    return command
