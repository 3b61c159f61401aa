"""Features: what they are, that new samples get the same ones, the cache, and the way through a run."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import types

import dsclust.cli as cli
import dsclust.features.cache as kept
import dsclust.features.components as components
import dsclust.memory as memory
import numpy as np
import pytest
import scipy.special
import torch
from dsclust import BDSC, FeatureConfig, Predictor, cluster, fit_features
from dsclust.data import Dataset, load
from dsclust.features.backbones import MissingExtraError
from dsclust.features.map import FeatureMap
from dsclust.features.scattering import scattering_size
from dsclust.files import write_tensors
from dsclust.methods.sscn import SSCNMethod
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.base import clone
from torch import nn
from typer.testing import CliRunner

QUICK = {"epochs": 3, "pretrain_steps": 20}


def rows_of(X, name="rows"):
    return load(np.asarray(X, np.float32), name=name)


@pytest.fixture
def digits():
    """Two chunks of images and a part of one."""
    return dataclasses.replace(load("digits"), samples=load("digits").X[:300], labels=load("digits").labels[:300])


@pytest.fixture
def fake_timm(monkeypatch):
    """A module in timm's place; how often its networks ran."""
    ran = []

    class Net(nn.Sequential):
        def forward(self, x):
            ran.append(len(x))
            return super().forward(x)

    def create_model(name, pretrained, num_classes):
        net = Net(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        if pretrained:
            for i, tensor in enumerate(net.state_dict().values()):
                tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i + len(name))).abs())
        net.num_features = 20
        net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        return net

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    return ran


@pytest.fixture
def no_kymatio(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "kymatio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kymatio", None)


# -- configuration --


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ({"kind": "sift"}, ValueError, "features: expected 'raw', 'scattering'"),
        ({"kind": "timm:"}, ValueError, "features: expected 'raw', 'scattering'"),
        ({"pca": 0}, ValueError, "pca: expected at least 1, got 0"),
        ({"pca": 2.0}, TypeError, "pca: expected an integer or None, got 2.0"),
        ({"pca": True}, TypeError, "pca: expected an integer"),
        ({"resize": "8x8"}, ValueError, "resize: expected 'auto', for raw samples"),
        ({"kind": "scattering", "resize": "8.5"}, ValueError, "resize: expected 'auto', a whole factor or HxW"),
        ({"per_image": True}, ValueError, "per_image: expected False, for 'raw' has no paths"),
        ({"kind": "scattering", "weights": "a.pt"}, ValueError, "weights: 'scattering' has none"),
    ],
)
def test_impossible_settings_are_refused(given_, error, message):
    with pytest.raises(error, match=message):
        FeatureConfig(**given_)


def test_a_representation_is_a_name_or_a_config(digits):
    with pytest.raises(TypeError, match="features: expected a name or a FeatureConfig, got 3"):
        fit_features(digits, 3)
    for nothing in (None, "raw", FeatureConfig()):
        assert fit_features(digits, nothing)[0] is digits


def test_rows_have_no_features_of_images():
    with pytest.raises(ValueError, match=r"features 'scattering': expected images, got samples of shape \(4,\)"):
        fit_features(rows_of(np.eye(4)), "scattering")


def test_a_network_has_to_know_the_scale(fake_timm, digits):
    with pytest.raises(ValueError, match="pixel_range: the network has to know the scale"):
        fit_features(dataclasses.replace(digits, pixel_range=None), "timm:net")
    with pytest.raises(ValueError, match=r"pixel_range: got \(0, 1\), but values reach from 0 to 16"):
        fit_features(dataclasses.replace(digits, pixel_range=(0, 1)), "timm:net")


# -- centering, components, unit length --


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 10**6), st.integers(1, 10))
def test_components_are_those_of_the_svd(n, f, center, unit, seed, rank):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, min(rank, f))) @ rng.standard_normal((min(rank, f), f)) + rng.standard_normal(f)
    data = rows_of(X)
    count = int(rng.integers(1, min(n, f) + 1))
    found, fitted = fit_features(data, FeatureConfig(pca=count, center=center, unit=unit))
    exact = data.X.astype(np.float64)
    exact -= exact.mean(axis=0) if center else 0.0
    # The Gram matrix of the best approximation of this rank: no sign, and no choice among equal values, is in it.
    U, S, V = np.linalg.svd(exact, full_matrices=False)
    gram = (U[:, :count] * S[:count] ** 2) @ U[:, :count].T
    gap = S[count - 1] - (S[count] if count < len(S) else 0.0)
    if gap > 1e-3 * S[0] and not unit:
        np.testing.assert_allclose(found.X @ found.X.T, gram, atol=3e-5 * S[0] ** 2)
    if unit:
        lengths = np.linalg.norm(found.X, axis=1)
        assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    V = fitted.components.numpy()
    kept = np.abs(V).max(axis=0) > 0
    np.testing.assert_allclose(V[:, kept].T @ V[:, kept], np.eye(kept.sum()), atol=1e-4)
    peak = np.abs(V).argmax(axis=0)
    assert np.all(V[peak, np.arange(count)] >= 0)
    np.testing.assert_array_equal(fitted.transform(data.X), found.X)


@pytest.mark.parametrize("shape", [(700, 30), (30, 700)])
def test_blocks_and_a_file_change_nothing(monkeypatch, shape, tmp_path):
    data = rows_of(np.random.default_rng(0).standard_normal(shape) + 1)
    config = FeatureConfig(pca=12, center=True, unit=True)
    whole, _ = fit_features(data, config)
    monkeypatch.setattr(components, "BLOCK", 64 * shape[1] // 7)
    monkeypatch.setattr(components, "IN_MEMORY", 1000)
    parts, _ = fit_features(data, config, cache=tmp_path)
    np.testing.assert_allclose(parts.X, whole.X, atol=1e-5)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]  # the file of waiting rows is gone


def test_constant_and_zero_rows():
    same, fitted = fit_features(rows_of(np.full((5, 4), 3.0)), FeatureConfig(pca=3, center=True, unit=True))
    assert not same.X.any() and not fitted.components.any()
    for scale in (1.0, 1e-30, 1e30):
        zero, _ = fit_features(rows_of(np.eye(4)[:, :3] * scale), FeatureConfig(unit=True))
        np.testing.assert_array_equal(zero.X, np.eye(4)[:, :3])


def test_more_components_than_there_are(digits):
    with pytest.raises(
        ValueError, match="pca: expected at most 64, the smaller of 300 samples and 64 features, got 65"
    ):
        fit_features(digits, FeatureConfig(pca=65))
    with pytest.raises(ValueError, match="pca: expected at most 20, the smaller of 20 samples"):
        fit_features(rows_of(digits.X[:20].reshape(20, -1)), FeatureConfig(pca=21))


def test_what_belongs_to_the_samples_stays(digits):
    named = dataclasses.replace(digits, files=tuple(map(str, range(300))))
    found, _ = fit_features(named, FeatureConfig(center=True))
    assert (found.name, found.files, found.pixel_range) == ("digits", named.files, None)
    np.testing.assert_array_equal(found.labels, digits.labels)
    assert found.X.shape == (300, 64) and found.X.dtype == np.float32
    np.testing.assert_allclose(found.X.mean(axis=0), 0.0, atol=1e-5)


# -- networks --


def test_a_frozen_network_and_new_samples(fake_timm, digits):
    found, fitted = fit_features(digits, FeatureConfig("timm:net", pca=6, center=True, unit=True))
    assert found.X.shape == (300, 6)
    np.testing.assert_array_equal(fitted.transform(digits.X), found.X)
    np.testing.assert_allclose(fitted.transform(digits.X[100:103]), found.X[100:103], atol=1e-5)
    np.testing.assert_allclose(fitted.transform(digits.X[::-1].astype(np.float64))[::-1], found.X, atol=1e-5)
    assert fitted.transform(digits.X[:0]).shape == (0, 6)
    with pytest.raises(ValueError, match=r"expected samples of shape \(1, 8, 8\), got \(64,\)"):
        fitted.transform(digits.X.reshape(300, 64))
    again = FeatureMap(fitted.config, fitted.sample_shape, fitted.pixel_range, pretrained=False)
    again.load_state_dict(fitted.state_dict())
    np.testing.assert_array_equal(again.transform(digits.X), found.X)


def test_progress_counts_samples_and_its_errors_end_the_work(digits, tmp_path):
    seen = []
    fit_features(digits, FeatureConfig(pca=3), callback=seen.append)
    assert [(p.phase, p.epoch, p.epochs, dict(p.metrics)) for p in seen] == [
        ("features", 128, 300, {}), ("features", 256, 300, {}), ("features", 300, 300, {}),
    ]  # fmt: skip

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_features(digits, FeatureConfig(pca=3), cache=tmp_path, callback=stop)
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_refused(digits, monkeypatch):
    monkeypatch.setattr(FeatureMap, "_embedded", lambda self, x: torch.full((len(x), 64), float("nan")))
    with pytest.raises(ValueError, match="features 'raw': not finite, of samples 0 to 128"):
        fit_features(digits, FeatureConfig(unit=True))


# -- scattering --


@pytest.mark.parametrize(
    ("resize", "image", "expected"),
    [
        ("auto", (28, 28), (32, 32)),
        ("auto", (32, 32), (32, 32)),
        ("auto", (8, 5), (8, 8)),
        ("auto", (112, 92), (64, 56)),
        ("2", (28, 28), (56, 56)),
        ("30x20", (28, 28), (30, 20)),
    ],
)
def test_scattering_size(resize, image, expected):
    assert scattering_size(resize, image) == expected


def test_scattering_of_too_small_images():
    with pytest.raises(ValueError, match="scattering: resize: expected sides of at least 8 pixels, got 7x9"):
        scattering_size("7x9", (28, 28))


@pytest.fixture
def scattered():
    """Three random images, a black and a gray one, in color."""
    images = np.random.default_rng(0).random((5, 3, 12, 16)).astype(np.float32)
    images[3], images[4] = 0.0, 0.5
    return load(images, pixel_range=(0.0, 1.0))


def paths_of(found):
    """Peaks (n, colors, paths)."""
    assert found.X.shape == (5, 3 * 217 * 2 * 2) and np.isfinite(found.X).all()
    return np.abs(found.X.reshape(5, 3, 217, 4)).max(axis=3)


def test_paths_are_scaled_over_the_data(scattered):
    had = hasattr(scipy.special, "sph_harm")
    found, fitted = fit_features(scattered, "scattering")
    assert hasattr(scipy.special, "sph_harm") == had  # nothing is left in SciPy
    paths = paths_of(found)
    np.testing.assert_allclose(paths.max(axis=0), 1.0, rtol=1e-6)
    assert not paths[3].any()
    assert paths[4, :, 1:].max() < 1e-3 < paths[4, :, 0].min()  # no waves in a plain image
    np.testing.assert_array_equal(fitted.transform(scattered.X), found.X)
    np.testing.assert_allclose(fitted.transform(scattered.X[:1] / 3), found.X[:1] / 3, atol=1e-6)
    again = FeatureMap(fitted.config, fitted.sample_shape, fitted.pixel_range)
    again.load_state_dict(fitted.state_dict())
    np.testing.assert_array_equal(again.transform(scattered.X), found.X)


def test_paths_are_scaled_in_each_image(scattered):
    found, fitted = fit_features(scattered, FeatureConfig("scattering", per_image=True))
    paths = paths_of(found)
    np.testing.assert_allclose(paths[:3], 1.0, rtol=1e-6)
    assert not paths[3].any()
    np.testing.assert_allclose(paths[4], np.eye(217)[:1].repeat(3, axis=0), atol=1e-6)
    np.testing.assert_allclose(fitted.transform(scattered.X[:1] / 3), found.X[:1], atol=1e-4)


def test_paths_that_are_silent_in_all_the_data_are_zero(scattered):
    plain = dataclasses.replace(scattered, samples=scattered.X[[3, 4, 4]])
    found, _ = fit_features(plain, "scattering")
    np.testing.assert_allclose(found.X[1].reshape(3, 217, 4)[:, 0], 1.0, rtol=1e-5)
    assert not found.X.reshape(3, 3, 217, 4)[:, :, 1:].any()


def test_components_are_those_of_the_scaled_paths(scattered, monkeypatch):
    rows, _ = fit_features(scattered, FeatureConfig("scattering"))
    monkeypatch.setattr(components, "BLOCK", 2 * rows.X.shape[1])
    direct, _ = fit_features(rows, FeatureConfig(pca=3, center=True))
    found, _ = fit_features(scattered, FeatureConfig("scattering", pca=3, center=True))
    np.testing.assert_allclose(found.X, direct.X, atol=1e-4)


def test_a_shift_changes_scattering_far_less_than_another_image_does():
    smooth = np.cos(np.arange(16)[None] / 2 + np.arange(16)[:, None] / 3).astype(np.float32) + 1
    other = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    X = fit_features(
        load(np.stack([smooth, np.roll(smooth, 1, axis=1), other])), FeatureConfig("scattering", unit=True)
    )[0].X
    assert X[0] @ X[1] > 0.95 > X[0] @ X[2]


def test_scattering_without_kymatio(no_kymatio, digits):
    had = hasattr(scipy.special, "sph_harm")
    with pytest.raises(
        MissingExtraError, match=r"features 'scattering' need the package kymatio.*dsc-ext\[scattering\]"
    ):
        fit_features(digits, "scattering")
    assert hasattr(scipy.special, "sph_harm") == had


def test_scattering_of_handwriting_is_near_linear_in_its_classes(data_folder):
    """A fact about the features, by labels: 5 components of a class of MNIST reconstruct its own samples best."""
    with np.load(data_folder / "mnist.npz") as archive:
        data = load(archive["x_test"][:1000], labels=archive["y_test"][:1000])

    def accuracy(X):
        X = X.reshape(len(X), -1)
        left = []
        for digit in range(10):
            V = np.linalg.svd(X[:600][data.labels[:600] == digit], full_matrices=False)[2][:5]
            left.append(np.linalg.norm(X[600:] - X[600:] @ V.T @ V, axis=1))
        return float((np.argmin(left, axis=0) == data.labels[600:]).mean())

    raw, scattered = accuracy(data.X), accuracy(fit_features(data, "scattering")[0].X)
    assert scattered > raw + 0.02


# -- the cache --


def test_the_cache_is_found_by_what_decides_the_rows(fake_timm, digits, tmp_path):
    config = FeatureConfig("timm:net", pca=4, center=True)
    first, _ = fit_features(digits, config, cache=tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert len(list(folder.iterdir())) == 1
    fake_timm.clear()
    relabeled = dataclasses.replace(digits, labels=None, name="other")
    again, restored = fit_features(relabeled, config, cache=folder)
    assert not fake_timm  # the network did not run
    np.testing.assert_array_equal(again.X, first.X)
    np.testing.assert_array_equal(restored.transform(digits.X), first.X)
    assert again.name == "other" and again.labels is None

    changed = digits.X.copy()
    changed[-1, 0, 0, 0] += 1
    others = [
        (dataclasses.replace(digits, samples=changed), config),
        (dataclasses.replace(digits, pixel_range=(0, 20)), config),
        (digits, dataclasses.replace(config, center=False)),
        (digits, dataclasses.replace(config, kind="timm:other")),  # other weights
        (dataclasses.replace(digits, samples=digits.X.swapaxes(2, 3).copy()), config),
    ]
    for i, (data, other) in enumerate(others):
        fit_features(data, other, cache=folder)
        assert len(list(folder.iterdir())) == 2 + i


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "format"])
def test_a_broken_file_is_made_anew(digits, tmp_path, damage):
    config = FeatureConfig(pca=4)
    first, _ = fit_features(digits, config, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flipped":
        content[-1000] ^= 1
        path.write_bytes(content)
    elif damage == "foreign":
        path.write_bytes(b"something else")
    else:
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor("rows")
        write_tensors(path, {"rows": rows}, {"format": kept.FORMAT, "digest": ""})
    with pytest.warns(UserWarning, match="features are computed again"):
        again, _ = fit_features(digits, config, cache=tmp_path)
    np.testing.assert_array_equal(again.X, first.X)
    fit_features(digits, config, cache=tmp_path)  # without a warning: it was replaced


def test_a_cache_that_cannot_be_written_costs_a_warning(digits, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="features are not kept: .*file cannot be made"):
        assert fit_features(digits, FeatureConfig(pca=2), cache=tmp_path / "file")[0].X.shape == (300, 2)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(kept, "write_tensors", full)
    with pytest.warns(UserWarning, match="cannot be written .No space left"):
        fit_features(digits, FeatureConfig(pca=2), cache=tmp_path)


def test_raw_samples_are_not_kept(digits, tmp_path):
    fit_features(digits, FeatureConfig(center=True, unit=True), cache=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DSCLUST_FEATURE_CACHE", str(tmp_path))
    assert kept.default_cache() == tmp_path
    monkeypatch.setenv("DSCLUST_FEATURE_CACHE", "")
    assert kept.default_cache() is None
    monkeypatch.delenv("DSCLUST_FEATURE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.default_cache() == tmp_path / "dsclust" / "features"


# -- through a run --


def test_a_run_on_features_is_a_run_on_their_rows(digits, tmp_path):
    config = FeatureConfig(pca=10, unit=True)
    found = cluster(digits, 4, "bdsc", features=config, **QUICK)
    rows, _ = fit_features(digits, config)
    direct = cluster(rows, 4, "bdsc", **QUICK)
    np.testing.assert_array_equal(found.coefficients, direct.coefficients)
    np.testing.assert_array_equal(found.labels, direct.labels)
    np.testing.assert_array_equal(found.data.X, rows.X)
    assert found.feature_config == config and set(found.seconds) == {
        "choice",
        "features",
        "training",
        "affinity",
        "labels",
    }

    path = tmp_path / "model.safetensors"
    found.predictor.save(path)
    restored = Predictor.load(path)
    assert restored.sample_shape == (1, 8, 8) and restored.pixel_range == (0.0, 16.0)
    np.testing.assert_array_equal(restored.predict(digits.X), direct.predictor.predict(rows.X))
    np.testing.assert_array_equal(restored.transform(digits.X), direct.predictor.transform(rows.X))
    with pytest.raises(ValueError, match=r"predict: X: expected samples of shape \(1, 8, 8\), got \(10,\)"):
        restored.predict(rows.X)


def test_a_saved_model_holds_the_network(fake_timm, digits, tmp_path):
    found = cluster(digits, 4, SSCNMethod(), features=FeatureConfig("timm:net", pca=8), **QUICK)
    np.testing.assert_array_equal(found.predictor.predict(digits.X), found.labels)
    found.predictor.save(tmp_path / "model.safetensors")
    again = Predictor.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict(digits.X), found.labels)


def test_a_model_without_its_package_says_so(fake_timm, digits, tmp_path, monkeypatch):
    found = cluster(digits, 4, "bdsc", features="timm:net", **QUICK)
    found.predictor.save(tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="timm"):
        Predictor.load(tmp_path / "model.safetensors")


def test_estimators_take_features(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("DSCLUST_FEATURE_CACHE", str(tmp_path))
    model = BDSC(4, features=FeatureConfig(pca=6), random_state=0, **QUICK)
    X = digits.X[:, 0].astype(np.float64)
    labels = clone(model).fit_predict(X)
    assert len(list(tmp_path.iterdir())) == 1
    model.fit(X)
    np.testing.assert_array_equal(model.labels_, labels)
    assert model.predict(X[:7]).shape == (7,)
    assert model.n_features_in_ == 64
    with pytest.raises(ValueError, match="features: expected 'raw'"):
        clone(model).set_params(features="sift").fit(X)


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_on_the_command_line(fake_timm, no_kymatio, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("DSCLUST_FEATURE_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "data.npz", images=digits.X[:, 0], labels=digits.labels)
    np.save(tmp_path / "new.npy", digits.X[:9, 0])
    common = ["fit", "--data", tmp_path / "data.npz", "--pixel-range", "0,16", "--epochs", 3, "--pretrain-steps", 20]
    common += ["--method", "bdsc"]
    common += ["--features", "timm:net", "--feature-size", "16x16", "--pca", 7, "--center", "--unit", "--no-baselines"]

    def stop(progress):
        if progress.phase == "train":
            raise KeyboardInterrupt
        return "features" if progress.phase == "features" else "other", ""

    with monkeypatch.context() as patch:
        patch.setattr("dsclust.cli.progress.describe", stop)
        stopped = command(*common, "--out", tmp_path / "run")
    assert stopped.exit_code == 130, stopped.output
    assert "features 300/300" in stopped.stderr
    assert len(list((tmp_path / "cache").iterdir())) == 1
    fake_timm.clear()
    resumed = command(*shlex.split(stopped.stderr.splitlines()[-1])[1:])
    assert resumed.exit_code == 0, resumed.output
    assert not fake_timm and "features 300/300" not in resumed.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    wanted = FeatureConfig("timm:net", "16x16", pca=7, center=True, unit=True)
    assert config["features"] == dataclasses.asdict(wanted)
    assert config["data"]["sample_shape"] == [1, 8, 8]
    assert (tmp_path / "run" / "plots" / "clusters.png").is_file()  # of the images, not of their features

    predicted = command("predict", tmp_path / "run", tmp_path / "new.npy", "--out", tmp_path / "new.csv")
    assert predicted.exit_code == 0, predicted.output
    assert "9 labels" in predicted.stdout

    for wrong, text in (
        (["--features", "sift"], "features: expected 'raw', 'scattering'"),
        (["--features", "scattering"], "need the package kymatio"),
        (["--pca", 400], "pca: expected at most 64"),
    ):
        refused = command("fit", "--data", tmp_path / "data.npz", "--out", tmp_path / "no", *wrong)
        assert refused.exit_code == 2
        assert text in " ".join(refused.stderr.split())
    assert not (tmp_path / "no").exists()


def test_what_does_not_go_together_is_refused_before_the_work(digits, monkeypatch):
    monkeypatch.setattr(FeatureMap, "fit", lambda *_, **__: pytest.fail("features were computed"))
    with pytest.raises(ValueError, match="preset: 'digits' has a network for images, but features 'raw' are rows"):
        cluster(digits, 4, "bdsc", features=FeatureConfig(pca=5), preset="digits")
    with pytest.raises(ValueError, match="pca: expected at most 64"):
        cluster(digits, 4, "bdsc", features=FeatureConfig(pca=100))
    monkeypatch.setattr(memory, "available_bytes", lambda place: 10**5)
    with pytest.raises(MemoryError, match="features 'raw': 300 rows of 5 out of 64 numbers need about"):
        cluster(digits, 4, "bdsc", features=FeatureConfig(pca=5))


def test_predicted_memory_grows_with_the_rows_that_are_kept():
    def needed(n, **config):
        return FeatureMap(FeatureConfig(**config), (1, 28, 28), None).required_bytes(n)

    assert needed(10**5, unit=True) == 4 * 10**5 * 784 + 2**28
    assert needed(10**5, pca=100) < 2**29
    assert needed(10**5, pca=100) - needed(5 * 10**4, pca=100) <= 4 * 5 * 10**4 * 884


def test_a_dataset_is_what_comes_back(digits):
    assert isinstance(fit_features(digits, FeatureConfig(unit=True))[0], Dataset)
