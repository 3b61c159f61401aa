"""The command line on tiny data: results, resume after Ctrl-C, exit codes and one-line errors."""

import csv
import dataclasses
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import dsclust
import dsclust.cli as cli
import dsclust.cli.progress as progress
import dsclust.memory as memory
import dsclust.pipeline as pipeline
import numpy as np
import pytest
from dsclust.methods import METHODS
from dsclust.names import ExperimentName, PresetName, method_names, words
from dsclust.parts.consistency import CONSISTENCIES
from dsclust.parts.order import BANK_ORDERS
from dsclust.parts.penalty import PENALTIES
from dsclust.progress import Progress
from rich.console import Console
from typer.testing import CliRunner

BDSC = ["--method", "bdsc"]
QUICK = ["--epochs", "4", "--pretrain-steps", "20"]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def flat(text):
    return " ".join(text.split())


@pytest.fixture
def images(tmp_path):
    """Twelve noisy variants of three 8 x 8 patterns, labeled."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 12)
    X = rng.random((3, 8, 8))[y] * rng.uniform(0.5, 1.0, (36, 1, 1)) + 0.02 * rng.random((36, 8, 8))
    path = tmp_path / "patterns.npz"
    np.savez(path, images=X.astype(np.float32), labels=y)
    return path


def read_labels(directory):
    with (directory / "labels.csv").open() as file:
        return [int(row["label"]) for row in csv.DictReader(file)]


def test_fit_writes_everything_and_compares(images, tmp_path):
    out = tmp_path / "run"
    result = run("fit", "--data", images, "--out", out, "--batch-size", 9, *BDSC, *QUICK)
    assert result.exit_code == 0, result.output
    for text in ("ACC", "NMI", "ARI", "BDSC", "k-means", "5-NN graph", "ridge", f"results in {out}"):
        assert text in result.stdout
    assert "training 4/4  loss" in result.stderr
    names = {p.name for p in out.iterdir()}
    assert names == {
        "labels.csv", "coefficients.npz", "affinity.npz", "metrics.json", "config.json", "history.json", "plots",
        "model.safetensors",
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["acc"] <= 1
    assert len(metrics["baselines"]) == 4
    config = json.loads((out / "config.json").read_text())
    assert config["n_clusters"] == 3  # counted from the labels
    assert config["training"]["batch_size"] == 9
    assert config["training"]["epochs"] == 4
    assert config["data"]["n_samples"] == 36
    assert len(read_labels(out)) == 36
    assert (out / "plots" / "clusters.png").is_file()


def test_data_without_labels(images, tmp_path):
    with np.load(images) as file:
        np.save(tmp_path / "plain.npy", file["images"].reshape(36, -1))
    out = tmp_path / "run"
    refused = run("fit", "--data", tmp_path / "plain.npy", "--out", out, *BDSC, *QUICK)
    assert refused.exit_code == 2
    assert "--n-clusters: expected a number" in refused.stderr
    result = run("fit", "--data", tmp_path / "plain.npy", "-k", 3, "--out", out, *BDSC, *QUICK)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert [metrics["acc"], metrics["nmi"], metrics["ari"]] == [None] * 3
    assert [b["acc"] for b in metrics["baselines"]] == [None] * 4
    assert not (out / "plots" / "clusters.png").exists()
    reshaped = run(
        "fit", "--data", tmp_path / "plain.npy", "-k", 3, "--image-shape", "8x8",
        "--out", tmp_path / "run2", "--no-baselines", *BDSC, *QUICK,
    )  # fmt: skip
    assert reshaped.exit_code == 0, reshaped.output
    assert (tmp_path / "run2" / "plots" / "clusters.png").exists()
    assert "k-means" not in reshaped.stdout


def test_default_directory_and_default_preset(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def stop(data, n_clusters, method, **settings):
        seen.update(settings, data=data, n_clusters=n_clusters)
        raise ValueError("far enough")

    monkeypatch.setattr(pipeline, "cluster", stop)
    result = run("fit", "--data", "digits", "--method", "bdsc")
    assert result.exit_code == 2
    assert flat(result.stderr).endswith("error: far enough")
    assert (seen["preset"], seen["data"].preset, seen["n_clusters"]) == (None, "digits", 10)
    assert re.fullmatch(r"runs/digits-\d{8}-\d{6}", str(seen["checkpoint"].parent))
    assert not (tmp_path / "runs").exists()  # a refused run leaves nothing behind


@pytest.mark.parametrize("phase", ["pretrain", "train"])
def test_interrupted_run_resumes_to_the_same_result(images, tmp_path, monkeypatch, phase):
    common = ["fit", "--data", images, *BDSC, "--batch-size", 9, "--epochs", 6, "--pretrain-steps", 700]
    common += ["--set", "gradient=detach+ae", "--seed", 3]
    whole = run(*common, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output

    stopped, epoch = tmp_path / "stopped", progress.Lines.epoch

    def interrupt(self, told):
        epoch(self, told)
        if told.phase == phase and told.epoch == (100 if phase == "pretrain" else 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Lines, "epoch", interrupt)
        result = run(*common, "--out", stopped)
    assert result.exit_code == 130, result.output
    assert "stopped" in result.stderr
    assert [p.name for p in stopped.iterdir()] == ["checkpoint.safetensors"]

    again = run(*common, "--out", stopped)
    assert again.exit_code == 2
    assert "holds an unfinished run; add --resume" in flat(again.stderr)
    other = run(*common, "--lr", 0.5, "--out", stopped, "--resume")
    assert other.exit_code == 2
    assert "another run" in flat(other.stderr)

    words = shlex.split(result.stderr.splitlines()[-1])
    assert words[0] == "dsclust"
    resumed = run(*words[1:])  # the very command that was printed
    assert resumed.exit_code == 0, resumed.output
    assert not (stopped / "checkpoint.safetensors").exists()
    with np.load(tmp_path / "whole" / "coefficients.npz") as a, np.load(stopped / "coefficients.npz") as b:
        np.testing.assert_array_equal(a["coefficients"], b["coefficients"])
    assert read_labels(tmp_path / "whole") == read_labels(stopped)

    done = run(*words[1:])
    assert done.exit_code == 0
    assert "complete, nothing to resume" in flat(done.stderr)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_real_signal_saves_and_exits_130(images, tmp_path, name):
    out = tmp_path / "run"
    source = os.pathsep.join([os.path.dirname(os.path.dirname(dsclust.__file__)), *filter(None, sys.path)])
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dsclust", "fit", "--data", images, *BDSC, "--out", out),
            *("--epochs", "1000000", "--pretrain-steps", "20", "--threads", "1"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"},
    )
    try:
        for line in process.stderr:
            if line.startswith("training 1/"):
                process.send_signal(signal.Signals[name])
                break
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 130, rest
    finally:
        process.kill()
    assert "--resume" in rest
    assert "Traceback" not in rest
    assert (out / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "nowhere.npz"], "'nowhere.npz', which does not exist"),
        (["--data", "DATA", "-k", "37"], "n_clusters: expected at most .*n_samples=36, got 37"),
        (["--data", "DATA", "--preset", "orl"], r"preset orl: expected .*\(1, 32, 32\)"),
        (["--data", "DATA", "--image-shape", "8by8"], "--image-shape: expected HxW or C,H,W, got '8by8'"),
        (["--data", "DATA", "--pixel-range", "9,3"], "--pixel-range: expected LOW,HIGH"),
        (["--data", "DATA", "--resize", "8x8"], "only a folder of images"),
        (["--data", "DATA", "--resume"], "--resume: expected --out"),
        (["--data", "DATA", "--resume", "--out", "none"], "--resume: none holds no unfinished run"),
        (["--data", "DATA", "--out", "full"], "--out: full is not empty"),
        (["--data", "DATA", "--out", "full/file"], "--out: expected a directory, got the file"),
        (["--data", "DATA", "--device", "abacus"], "device: expected 'cpu', 'cuda' or 'cuda:N', got 'abacus'"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(images, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    result = run("fit", *[str(images) if a == "DATA" else a for a in arguments], *BDSC, *QUICK)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert re.search(text, errors[0])
    assert result.stderr.splitlines()[-1] == errors[0]
    assert (tmp_path / "full" / "file").read_text() == "x"


def test_memory_refusal_is_one_line(images, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda place: 10)
    result = run("fit", "--data", images, "--out", tmp_path / "run", *BDSC, *QUICK)
    assert result.exit_code == 2
    assert "error: BDSC: labels: 36 samples need about" in flat(result.stderr)


def test_presets_lists_them_all():
    result = run("presets")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in words(PresetName))


def test_words_are_checked_before_anything_loads():
    for option, word in (
        ("--preset", "orl"),
        ("--affinity", "post"),
        ("--assign-labels", "kmeans"),
        ("--color", "rgb"),
    ):
        refused = run("fit", "--data", "digits", option, "nonsense")
        assert refused.exit_code == 2
        assert word in refused.stderr
    refused = run("experiment", "nonsense", "--data", ".")
    assert refused.exit_code == 2
    assert all(name in flat(refused.stderr.replace("│", " ")) for name in words(ExperimentName))


def in_a_process(*arguments):
    source = os.pathsep.join(filter(None, sys.path))
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": source}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_version_and_help():
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"dsc-ext {dsclust.__version__}")
    assert run("fit", "--help").exit_code == 0


def test_the_package_runs_as_a_module():
    assert in_a_process("-m", "dsclust", "--version").stdout.strip() == f"dsc-ext {dsclust.__version__}"


def test_import_and_help_load_nothing_heavy():
    heavy = "print(*[m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert in_a_process("-c", f"import sys, dsclust, dsclust.cli; {heavy}").stdout.strip() == ""
    shown = in_a_process(
        "-c", f"import sys, dsclust.cli; dsclust.cli.app(['fit', '--help'], standalone_mode=False); {heavy}"
    )
    assert "--method" in shown.stdout
    assert shown.stdout.splitlines()[-1] == ""


def test_with_no_other_word_a_closed_form_is_fitted(tmp_path, monkeypatch):
    out = tmp_path / "run"
    result = run("fit", "--data", "digits", "--out", out)
    assert result.exit_code == 0, result.output
    assert "method ridge, features raw" in result.stderr
    assert re.search(r"stability 0\.\d\d of 1", result.stdout)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["acc"] > 0.92
    assert 0 < metrics["diagnostics"]["normalized_cut"] < 1
    assert [b["method"] for b in metrics["baselines"]] == ["k-means", "k-means, unit rows", "5-NN graph"]
    assert not (out / "plots" / "loss.png").exists()
    named = run("fit", "--data", "digits", "--out", tmp_path / "named", "--set", "gradient=detach", "--method", "auto")
    assert named.exit_code == 2
    assert "--set: expected none with --method auto" in named.stderr


def test_methods_are_those_of_the_package_and_listed_with_their_settings():
    assert sorted(METHODS) == list(method_names())
    assert all(method.name == name for name, method in METHODS.items())
    listed = run("methods")
    assert listed.exit_code == 0
    for name, method in METHODS.items():
        assert name in listed.stdout
        for field in dataclasses.fields(method):
            assert f"{field.name}=" in listed.stdout
    assert listed.stdout.index("ridge") < listed.stdout.index("bdsc")  # what needs no training first
    for parts in (CONSISTENCIES, BANK_ORDERS, PENALTIES):
        assert all(name in listed.stdout for name in parts)


def test_an_unknown_method_is_one_line_that_names_them_all(tmp_path):
    refused = run("fit", "--data", "digits", "--method", "nonsense", "--out", tmp_path / "x")
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    known = ", ".join(("auto", *METHODS))
    assert line == f"error: --method: expected one of {known}, got 'nonsense'"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", [["--epochs", 4], ["--batch-size", 9], ["--lr", 0.1], ["--preset", "digits"]])
def test_options_of_training_never_change_the_method(images, tmp_path, option):
    refused = run("fit", "--data", images, "--out", tmp_path / "run", *option)
    assert refused.exit_code == 2
    name = option[0].removeprefix("--").replace("-", "_")
    assert re.search(rf"error: .*\b{name}\b", refused.stderr.replace("batch-size", "batch_size"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_notes_and_phases_it_does_not_know(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with progress.display_for(console) as show:
        show.tell(Progress("choice", 1, 1, {}, "method ridge, features raw"))
        show.tell(Progress("packing", 1, 1, {}))
        show.tell(Progress("train", 1, 2, {"loss": 3.0}))
    shown = console.file.getvalue()
    assert "method ridge, features raw" in shown
    assert "choice" not in shown
    assert "packing" in shown
    assert "training" in shown


# Rows of C of networks that have learned nothing are alike to the last digit, and the nearest is anyone's.
# Pre-trained networks are no part of a plain installation.
OWN = {"senet": ["--epochs", 200, "--set", "width=64"], "clbdsc": ["--set", "backbone=none"]}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_a_model_that_labels_new_samples(images, tmp_path, method):
    out = tmp_path / "run"
    has = METHODS[method].training_options
    quick = [*(QUICK[:2] if "epochs" in has else []), *(QUICK[2:] if "pretrain_steps" in has else [])]
    options = [*quick, *OWN.get(method, [])]
    result = run("fit", "--data", images, "--method", method, "--out", out, "--no-baselines", *options)
    assert result.exit_code == 0, result.output
    assert METHODS[method].title in result.stdout
    assert json.loads((out / "config.json").read_text())["training"]["method"]["name"] == method
    again = run("predict", out, images, "--out", tmp_path / "again" / "labels.csv")
    assert again.exit_code == 0, again.output
    assert "ACC" in again.stdout
    assert read_labels(tmp_path / "again") == read_labels(out)
    with np.load(images) as file:
        np.save(tmp_path / "three.npy", file["images"][:3])
    few = run("predict", out, tmp_path / "three.npy", "--out", tmp_path / "few" / "labels.csv")
    assert few.exit_code == 0, few.output
    assert "ACC" not in few.stdout  # no labels to compare with
    assert read_labels(tmp_path / "few") == read_labels(out)[:3]


def test_predict_refuses_what_it_cannot_do(images, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    empty = run("predict", out, images, "--out", tmp_path / "labels.csv")
    assert empty.exit_code == 2
    assert "holds no model.safetensors" in flat(empty.stderr)
    assert not (tmp_path / "labels.csv").exists()
    taken = run("predict", out, images, "--out", images)
    assert taken.exit_code == 2
    assert "exists already" in flat(taken.stderr)


@pytest.mark.parametrize(
    ("method", "setting", "text"),
    [
        ("sscn", "gradient=detach", "--set: expected a setting of sscn (none) as NAME=VALUE, got 'gradient=detach'"),
        ("bdsc", "gradient", "BDSC: gradient: expected one of splice, detach, detach+ae, got ''"),
        (
            "bdsc",
            "consistency=hope",
            "BDSC: consistency: expected one of lr, momentum, ema, refresh, fresh, exact, none",
        ),
        ("bdsc", "consistency=refresh:every=often", "consistency: refresh: every: expected an integer, got 'often'"),
        ("bdsc", "network_rate=often", "--set: network_rate: expected a number, got 'often'"),
        ("dscnet", "penalty=l0", "DSC-Net: penalty: expected one of l2, l1, got 'l0'"),
        ("bdsc", "zero_diagonal=1", "--set: zero_diagonal: expected true or false, got '1'"),
    ],
)
def test_settings_a_method_does_not_have_are_refused(images, tmp_path, method, setting, text):
    refused = run("fit", "--data", images, "--method", method, "--set", setting, "--out", tmp_path / "x", *QUICK)
    assert refused.exit_code == 2
    assert text in flat(refused.stderr)
    assert not (tmp_path / "x").exists()


def test_an_experiment_that_is_stopped_says_the_whole_command(tmp_path, monkeypatch):
    def stop(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("dsclust.experiments.runner.run_experiment", stop)
    options = ["--data", tmp_path / "my data", "--out", tmp_path, "--seeds", 2, "--threads", 3]  # as they are declared
    result = run("experiment", "table1", *options)
    assert result.exit_code == 130
    assert shlex.split(result.stderr.splitlines()[-1]) == ["dsclust", "experiment", "table1", *map(str, options)]
