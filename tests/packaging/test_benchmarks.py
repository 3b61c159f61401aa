"""The benchmarks run, say what they measured, refuse to time a variant whose numbers are wrong. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from run import OPS  # noqa: E402

VERIFY = BENCHMARKS / "verify_gpu.sh"
TINY = ("--quick", "--threads", "1", "--where", "n=128")
STEPS = "machine requirements install diagnosis live tests memcheck racecheck initcheck synccheck benchmark".split()

# Runs the benchmarks with one variant replaced by a wrong one.
SABOTAGE = """
import sys
sys.path.insert(0, {folder!r})
import {module}, {op}, run
{sabotage}
run.main({arguments!r})
"""


def execute(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)


def test_runs_end_to_end(tmp_path: Path) -> None:
    """Every op; and whoever adds one finds its module run here."""
    out = tmp_path / "results"
    done = execute(sys.executable, str(BENCHMARKS / "run.py"), *TINY, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in out.iterdir()} == set(OPS)
    for op in OPS:
        document = json.loads((out / f"{op}.json").read_text())
        assert {"suite", "date", "commit", "device", "threads", "versions", "load_average"} <= set(document)
        assert document["threads"] == 1 and all(value > 0 for value in document["ceilings"].values())
        assert document["results"] and {result["op"] for result in document["results"]} == {op}
        assert any(result["panel"] for result in document["results"]) and (out / f"{op}.png").stat().st_size > 0
        for result in document["results"]:
            assert f"{op}, {result['pass']}" in done.stdout
            variants = result["variants"]
            assert {"ours", result["best"]} <= set(variants) and result["best"] not in ("naive", "compiled", "ours")
            assert result["floor_seconds"] > 0 and result["bound"] in ("bandwidth", "arithmetic")
            assert variants["ours"]["ratio_to_ours"]["median"] == 1
            for variant in variants.values():
                times = variant["seconds"]
                assert 0 < times["min"] <= times["p20"] <= times["median"] <= times["p80"] <= times["max"]
                assert 0 <= variant["relative_error"] <= 1e-3
            assert all(variants[name]["peak_bytes"] >= 0 for name in (result["best"], "ours"))


def test_where_picks_shapes_and_refuses_what_fits_none(tmp_path: Path) -> None:
    arguments = ("--quick", "--no-memory", "--out", str(tmp_path), "--op", "self_expression", "--where")
    done = execute(sys.executable, str(BENCHMARKS / "run.py"), *arguments, "n=128", "--where", "order=all,adjacent")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "self_expression.json").read_text())["results"]
    assert {(r["shape"]["n"], r["shape"]["order"]) for r in found} == {(128, "all"), (128, "adjacent")}
    assert "peak_bytes" not in found[0]["variants"]["ours"]
    done = execute(sys.executable, str(BENCHMARKS / "run.py"), *arguments, "n=7")
    assert done.returncode == 1 and "no shape meets --where n=7" in done.stderr


@pytest.mark.parametrize(
    ("op", "module", "sabotage", "variant"),
    [
        ("self_expression", "baselines", "baselines.splice = lambda C, M, rows, Z: C[rows] @ M", "splice"),
        ("self_expression", "dsc_ext", "dsc_ext.self_expression = lambda C, M, *rest, **options: C @ M", "ours"),
        ("topk_coefficients", "topk_coefficients", "topk_coefficients.RUNS['ours'] = lambda x, i: x.Q.topk(5)", "ours"),
        ("training_step", "baselines", "baselines.BETAS = (0.8, 0.999)", "naive"),
        ("training_step", "baselines", "baselines.RowStep.adam = lambda self, C, *rest: self.C.mul_(0.5)", "gather"),
    ],
)  # fmt: skip
def test_a_wrong_variant_is_caught(op: str, module: str, sabotage: str, variant: str, tmp_path: Path) -> None:
    arguments = ["--op", op, "--no-memory", *TINY, "--out", str(tmp_path)]
    code = SABOTAGE.format(folder=str(BENCHMARKS), op=op, module=module, sabotage=sabotage, arguments=arguments)
    done = execute(sys.executable, "-c", code)
    assert done.returncode == 1 and f"variant '{variant}' is off by" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_gpu_suite_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    done = execute(sys.executable, str(BENCHMARKS / "run.py"), "--suite", "gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and "needs a CUDA device" in done.stderr


def test_verify_gpu_is_bash_and_lists_its_steps(tmp_path: Path) -> None:
    assert os.access(VERIFY, os.X_OK)
    assert execute("bash", "-n", str(VERIFY)).returncode == 0
    done = execute(str(VERIFY), "--dry-run", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == STEPS
    assert list(tmp_path.iterdir()) == []
    assert execute(str(VERIFY), "--wrong").returncode == 2


def test_verify_gpu_goes_on_after_a_failure_and_reports_it(tmp_path: Path) -> None:
    """With an interpreter that can install nothing and run no test: every step is tried, the failures are listed."""
    python = tmp_path / "python"
    works = f'"-m dsc_ext"|"- "*) exec "{sys.executable}" "$@";;'
    python.write_text(f'#!/bin/sh\ncase "$*" in {works} *) echo broken; exit 7;; esac\n')
    python.chmod(0o755)
    out = tmp_path / "out"
    done = execute(str(VERIFY), "--quick", "--out", str(out), PYTHON=str(python))
    assert done.returncode == 1, done.stderr
    found = json.loads((out / "verify_gpu.json").read_text())
    assert [step["step"] for step in found["steps"]] == STEPS and not found["passed"]
    by_name = {step["step"]: step for step in found["steps"]}
    assert by_name["diagnosis"]["status"] == "passed"
    assert by_name["install"]["status"] == "failed" and by_name["install"]["exit_code"] == 7
    assert Path(by_name["install"]["log"]).read_text() == "broken\n"
    assert "install" in done.stdout.splitlines()[-1] and "failed" in done.stdout.splitlines()[-1]
