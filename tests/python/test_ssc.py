"""Sparse subspace clustering: rows against the problems they solve, supports, new samples, settings by name."""

import numpy as np
import pytest
import scipy.sparse
import torch
from dsclust.data import load
from dsclust.methods.ssc import SSCMethod
from dsclust.metrics import clustering_accuracy, evaluate
from dsclust.names import Solver, words
from dsclust.pipeline import cluster
from dsclust.predictor import Predictor
from sklearn.linear_model import ElasticNet, OrthogonalMatchingPursuit, Ridge


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def solved_by_scikit_learn(settings, others, row):
    n = len(row)
    if settings.solver == "ridge":
        return Ridge(settings.regularization, fit_intercept=False).fit(others.T, row).coef_
    if settings.solver == "omp":
        return (
            OrthogonalMatchingPursuit(n_nonzero_coefs=settings.n_nonzero, fit_intercept=False).fit(others.T, row).coef_
        )
    total = (settings.l1 + settings.regularization) / n
    share = settings.l1 / (settings.l1 + settings.regularization)
    return ElasticNet(total, l1_ratio=share, fit_intercept=False, tol=1e-12, max_iter=10**6).fit(others.T, row).coef_


@pytest.mark.parametrize("solver", words(Solver))
def test_rows_solve_their_problem_on_their_support(solver):
    rng = np.random.default_rng(0)
    data = load(rng.standard_normal((80, 12)))
    method = SSCMethod(solver=solver, support=15, n_nonzero=4)
    result = cluster(data, 3, method)
    Z, C = result.training.latent.numpy().astype(np.float64), result.coefficients.toarray()
    product = np.abs(Z @ Z.T) - 2 * np.eye(80)
    for i in range(0, 80, 7):
        support = np.sort(np.argsort(-product[i])[:15])
        expected = np.zeros(80)
        expected[support] = solved_by_scikit_learn(method, Z[support], Z[i])
        np.testing.assert_allclose(C[i], expected, atol=2e-4)


@pytest.mark.parametrize("solver", words(Solver))
def test_digits_without_training(digits, solver):
    result = cluster(digits, 10, SSCMethod(solver=solver))
    assert evaluate(digits.labels, result.labels)["acc"] > 0.8
    assert scipy.sparse.issparse(result.coefficients)
    assert np.diff(result.coefficients.indptr).max() <= (5 if solver == "omp" else 50)
    assert (result.coefficients.diagonal() == 0).all()


@pytest.mark.parametrize("solver", words(Solver))
def test_new_samples_are_written_by_fitted_ones(digits, solver, tmp_path):
    half = load(digits.X[::2], labels=digits.labels[::2], pixel_range=(0, 16))
    result = cluster(half, 10, SSCMethod(solver=solver))
    assert (result.predictor.predict(half.X) == result.labels).mean() > 0.98  # each its own strongest voter
    found = result.predictor.predict(digits.X[1::2])
    assert clustering_accuracy(digits.labels[1::2], found) > clustering_accuracy(half.labels, result.labels) - 0.04
    result.predictor.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(Predictor.load(tmp_path / "model.safetensors").predict(digits.X[1::2]), found)


def test_fewer_samples_than_the_support(digits):
    few = load(digits.X[:12], pixel_range=(0, 16))
    assert cluster(few, 3, SSCMethod()).coefficients.nnz == 12 * 11


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"solver": "lasso"}, ValueError, "solver: expected one of ridge, elastic_net, omp, got 'lasso'"),
        ({"support": 0}, ValueError, "support: expected at least 1, got 0"),
        ({"support": 2.5}, TypeError, "support: expected an integer, got 2.5"),
        ({"n_nonzero": True}, TypeError, "n_nonzero: expected an integer, got True"),
        ({"regularization": 0.0}, ValueError, "regularization: expected a finite number > 0, got 0.0"),
        ({"l1": float("inf")}, ValueError, "l1: expected a finite number > 0, got inf"),
        ({"l1": "x"}, TypeError, "l1: expected a number, got 'x'"),
    ],
)
def test_bad_settings_are_refused(settings, error, text):
    with pytest.raises(error, match=text):
        SSCMethod(**settings)


def test_zero_rows_have_no_coefficients(digits):
    X = np.concatenate([digits.X[:60], np.zeros_like(digits.X[:2])])
    with pytest.warns(match="no edge"):
        result = cluster(load(X, pixel_range=(0, 16)), 4, SSCMethod())
    assert torch.isfinite(result.training.latent).all()
    assert result.coefficients[[60, 61]].nnz == 0
