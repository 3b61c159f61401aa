"""Ridge self-expression: its C against the constrained least squares, row by row; new samples; hard input."""

import numpy as np
import pytest
import scipy.sparse
import torch
from dsclust import ridge
from dsclust.data import load
from dsclust.graph.affinity import sparse_affinity
from dsclust.memory import Sizes, required_bytes
from dsclust.methods.ridge import RidgeMethod
from dsclust.metrics import clustering_accuracy, evaluate
from dsclust.pipeline import cluster
from dsclust.predictor import Predictor
from dsclust.ridge import ridge_coefficients, sparse_ridge
from hypothesis import given, settings
from hypothesis import strategies as st


def rows(n, f, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, f)))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), st.integers(1, 20), st.floats(0.01, 50.0), st.integers(0, 2**31))
def test_each_row_solves_its_own_least_squares(n, f, lam, seed):
    Z = rows(n, f, seed)
    C = ridge_coefficients(Z, lam).numpy()
    for i in range(n):
        others = np.delete(np.arange(n), i)
        gram = Z[others] @ Z[others].T + lam * torch.eye(n - 1, dtype=torch.float64)
        np.testing.assert_allclose(C[i, others], torch.linalg.solve(gram, Z[others] @ Z[i]), rtol=1e-6, atol=1e-8)
        assert C[i, i] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**31))
def test_what_is_kept_has_the_largest_of_the_whole(n, f, k, seed):
    Z, k = rows(n, f, seed), min(k, n - 1)
    whole = ridge_coefficients(Z, 2.0)
    kept = sparse_ridge(Z, 2.0, k).to_dense()
    np.testing.assert_allclose(kept[kept != 0], whole[kept != 0], rtol=1e-9)
    both, largest = whole + whole.T, kept + kept.T
    both.fill_diagonal_(-np.inf)
    expected = both.topk(k, dim=1).values.clamp_min(0.0)
    np.testing.assert_allclose(largest.topk(k, dim=1).values, expected, rtol=1e-9, atol=1e-12)
    assert (kept.diagonal() == 0).all()
    if k >= 5:
        np.testing.assert_allclose(sparse_affinity(kept).toarray(), sparse_affinity(whole).toarray(), rtol=1e-9)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def fitted(digits):
    return cluster(digits, 10, RidgeMethod())


def test_digits_without_training(digits, fitted):
    assert evaluate(digits.labels, fitted.labels)["acc"] > 0.92
    assert fitted.training.history == [] == fitted.training.pretraining
    assert scipy.sparse.issparse(fitted.coefficients)
    assert fitted.coefficients.nnz <= 40 * digits.n_samples


def test_new_samples_get_the_cluster_they_would_have_had(digits):
    half = load(digits.X[::2], labels=digits.labels[::2], pixel_range=(0, 16))
    result = cluster(half, 10, RidgeMethod())
    found = result.predictor.predict(digits.X[1::2])
    fitted = clustering_accuracy(half.labels, result.labels)
    assert clustering_accuracy(digits.labels[1::2], found) > fitted - 0.03


def test_a_saved_predictor_labels_alike(digits, fitted, tmp_path):
    fitted.predictor.save(tmp_path / "model.safetensors")
    loaded = Predictor.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict(digits.X), fitted.predictor.predict(digits.X))


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 3), ("batch_size", 10), ("lr", 0.1), ("preset", "digits"), ("pretrain_steps", 5)],
)
def test_settings_of_training_are_refused(digits, name, value):
    with pytest.raises(
        ValueError,
        match=f"Ridge: {name}: expected none, for a closed form trains nothing, got .*: bdsc",
    ):
        cluster(digits, 10, RidgeMethod(), **{name: value})


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"regularization": 0}, ValueError, "regularization: expected a finite number > 0, got 0"),
        ({"regularization": "a"}, TypeError, "regularization: expected a number, got 'a'"),
        ({"strongest": 0}, ValueError, "strongest: expected at least 1, got 0"),
        ({"strongest": 2.0}, TypeError, "strongest: expected an integer, got 2.0"),
    ],
)
def test_bad_settings_are_refused(settings, error, text):
    with pytest.raises(error, match=text):
        RidgeMethod(**settings)


def test_hard_input(digits):
    X = np.concatenate([digits.X[:60], digits.X[:5], np.zeros_like(digits.X[:2])])  # duplicates and zero rows
    with pytest.warns(match="no edge"):
        labels = cluster(load(X, pixel_range=(0, 16)), 4, RidgeMethod()).labels
    np.testing.assert_array_equal(labels[60:65], labels[:5])
    for n_clusters in (1, 20):
        small = load(digits.X[:20], pixel_range=(0, 16))
        assert len(set(cluster(small, n_clusters, RidgeMethod()).labels)) == n_clusters
    with pytest.warns(match="no edge"):
        constant = cluster(load(np.ones((12, 7), np.float32)), 3, RidgeMethod())
    assert len(set(constant.labels)) == 3


def test_memory_grows_with_n_alone():
    assert required_bytes(Sizes(10**6, None, RidgeMethod(), "sparse")) < 6e9


def test_many_parts_are_one(monkeypatch):
    Z = rows(50, 7, 0)
    whole, kept = ridge_coefficients(Z, 2.0), sparse_ridge(Z, 2.0, 3).to_dense()
    monkeypatch.setattr(ridge, "BLOCK_ENTRIES", 64)
    np.testing.assert_allclose(ridge_coefficients(Z, 2.0), whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sparse_ridge(Z, 2.0, 3).to_dense(), kept, rtol=1e-9)


def test_a_ridge_lost_in_rounding_is_refused():
    Z = torch.ones(5, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"lam: .* got 1e-30"):
        ridge_coefficients(Z, 1e-30)
