"""Metrics: properties every clustering score must have, and the errors of bad label vectors."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import torch
from dsclust.metrics import clustering_accuracy, evaluate, make_record, subspace_preserving_error
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def label_pairs(draw):
    n = draw(st.integers(1, 40))
    vector = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    return np.array(draw(vector)), np.array(draw(vector))


@given(label_pairs(), st.permutations(range(5)), st.randoms(use_true_random=False))
def test_invariant_to_names_and_order(pair, renaming, random):
    true, pred = pair
    order = list(range(len(true)))
    random.shuffle(order)
    renamed = np.array(renaming)[pred]
    assert evaluate(true, renamed) == pytest.approx(evaluate(true, pred))
    assert evaluate(true[order], pred[order]) == pytest.approx(evaluate(true, pred))


@given(label_pairs())
def test_accuracy_is_bounded_symmetric_and_at_least_the_best_single_match(pair):
    true, pred = pair
    acc = clustering_accuracy(true, pred)
    best = max(np.mean((true == t) & (pred == p)) for t in set(true) for p in set(pred))
    assert best <= acc <= 1.0
    assert acc == clustering_accuracy(pred, true)


@settings(max_examples=50)
@given(label_pairs())
def test_accuracy_is_the_best_of_all_injections(pair):
    true, pred = pair
    classes, clusters = sorted(set(true)), sorted(set(pred))
    # Padding with names that match nothing makes every partial match a permutation.
    pad = classes + [-1] * max(0, len(clusters) - len(classes))
    best = max(
        sum(np.sum((pred == c) & (true == t)) for c, t in zip(clusters, chosen, strict=True))
        for chosen in itertools.permutations(pad, len(clusters))
    )
    assert clustering_accuracy(true, pred) == pytest.approx(best / len(true))


def test_a_perfect_clustering_scores_one_whatever_its_names():
    assert evaluate(["a", "a", "b", "c"], [7, 7, 0, 3]) == {"acc": 1.0, "nmi": 1.0, "ari": 1.0}


def test_more_clusters_than_classes_and_the_reverse():
    assert clustering_accuracy([0, 0, 0, 0], [0, 0, 1, 2]) == 0.5
    assert clustering_accuracy([0, 1, 2, 2], [0, 0, 0, 0]) == 0.5


def test_nmi_is_normalized_by_the_arithmetic_mean():
    # Entropies log 2 and log 4, mutual information log 2: 2/3 by the arithmetic mean.
    figures = evaluate([0, 0, 1, 1], [0, 1, 2, 3])
    assert figures["nmi"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("true", "pred", "error", "text"),
    [
        ([0, 1], [0], ValueError, "must have one length, got 2 and 1"),
        ([], [], ValueError, "labels_true must be a non-empty vector"),
        ([0, 1], [[0], [1]], ValueError, r"labels_pred must be a non-empty vector, got shape \(2"),
        ([0, 1], [0.0, float("nan")], ValueError, "labels_pred must hold class labels, got fract"),
        ([0, 0.5], [0, 1], ValueError, "labels_true must hold class labels"),
        ([0, 1], [1j, 2j], TypeError, "labels_pred must hold class labels, got dtype complex"),
    ],
)
def test_bad_labels_are_refused_by_name(true, pred, error, text):
    with pytest.raises(error, match=text):
        evaluate(true, pred)


def test_record_without_true_labels_has_the_same_keys():
    known, unknown = make_record("m", [0, 1], [0, 1], 1.5), make_record("m", [0, 1], None, 1.5)
    assert list(known) == list(unknown) == ["method", "acc", "nmi", "ari", "seconds"]
    assert (known["acc"], unknown["acc"]) == (1.0, None)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, scipy.sparse.csr_array])
def test_subspace_preserving_error(kind):
    # Rows: half of the weight abroad; all at home; nothing but the diagonal.
    C = kind(np.array([[5.0, -1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]]))
    assert subspace_preserving_error(C, [0, 0, 1]) == pytest.approx((0.5 + 0.0 + 1.0) / 3)


def test_subspace_preserving_error_refuses_wrong_input():
    with pytest.raises(ValueError, match=r"coefficients must be \(N, N\).* = 2, got \(3, 3\)"):
        subspace_preserving_error(np.eye(3), [0, 1])
    with pytest.raises(ValueError, match="coefficients must be finite"):
        subspace_preserving_error(np.array([[0, np.nan], [0, 0]]), [0, 1])
