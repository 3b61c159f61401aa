#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one command:
#
#     benchmarks/verify_gpu.sh [--out DIR] [--quick] [--dry-run]
#
# Builds the package from this source tree, runs the op tests on the GPU, compute-sanitizer on their small cases and the
# GPU benchmarks. No network: PyTorch, a CUDA toolkit, CMake, Ninja and pybind11 must be there, and what is missing is
# reported. The package is installed into DIR/site, so that the environment stays as it is. A failed step does not stop the
# others; each leaves DIR/<step>.log, all are listed in DIR/verify_gpu.json, and the exit code is 1 if one failed.
#
# PYTHON (default: python3) chooses the interpreter; MAX_JOBS, DSCLUST_CUDA_ARCHS and CUDA_HOME reach the build.
set -euo pipefail

usage() { echo "usage: $0 [--out DIR] [--quick] [--dry-run]"; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=verify_gpu
quick=0
dry_run=0
while (($#)); do
    case $1 in
    --out)
        out=${2:?--out needs a directory}
        shift
        ;;
    --quick) quick=1 ;;
    --dry-run) dry_run=1 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done

python=${PYTHON:-python3}
if ((dry_run)); then
    out=$(realpath -m "$out")
else
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    : >"$out/steps.tsv"
fi
site=$out/site
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
sanitizer=$(command -v compute-sanitizer || true)
for home in "${CUDA_HOME:-}" /usr/local/cuda; do
    if [[ -z $sanitizer && -n $home && -x $home/bin/compute-sanitizer ]]; then sanitizer=$home/bin/compute-sanitizer; fi
done

# step NAME COMMAND...: runs it from $out (so that Python finds the installed package, not the source tree) and records how it went.
step() {
    local name=$1 status=passed code=0 start=$SECONDS
    shift
    if ((dry_run)); then
        local words="$*"
        printf '%-14s %s\n' "$name" "${words//$'\n'/; }"
        return
    fi
    printf '== %s\n' "$name"
    (cd "$out" && "$@") >"$out/$name.log" 2>&1 || code=$?
    if ((code)); then
        status=failed
        tail -n 20 "$out/$name.log"
    fi
    printf '   %s (exit code %d) after %d s, %s\n' "$status" "$code" $((SECONDS - start)) "$out/$name.log"
    printf '%s\t%s\t%d\t%d\n' "$name" "$status" "$code" $((SECONDS - start)) >>"$out/steps.tsv"
}

# absent NAME REASON: a step that this machine cannot run. Reported, and not counted as a failure.
absent() {
    printf '%-14s absent: %s\n' "$1" "$2"
    if ! ((dry_run)); then printf '%s\tabsent: %s\t0\t0\n' "$1" "$2" >>"$out/steps.tsv"; fi
}

need='
import importlib.util, shutil, sys
print("python", sys.version)
missing = [name for name in ("torch", "pybind11", "numpy", "scipy", "sklearn", "matplotlib", "rich", "pytest", "hypothesis")
           if importlib.util.find_spec(name) is None]
missing += [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None and importlib.util.find_spec(tool) is None]
print("missing:", ", ".join(missing) or "nothing")
import torch
print("torch", torch.__version__, "CUDA", torch.version.cuda)
if not torch.cuda.is_available():
    sys.exit("torch.cuda.is_available() is False: every GPU test would be skipped, so nothing below proves anything")
print(torch.cuda.get_device_properties(0))
sys.exit(1 if {"torch", "pybind11", "cmake", "ninja", "pytest"} & set(missing) else 0)
'
live='
import torch, dsc_ext
from dsc_ext import _native
print(dsc_ext.__file__)
C, M = torch.randn(300, 300, device="cuda"), torch.randn(300, 20, device="cuda")
rows = torch.randperm(300, device="cuda")[:40]
assert _native.backend(C) is not None, "no CUDA kernels in this build"
found = dsc_ext.self_expression(C, M, rows)
torch.testing.assert_close(found, dsc_ext.reference.self_expression(C.double(), M.double(), rows).float(), rtol=1e-4, atol=1e-4)
print("the CUDA kernels run and agree with the reference")
'

tests=("$python" -m pytest -p no:cacheprovider -q "$root/tests/ops")
small='cuda and test_equals_the_reference and f32'
benchmark=("$python" "$root/benchmarks/run.py" --suite gpu --out "$out/gpu")
if ((quick)); then
    small+=' and self_expression'
    benchmark+=(--quick)
fi

step machine nvidia-smi
step requirements "$python" -c "$need"
step install "$python" -m pip install -v --no-build-isolation --no-deps --no-index --upgrade --target "$site" "$root"
step diagnosis "$python" -m dsc_ext
step live "$python" -c "$live"
# "gpu" is a marker: -k matches markers as well as names. Exit code 5, no test at all, counts as a failure.
step tests "${tests[@]}" -k "cuda or gpu" "--junitxml=$out/tests.xml"
for tool in memcheck racecheck initcheck synccheck; do
    if [[ -z $sanitizer ]] && ! ((dry_run)); then
        absent "$tool" "compute-sanitizer is neither on PATH nor in CUDA_HOME/bin"
        continue
    fi
    # PyTorch's caching allocator would hide what lies between two tensors. racecheck and initcheck look at our kernels alone:
    # cuBLAS and PyTorch have their own findings.
    only=()
    if [[ $tool == racecheck || $tool == initcheck ]]; then only=(--kernel-name kns=3dsc4cuda); fi
    step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${sanitizer:-compute-sanitizer}" --tool "$tool" "${only[@]}" \
        --error-exitcode 86 "${tests[@]}" -k "$small"
done
step benchmark "${benchmark[@]}"

if ((dry_run)); then exit 0; fi
"$python" - "$out" "$root" <<'PYTHON'
import json, os, subprocess, sys
from datetime import datetime, timezone
from xml.etree import ElementTree

out, root = sys.argv[1:]
steps = []
for line in open(os.path.join(out, "steps.tsv")):
    name, status, code, seconds = line.rstrip("\n").split("\t")
    log = os.path.join(out, f"{name}.log")
    steps.append(
        {"step": name, "status": status, "exit_code": int(code), "seconds": int(seconds), "log": log if os.path.exists(log) else None}
    )
found = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "python": sys.version}
git = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
found["commit"] = git.stdout.strip() or "unknown"
try:
    import torch

    found["torch"] = torch.__version__
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
except ImportError:
    found["torch"] = found["device"] = None
xml = os.path.join(out, "tests.xml")
if os.path.exists(xml):
    suite = ElementTree.parse(xml).getroot().find("testsuite")
    found["tests"] = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    if found["tests"]["tests"] == found["tests"]["skipped"]:  # pytest calls that a success
        next(step for step in steps if step["step"] == "tests")["status"] = "failed: every test was skipped"
failed = [step["step"] for step in steps if step["status"].startswith("failed")]
found |= {"passed": not failed, "steps": steps}
summary = os.path.join(out, "verify_gpu.json")
with open(summary + ".part", "w") as file:
    json.dump(found, file, indent=1)
os.replace(summary + ".part", summary)
os.remove(os.path.join(out, "steps.tsv"))

print(f"\n{'step':<14} {'seconds':>7}  status")
for step in steps:
    print(f"{step['step']:<14} {step['seconds']:>7}  {step['status']}")
print(f"{len(failed)} of {len(steps)} steps failed{': ' + ', '.join(failed) if failed else ''}. {summary}")
sys.exit(1 if failed else 0)
PYTHON
