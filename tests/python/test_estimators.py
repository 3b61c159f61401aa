"""The estimator: scikit-learn's own checks, images and presets, repeatability, memory and errors."""

import dsclust.memory as memory
import dsclust.pipeline as pipeline
import numpy as np
import pytest
import torch
from dsclust import (
    BDSC,
    CLBDSC,
    SSCN,
    AutoSubspaceClustering,
    DSCNet,
    EnergySubspaceClustering,
    Predictor,
    RidgeSubspaceClustering,
    SENet,
    SparseSubspaceClustering,
)
from dsclust.data import load
from dsclust.memory import Sizes, required_bytes
from dsclust.methods.bdsc import BDSCMethod
from dsclust.methods.dscnet import DSCNetMethod
from dsclust.metrics import clustering_accuracy
from dsclust.parts.vote import CoefficientVote
from dsclust.pipeline import cluster
from dsclust.presets import PRESETS, get_preset
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

QUICK = {"epochs": 3, "pretrain_steps": 20, "random_state": 0}


@parametrize_with_checks(
    [
        BDSC(epochs=60, pretrain_steps=100),
        BDSC(affinity="post", batch_size=7, epochs=3, pretrain_steps=20, gradient="detach+ae", consistency="momentum"),
        DSCNet(affinity="post", batch_size=7, epochs=3, pretrain_steps=20, penalty="l1"),
        SSCN(epochs=20, pretrain_steps=40),
        CLBDSC(),
        EnergySubspaceClustering(epochs=20, pretrain_steps=40),
        SENet(width=16, n_steps=100),
        RidgeSubspaceClustering(),
        AutoSubspaceClustering(),
        SparseSubspaceClustering(),
    ],
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def subspaces(n_clusters=3, per_cluster=60, dim=4, ambient=60, seed=0):
    rng = np.random.default_rng(seed)
    X = np.concatenate(
        [rng.standard_normal((per_cluster, dim)) @ rng.standard_normal((dim, ambient)) for _ in range(n_clusters)]
    )
    order = rng.permutation(len(X))
    return X[order], np.repeat(np.arange(n_clusters), per_cluster)[order]


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:60]


@pytest.mark.parametrize("batch_size", [None, 90])
def test_a_union_of_subspaces_is_clustered_where_kmeans_is_not(batch_size):
    from sklearn.cluster import KMeans

    X, y = subspaces()
    model = BDSC(3, batch_size=batch_size, random_state=0)
    assert clustering_accuracy(y, model.fit_predict(X)) > 0.95
    assert clustering_accuracy(y, KMeans(3, n_init=10, random_state=0).fit_predict(X)) < 0.7


def test_attributes(digits):
    model = BDSC(4, **QUICK).fit(digits)
    assert model.labels_.shape == (60,)
    assert model.labels_.dtype == np.int64
    assert set(model.labels_) <= set(range(4))
    assert model.affinity_matrix_.shape == model.coefficients_.shape == (60, 60)
    assert model.coefficients_.dtype == np.float32
    assert model.n_features_in_ == 64
    assert model.n_iter_ == len(model.history_) == 3
    assert {"epoch", "loss", "reconstruction", "self_expression"} <= set(model.history_[0])


@pytest.mark.parametrize("batch_size", [None, 25])
def test_an_integer_random_state_repeats_bit_by_bit(digits, batch_size):
    a = BDSC(4, batch_size=batch_size, **QUICK).fit(digits)
    b = clone(a).fit(digits)
    c = clone(a).set_params(random_state=1).fit(digits)
    np.testing.assert_array_equal(a.coefficients_, b.coefficients_)
    np.testing.assert_array_equal(a.labels_, b.labels_)
    assert (a.coefficients_ != c.coefficients_).any()


def test_images_by_dimensions_by_shape_and_by_preset_are_one(digits):
    flat = digits.reshape(60, -1)
    by_dimensions = BDSC(4, **QUICK).fit(digits)
    by_shape = BDSC(4, image_shape=(8, 8), **QUICK).fit(flat)
    with_channel = BDSC(4, image_shape=(1, 8, 8), **QUICK).fit(flat)
    features = BDSC(4, **QUICK).fit(flat)
    np.testing.assert_array_equal(by_dimensions.coefficients_, by_shape.coefficients_)
    np.testing.assert_array_equal(by_dimensions.coefficients_, with_channel.coefficients_)
    assert (features.coefficients_ != by_shape.coefficients_).any()
    preset = BDSC(4, preset="digits", pixel_range=(0, 16), **QUICK)
    np.testing.assert_array_equal(preset.fit(flat).labels_, preset.fit(digits).labels_)


def test_the_estimator_runs_what_the_command_line_runs(digits):
    model = BDSC(4, preset="digits", pixel_range=(0, 16), batch_size=20, **QUICK).fit(digits)
    result = cluster(
        load(digits, pixel_range=(0, 16)),
        4,
        "bdsc",
        preset="digits",
        batch_size=20,
        epochs=3,
        pretrain_steps=20,
        seed=0,
    )
    np.testing.assert_array_equal(model.coefficients_, result.coefficients)
    np.testing.assert_array_equal(model.labels_, result.labels)


def test_settings_left_open_are_the_presets(digits):
    data = load(digits, pixel_range=(0, 16))
    preset = get_preset("digits", 4)
    result = cluster(data, 4, "bdsc", preset=preset, epochs=1, pretrain_steps=5, power=2.0, lr=5e-4)
    assert result.label_config.graph.power == 2.0
    assert result.label_config.graph.affinity == preset.graph.affinity
    assert result.label_config.graph.threshold == preset.graph.threshold
    assert result.train_config.preset.lr == 5e-4
    assert result.train_config.preset.channels == preset.channels
    assert result.train_config.pretraining.max_steps == 5


def test_last_step_of_a_pipeline():
    X, _ = subspaces()
    labels = make_pipeline(MinMaxScaler(), BDSC(3, **QUICK)).fit_predict(X)
    assert labels.shape == (180,)


def test_fifo_visits_in_order_and_runs(digits):
    model = BDSC(4, bank="fifo", batch_size=20, **QUICK).fit(digits)
    assert model.labels_.shape == (60,)


def test_verbose_prints_progress(digits, capsys):
    BDSC(4, verbose=1, **QUICK).fit(digits)
    out = capsys.readouterr().out
    assert "[BDSC] train 3/3" in out
    assert "loss" in out


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"n_clusters": 61}, ValueError, "n_clusters: expected at most .*n_samples=60, got 61"),
        ({"n_clusters": 0}, ValueError, "n_clusters: expected at least 1, got 0"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters: expected an integer, got 2.5"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"epochs": -1}, ValueError, "epochs: expected at least 1, got -1"),
        ({"lr": 0.0}, ValueError, "lr: expected a finite number > 0, got 0.0"),
        ({"affinity": "rbf"}, ValueError, "affinity: expected one of post, plain, sparse, neighbors, got 'rbf'"),
        ({"assign_labels": "x"}, ValueError, "assign_labels: expected one of kmeans, "),
        ({"gradient": "x"}, ValueError, "gradient: expected one of splice, detach, "),
        ({"consistency": "x"}, ValueError, "consistency: expected one of lr, momentum, "),
        ({"bank": "lifo"}, ValueError, "expected one of index, fifo, got 'lifo'"),
        ({"preset": "cifar"}, ValueError, "expected one of orl, .* got 'cifar'"),
        ({"preset": "orl"}, ValueError, r"preset orl: expected .*\(1, 32, 32\)"),
        ({"image_shape": (5, 5)}, ValueError, "image_shape"),
        ({"device": "tpu"}, ValueError, "device: expected 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
    ],
)
def test_bad_settings_are_refused_by_name(digits, settings, error, text):
    with pytest.raises(error, match=text):
        BDSC(**{"n_clusters": 4, **QUICK, **settings}).fit(digits)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_are_accepted_by_the_estimator(name):
    assert clone(BDSC(preset=name)).get_params()["preset"] == name


def test_what_cannot_fit_is_refused_before_any_work(digits, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda place: 1000)
    monkeypatch.setattr(pipeline, "fit", lambda *a, **k: pytest.fail("training was started"))
    with pytest.raises(MemoryError, match=r"60 samples need about .* Alternatives: "):
        BDSC(4, **QUICK).fit(digits)


def test_required_bytes_follow_the_formula():
    n, bdsc = 20_000, BDSCMethod()
    assert required_bytes(Sizes(n, 100, bdsc, "post")) == required_bytes(Sizes(n, None, bdsc, "post")) == 32 * n**2
    assert required_bytes(Sizes(n, None, bdsc, "plain")) == 28 * n**2
    assert required_bytes(Sizes(n, None, bdsc, "plain", itemsize=8)) == 32 * n**2
    assert required_bytes(Sizes(n, 100, bdsc, "sparse")) == 12 * n**2
    assert required_bytes(Sizes(4000, None, bdsc, "post")) == 60 * 4000**2
    for method in (bdsc, DSCNetMethod(), BDSCMethod(consistency="exact")):
        assert method.training_words(n, n) == method.training_words(n, 100) == 3 * n**2


def test_a_refusal_names_what_would_fit(monkeypatch):
    n = 50_000
    data = load(np.lib.stride_tricks.as_strided(np.zeros(4, dtype=np.float32), (n, 4), (0, 4)))
    monkeypatch.setattr(memory, "available_bytes", lambda place: 8 * 2**30)
    with pytest.raises(MemoryError) as refused:
        cluster(data, 10, "bdsc", affinity="post")
    text = str(refused.value)
    assert "50000 samples need about 74.5 GiB of host memory" in text  # 32 N²
    assert "8.0 GiB are free" in text
    assert "affinity 'plain' (65.2 GiB)" in text
    assert "method ridge (" in text

    def bytes_of(n: int) -> int:
        return required_bytes(Sizes(n, None, BDSCMethod(), "post"))

    fitting = int(text.split("fit up to ")[1].split()[0])
    assert bytes_of(fitting) <= 8 * 2**30 < bytes_of(int(fitting * 1.02))
    monkeypatch.setattr(memory, "available_bytes", lambda place: 100)
    with pytest.raises(MemoryError, match="Alternatives: method ridge") as refused:
        cluster(data, 10, "bdsc")
    assert "fit up to" not in str(refused.value)


@pytest.mark.parametrize(
    "estimator",
    [
        *(e(3, random_state=0) for e in (BDSC, DSCNet, CLBDSC, SSCN)),
        SENet(3, width=64, n_steps=200, random_state=0),
    ],
)
def test_new_samples_are_labeled_the_model_is_kept_and_bases_span_their_clusters(estimator, tmp_path):
    X, y = subspaces(per_cluster=90)
    model = estimator.fit(X[:200])
    inside = clustering_accuracy(y[:200], model.labels_)
    assert inside > 0.9
    found = model.predict(X[200:])
    assert clustering_accuracy(np.r_[y[:200], y[200:]], np.r_[model.labels_, found]) > inside - 0.05
    assert (model.predict(X[:200]) == model.labels_).mean() > 0.95
    np.testing.assert_array_equal(model.predict(X[200:201]), found[:1])  # alone as among others
    model.predictor_.save(tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model")
    assert type(loaded.method) is type(model._method())
    np.testing.assert_array_equal(loaded.predict(np.asarray(X[200:], dtype=np.float32)), found)

    latent = model.transform(X[:200])
    for k, basis in enumerate(model.subspace_bases_):
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
        rows = latent[model.labels_ == k]
        assert np.linalg.norm(rows @ basis.T @ basis) <= np.linalg.norm(rows) * (1 + 1e-6)


def test_the_vote_of_coefficients_is_ridge_against_the_fitted_rows():
    rng = torch.Generator().manual_seed(0)
    for n, h in ((30, 7), (7, 30)):
        latent = torch.randn(n, h, generator=rng, dtype=torch.float64)
        labels = torch.arange(n) % 3
        vote = CoefficientVote.fit(latent, labels, 3)
        new = torch.randn(4, h, generator=rng, dtype=torch.float64)
        unit = latent / latent.norm(dim=1, keepdim=True)
        Z = unit - unit.mean(0)
        Z = Z / Z.norm(dim=1, keepdim=True)
        z = new / new.norm(dim=1, keepdim=True) - unit.mean(0)
        z = z / z.norm(dim=1, keepdim=True)
        c = z @ Z.T @ torch.linalg.inv(Z @ Z.T + n / 3 * torch.eye(n, dtype=torch.float64))
        fifth = c.sort(descending=True).values[:, 4:5]
        kept = torch.where(c >= fifth, c, 0.0).clamp_min(0.0)
        expected = torch.stack([kept[:, labels == k].sum(1) for k in range(3)], dim=1)
        torch.testing.assert_close(vote(new), expected)
