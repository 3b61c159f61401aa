"""The registry: a method is one file, and every face finds it by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import dsclust.cli as cli
import numpy as np
import pytest
import torch
from dsclust import Predictor, cluster, load
from dsclust.estimators import estimator_for
from dsclust.methods import METHODS, register_method
from dsclust.names import method_names
from dsclust.parts.closed_form import CenteredForm, CenteredRows
from dsclust.parts.method import AutoencoderMethod, ClosedFormMethod
from sklearn.base import clone
from sklearn.datasets import load_digits
from typer.testing import CliRunner


@pytest.fixture
def toy():
    """A whole method: its settings, its model, its place in the registry, and nothing anywhere else."""

    @register_method
    @dataclass(frozen=True)
    class ToyMethod(ClosedFormMethod):
        name: ClassVar[str] = "toy"
        title: ClassVar[str] = "Toy"
        summary: ClassVar[str] = "cosines to a power"
        power: int = 3

        def model(self, problem, pretrained, generator):
            return ToyModel(int(np.prod(problem.sample_shape)), self.power)

        def encoder(self, preset, sample_shape):
            return CenteredRows(int(np.prod(sample_shape)))

    class ToyModel(CenteredForm):
        def __init__(self, features: int, power: int) -> None:
            super().__init__(features)
            self.power = power

        def coefficients(self, latent: torch.Tensor) -> torch.Tensor:
            return (latent @ latent.T).clamp_min(0.0).pow(self.power).fill_diagonal_(0.0)

    yield ToyMethod
    del METHODS._kinds["toy"]


def test_every_file_is_a_method_of_its_name():
    assert method_names() == tuple(sorted(METHODS))
    for name in method_names():
        kind = METHODS[name]
        assert kind.name == name and kind.__module__ == f"dsclust.methods.{name}"
        assert kind.title and kind.summary and kind() == kind()
    with pytest.raises(KeyError):
        METHODS["nobody"]


def test_a_new_method_is_on_every_face_by_itself(toy, tmp_path):
    data = load("digits")
    by_name, by_settings = cluster(data, 10, "toy", affinity="sparse"), cluster(data, 10, toy(power=5))
    assert by_name.choice.method == toy() and by_settings.choice.method == toy(power=5)
    assert len(np.unique(by_name.labels)) == 10
    model = estimator_for(toy)(10, power=5, affinity="plain", random_state=0)
    assert clone(model).get_params() == model.get_params()
    assert model.fit(data.X).predictor_.method == toy(power=5)
    out = tmp_path / "run"
    arguments = ["fit", "--data", "digits", "--method", "toy", "--set", "power=2", "--no-baselines", "--out", str(out)]
    ran = CliRunner().invoke(cli.app, arguments)
    assert ran.exit_code == 0, ran.output
    assert Predictor.load(out / "model.safetensors").method == toy(power=2)
    assert "cosines to a power" in CliRunner().invoke(cli.app, ["methods"], env={"COLUMNS": "200"}).output


def test_a_name_is_taken_once(toy):
    with pytest.raises(ValueError, match="'ridge' is taken"):

        @register_method
        @dataclass(frozen=True)
        class Other(toy):
            name: ClassVar[str] = "ridge"


@pytest.mark.parametrize("option", ["preset", "batch_size", "epochs", "lr", "pretrain_steps", "autoencoder"])
def test_an_option_of_training_is_refused_by_methods_without_it(option):
    data = load(load_digits().images[:40])
    value = "digits" if option == "preset" else 1
    having = [name for name, kind in METHODS.items() if option in kind.training_options]
    assert ("bdsc" in having) and ("ridge" not in having)
    names = ", ".join(having)
    for method in ("auto", *METHODS):
        if method in having:
            continue
        with pytest.raises(ValueError, match=rf": {option}: expected none, .*: {names}$"):
            cluster(data, 4, method, **{option: value})
    for name, kind in METHODS.items():
        wanted = name in having and issubclass(kind, AutoencoderMethod)
        assert wanted or option not in ("pretrain_steps", "autoencoder") or name not in having


@pytest.mark.parametrize("option", ["threshold", "power", "unit_diagonal"])
def test_a_setting_of_the_post_processing_is_refused_by_other_graphs(option):
    data = load(load_digits().images[:40])
    with pytest.raises(ValueError, match=rf"Ridge: {option}: expected none with affinity 'sparse'.*'post' has it"):
        cluster(data, 4, "ridge", **{option: 0.5})


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match=r"cluster: method: expected one of auto, .*ridge.*, got 'kmeans'"):
        cluster(load("digits"), 10, "kmeans")


def test_the_seconds_count_all_of_it(monkeypatch):
    import time

    start = time.perf_counter()
    result = cluster(load("digits"), 10)
    whole = time.perf_counter() - start
    assert list(result.seconds) == ["choice", "features", "training", "affinity", "labels"]
    assert whole - 0.2 < sum(result.seconds.values()) <= whole
    assert result.choice.method.name == "ridge"


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_closed_forms_see_no_scale(scale):
    X = load_digits().data[:300].astype(np.float32)
    plain, scaled = cluster(load(X), 10, "ridge"), cluster(load(X * np.float32(scale)), 10, "ridge")
    np.testing.assert_array_equal(plain.labels, scaled.labels)
    np.testing.assert_array_equal(plain.predictor.predict(X), scaled.predictor.predict(X * np.float32(scale)))


def test_samples_come_from_a_memory_map_and_from_anything_that_reads(tmp_path):
    X = load_digits().data[:200]
    np.save(tmp_path / "x.npy", X.astype(np.uint8))
    mapped = load(tmp_path / "x.npy")
    assert isinstance(mapped.samples.array, np.memmap) and mapped.samples.dtype == np.uint8

    class Parts:
        n, shape, dtype = 200, (200, 64), np.dtype(np.float32)

        def read(self, lo: int, hi: int) -> np.ndarray:
            return np.ascontiguousarray(X[lo:hi], dtype=np.float32)

    expected = cluster(load(X), 10).labels
    np.testing.assert_array_equal(cluster(mapped, 10).labels, expected)
    from dsclust import Dataset

    np.testing.assert_array_equal(cluster(Dataset(Parts(), None, "parts", None), 10).labels, expected)
