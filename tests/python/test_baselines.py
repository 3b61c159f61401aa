"""Baselines: the ridge form against the constrained least squares it solves, the graphs against a
dense sort, and records of one shape."""

import dsclust.baselines as baselines
import dsclust.ridge as ridge
import numpy as np
import pytest
import torch
from dsclust.baselines import BASELINES, ridge_labels, run_baselines
from dsclust.metrics import clustering_accuracy
from dsclust.ridge import unit_rows


def blobs(seed=0, per_cluster=15, features=40):
    rng = np.random.default_rng(seed)
    centers = 3 * rng.standard_normal((4, features))
    y = np.repeat(np.arange(4), per_cluster)
    return centers[y] + 0.3 * rng.standard_normal((y.size, features)), y


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("features", [12, 200])  # both sides of the ridge form's f < N
def test_each_baseline_solves_an_easy_problem_and_repeats(name, features):
    X, y = blobs(features=features)
    labels = BASELINES[name](X, 4, 0)
    assert clustering_accuracy(y, labels) == 1.0
    np.testing.assert_array_equal(labels, BASELINES[name](X, 4, 0))
    assert labels.dtype == np.int64


def numpy_unit_rows(X):
    Z = X / np.linalg.norm(X, axis=1, keepdims=True)
    Z -= Z.mean(axis=0)
    return Z / np.linalg.norm(Z, axis=1, keepdims=True)


def graph_of(monkeypatch, function, *arguments):
    """The affinity a baseline hands to the spectral step."""
    seen = []

    def capture(W, n_clusters, **_):
        seen.append(W.toarray())
        return np.zeros(W.shape[0], dtype=np.int64)

    monkeypatch.setattr(baselines, "spectral_clustering", capture)
    function(*arguments)
    return seen[0]


def strongest_five(score):
    score = np.clip(score, 0, None)
    np.fill_diagonal(score, 0)
    kept = np.where(score >= np.sort(score, axis=1)[:, [-5]], score, 0)
    return (kept + kept.T) / 2


@pytest.mark.parametrize("features", [12, 200])
@pytest.mark.parametrize("block", [2**24, 100])
def test_ridge_graph_is_that_of_the_constrained_least_squares(monkeypatch, features, block):
    monkeypatch.setattr(ridge, "BLOCK_ENTRIES", block)
    X, _ = blobs(features=features)
    Z, n, lam = numpy_unit_rows(X), len(X), len(X) / 4
    C = np.zeros((n, n))
    for i in range(n):  # each row alone: ridge regression of z_i on the others
        others = np.delete(np.arange(n), i)
        gram = Z[others] @ Z[others].T + lam * np.eye(n - 1)
        C[i, others] = np.linalg.solve(gram, Z[others] @ Z[i])
    W = graph_of(monkeypatch, ridge_labels, X, 4)
    np.testing.assert_allclose(W, strongest_five(C + C.T), atol=1e-12)


def test_neighbor_graph_is_that_of_the_sorted_cosines(monkeypatch):
    X, _ = blobs()
    W = graph_of(monkeypatch, baselines.knn_labels, X, 4)
    Z = numpy_unit_rows(X)
    np.testing.assert_allclose(W, strongest_five(Z @ Z.T), atol=1e-12)


def test_images_and_rows_are_one_input_and_records_have_one_shape():
    X, y = blobs(features=36)
    rows, images = run_baselines(X, 4, 0, y), run_baselines(X.reshape(-1, 1, 6, 6), 4, 0)
    assert [r["method"] for r in rows] == [r["method"] for r in images] == list(BASELINES)
    for known, unknown in zip(rows, images, strict=True):
        assert list(known) == list(unknown) == ["method", "acc", "nmi", "ari", "seconds"]
        assert known["acc"] == 1.0
        assert unknown["acc"] is None


def test_zero_rows_and_tiny_sets_do_not_break():
    X, _ = blobs()
    X[3] = 0.0
    Z, mean = unit_rows(torch.from_numpy(X))
    assert (Z[3] == 0).all()  # no direction
    np.testing.assert_array_equal(Z, unit_rows(torch.from_numpy(X), mean)[0])
    same, _ = unit_rows(torch.full((10, 7), 0.1))
    assert (same == 0).all()  # nothing but rounding is left by centering
    for baseline in BASELINES.values():
        assert baseline(X, 4, 0).shape == (60,)
        assert baseline(X[:1], 1, 0).tolist() == [0]
        assert sorted(baseline(X[:2], 2, 0)) == [0, 1]


@pytest.mark.parametrize("baseline", BASELINES.values())
def test_bad_input_is_refused_by_name(baseline):
    X, _ = blobs()
    with pytest.raises(ValueError, match=r"n_clusters must be between 1 and .* 60, got 61"):
        baseline(X, 61, 0)
    with pytest.raises(ValueError, match=r"X must be \(N, features\).* got shape \(60,\)"):
        baseline(X[:, 0], 4, 0)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="X must be finite"):
        baseline(X, 4, 0)


@pytest.mark.parametrize(
    ("file", "n_clusters", "knn", "ridge"),
    [("orl_32x32.mat", 40, 0.72, 0.845), ("coil20_32x32.mat", 20, 0.837, 0.84)],
)
def test_figures_on_published_sets(data_folder, file, n_clusters, knn, ridge):
    from scipy.io import loadmat

    content = loadmat(data_folder / file)
    X, y = content["fea"].astype(np.float64), content["gnd"].ravel()
    scores = {r["method"]: r["acc"] for r in run_baselines(X, n_clusters, 0, y)}
    # Five seeds of the spectral step differ by less than this.
    assert scores["5-NN graph"] == pytest.approx(knn, abs=0.02)
    assert scores["ridge"] == pytest.approx(ridge, abs=0.02)
