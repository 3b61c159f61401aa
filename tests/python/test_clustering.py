"""Affinity and spectral clustering: DSC-Net's steps against a literal loop, exactness on graphs in
pieces, conventions where the graph says nothing, and the errors of bad input."""

import warnings

import dsclust.graph.affinity as graphs
import dsclust.graph.graph as graph_module
import dsclust.graph.spectral as spectral
import numpy as np
import pytest
import scipy.sparse
import torch
from dsclust.graph.affinity import neighbor_affinity, plain_affinity, post_affinity, scipy_csr, sparse_affinity
from dsclust.graph.clustering import (
    ASSIGN_LABELS,
    FragmentedGraphWarning,
    cluster_coefficients,
    normalized_cut,
    spectral_clustering,
    spectral_labels,
)
from dsclust.graph.spectral import spectral_embedding
from dsclust.metrics import clustering_accuracy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh


def planted(sizes, rng, density=0.7, shuffle=True):
    """Weights of a graph whose connected components are exactly the blocks, and the blocks."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    W = rng.random((y.size, y.size)) * (rng.random((y.size, y.size)) < density)
    W *= y[:, None] == y
    W = W + W.T
    for c in range(len(sizes)):  # a path through each block keeps it connected
        node = np.flatnonzero(y == c)
        W[node[1:], node[:-1]] = W[node[:-1], node[1:]] = 0.5
    np.fill_diagonal(W, 0.0)
    order = rng.permutation(y.size) if shuffle else np.arange(y.size)
    return W[np.ix_(order, order)], y[order]


def same_partition(a, b):
    return clustering_accuracy(a, b) == 1.0 and len(set(a)) == len(set(b))


def subspaces(rng, n_clusters=3, per_cluster=20, dim=3, ambient=30):
    """Samples on random linear subspaces, their labels, and a least-squares C."""
    X = np.concatenate(
        [rng.standard_normal((per_cluster, dim)) @ rng.standard_normal((dim, ambient)) for _ in range(n_clusters)]
    )
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    P = np.linalg.inv(X @ X.T + 0.01 * np.eye(len(X)))
    C = -P / np.diag(P)[:, None]
    np.fill_diagonal(C, 0.0)
    return X, np.repeat(np.arange(n_clusters), per_cluster), C


# Spectral clustering of graphs in pieces


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(2, 9), min_size=2, max_size=25),
    st.integers(0, 2**31),
    st.booleans(),
    st.sampled_from(ASSIGN_LABELS),
)
def test_components_are_recovered_exactly(sizes, seed, sparse, assign_labels):
    W, y = planted(sizes, np.random.default_rng(seed))
    graph = scipy.sparse.coo_array(W) if sparse else W
    found = spectral_clustering(graph, len(sizes), assign_labels=assign_labels)
    assert same_partition(y, found)
    assert found.dtype == np.int64


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(12, 20), min_size=2, max_size=8),
    st.integers(0, 2**31),
    st.sampled_from(ASSIGN_LABELS),
)
def test_weakly_joined_blocks_are_recovered_and_equivariant(sizes, seed, assign_labels):
    rng = np.random.default_rng(seed)
    W, y = planted(sizes, rng)
    weak = 1e-3 * rng.random(W.shape) * (y[:, None] != y)
    W = W + weak + weak.T
    found = spectral_clustering(W, len(sizes), assign_labels=assign_labels)
    assert same_partition(y, found)
    order = rng.permutation(y.size)
    moved = spectral_clustering(W[np.ix_(order, order)], len(sizes), assign_labels=assign_labels)
    assert same_partition(found[order], moved)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(12, 16), min_size=3, max_size=8), st.integers(0, 2**31))
def test_fewer_components_than_clusters(sizes, seed):
    rng = np.random.default_rng(seed)
    W, y = planted(sizes, rng, shuffle=False)
    first, second = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    W[first[0], second[0]] = W[second[0], first[0]] = 1e-3
    assert same_partition(y, spectral_clustering(W, len(sizes)))


def test_repeated_unit_eigenvalues_that_plain_lanczos_misses():
    sizes = [8] * 91
    W, y = planted(sizes, np.random.default_rng(0))
    scale = 1 / np.sqrt(W.sum(axis=1))
    S = scipy.sparse.csr_array(W * scale[:, None] * scale)
    plain, _ = eigsh(S, k=91, which="LA", v0=np.ones(y.size))
    assert (plain > 1 - 1e-8).sum() < 91  # the trap: converged, and copies missing
    embedding = spectral_embedding(W, 91)
    np.testing.assert_allclose(embedding.values, 1.0, atol=1e-12)
    assert same_partition(y, spectral_clustering(W, 91))


@pytest.mark.parametrize("sparse", [False, True])
def test_verified_lanczos_finds_near_copies_inside_one_component(monkeypatch, sparse):
    # Blocks joined at 1e-13: one component, and 30 eigenvalues that agree to rounding.
    W, y = planted([10] * 30, np.random.default_rng(1), shuffle=False)
    bridge = np.arange(10, 300, 10)
    W[bridge, bridge - 1] = W[bridge - 1, bridge] = 1e-13
    for module in (spectral, graph_module):
        monkeypatch.setattr(module, "DENSE_LIMIT", 10)
    monkeypatch.setattr(spectral, "_SPARSE_DENSE_LIMIT", 10)
    graph = scipy.sparse.csr_array(W) if sparse else W
    embedding = spectral_embedding(graph, 30)
    assert embedding.component.max() == 0
    np.testing.assert_allclose(embedding.values, 1.0, atol=1e-5)
    assert same_partition(y, spectral_clustering(graph, 30))


def test_lanczos_and_lapack_agree(monkeypatch):
    rng = np.random.default_rng(2)
    W, _ = planted([60, 50, 40], rng, density=0.3)
    W += 0.02 * (lambda A: A + A.T)(rng.random(W.shape) < 0.02)
    dense = spectral_embedding(W, 5)
    for module in (spectral, graph_module):
        monkeypatch.setattr(module, "DENSE_LIMIT", 10)
    lanczos = spectral_embedding(W, 5)
    np.testing.assert_allclose(lanczos.values, dense.values, atol=1e-5)  # residuals of 1e-3, squared
    np.testing.assert_allclose(np.abs(lanczos.vectors.T @ dense.vectors), np.eye(5), atol=1e-2)


def test_wrong_vectors_are_never_returned(monkeypatch):
    rng = np.random.default_rng(2)
    W, _ = planted([60, 50, 40], rng, density=0.3)
    W += 0.02 * (lambda A: A + A.T)(rng.random(W.shape) < 0.02)
    expected = spectral_embedding(W, 5)
    for module in (spectral, graph_module):
        monkeypatch.setattr(module, "DENSE_LIMIT", 10)
    tried = []

    def wrong_in(kinds):
        def eigsh_that_lies(operator, k, **options):
            tried.append(operator.dtype)
            values, vectors = eigsh(operator, k, **options)
            wrong = operator.dtype in kinds
            return values, rng.standard_normal(vectors.shape).astype(operator.dtype) if wrong else vectors

        return eigsh_that_lies

    monkeypatch.setattr(spectral, "eigsh", wrong_in([np.float32]))
    found = spectral_embedding(W, 5)  # solved again in float64
    assert set(map(str, tried)) == {"float32", "float64"}
    np.testing.assert_allclose(found.values, expected.values, atol=1e-10)
    np.testing.assert_allclose(np.abs(found.vectors.T @ expected.vectors), np.eye(5), atol=1e-5)
    monkeypatch.setattr(spectral, "eigsh", wrong_in([np.float32, np.float64]))
    with pytest.raises(RuntimeError, match="ARPACK failed on a component of 150 samples"):
        spectral_embedding(W, 5)


def test_embedding_satisfies_its_definition():
    W, _ = planted([14, 9, 5], np.random.default_rng(3))
    W = np.pad(W, (0, 1))  # one sample without an edge
    e = spectral_embedding(W, 6)
    degree = W.sum(axis=1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    S = W * scale[:, None] * scale
    np.testing.assert_allclose(S @ e.vectors, e.vectors * e.values, atol=1e-12)
    np.testing.assert_allclose(e.vectors.T @ e.vectors, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(e.values, np.sort(np.linalg.eigvalsh(S))[::-1][:6], atol=1e-12)
    assert (e.vectors[-1] == 0).all()
    assert np.bincount(e.component).tolist() == [14, 9, 5, 1]


def test_weighted_embedding_needs_no_count():
    # Three rings of unequal looseness: the top 3 eigenvectors are those of the loosest ring, and of two pieces alone.
    W = np.zeros((310, 310))
    y = np.repeat([0, 1, 2], [250, 30, 30])
    for c in range(3):
        node = np.flatnonzero(y == c)
        W[node, np.roll(node, 1)] = W[np.roll(node, 1), node] = 1.0
    W[249, 250] = W[250, 249] = W[279, 280] = W[280, 279] = 0.2
    by_count = spectral_clustering(W, 3, n_eigenvectors=3)
    weighted = spectral_clustering(W, 3)
    assert normalized_cut(W, weighted) <= normalized_cut(W, by_count) + 1e-12


def test_normalized_cut_equals_its_definition():
    rng = np.random.default_rng(3)
    W = rng.random((40, 40)) * (rng.random((40, 40)) < 0.3)
    W = W + W.T
    labels = rng.integers(0, 4, 40)
    off = W - np.diag(np.diag(W))  # a self-loop joins nobody
    expected = sum(off[labels == c][:, labels != c].sum() / off[labels == c].sum() for c in range(4))
    assert normalized_cut(W, labels) == pytest.approx(expected)
    assert normalized_cut(scipy.sparse.csr_array(W), labels) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"labels must be \(40,\), got \(3,\)"):
        normalized_cut(W, labels[:3])


def test_stability_is_high_where_the_graph_is_clear_and_low_where_it_is_not():
    rng = np.random.default_rng(4)
    W, y = planted([40, 40, 40], rng)
    weak = 1e-3 * rng.random(W.shape) * (y[:, None] != y)
    clear = spectral_labels(W + weak + weak.T, 3)
    assert clear.stability == pytest.approx(1.0)
    assert same_partition(y, clear.labels)
    assert clear.normalized_cut < 0.1
    noise = rng.random((120, 120))
    assert spectral_labels(noise + noise.T, 8).stability < 0.5
    in_pieces = spectral_labels(W, 3)
    assert (in_pieces.stability, in_pieces.normalized_cut) == (1.0, 0.0)
    discretized = spectral_labels(W + weak + weak.T, 3, assign_labels="discretize")
    assert (discretized.labels == clear.labels).all()
    assert discretized.stability == pytest.approx(1.0)


# Where the graph says nothing


def test_dust_takes_no_cluster():
    rng = np.random.default_rng(5)
    W, y = planted([200, 150, 150, 3, 2, 2], rng, density=0.2, shuffle=False)
    weak = 1e-3 * rng.random(W.shape) * (y[:, None] != y) * (np.maximum(y[:, None], y) < 3)
    W = W + weak + weak.T
    with pytest.warns(FragmentedGraphWarning, match="7 of 507 samples lie in pieces .* smaller than 0.05 of the mean"):
        found = spectral_clustering(W, 3)
    assert same_partition(np.where(y < 3, y, 0), found)


def test_more_components_than_clusters_keeps_the_largest_and_says_so():
    W, y = planted([9, 7, 5, 2], np.random.default_rng(4))
    with pytest.warns(FragmentedGraphWarning, match="4 connected components for 2 clusters"):
        found = spectral_clustering(W, 2)
    assert same_partition(np.where(y == 1, 1, 0), found)


def test_edgeless_samples_take_no_cluster_and_join_the_largest():
    W, y = planted([9, 6, 6], np.random.default_rng(5), shuffle=False)
    W = np.pad(W, (0, 2))
    W[-1, -1] = 3.0  # a self-loop is no edge
    with pytest.warns(FragmentedGraphWarning, match="2 of 23 samples have no edge"):
        found = spectral_clustering(W, 3)
    assert same_partition(np.append(y, [0, 0]), found)


@pytest.mark.parametrize(
    ("blocks", "edgeless", "n_clusters"),
    [([], 6, 3), ([3], 3, 2), ([3], 1, 3), ([2, 2], 1, 4), ([5], 20, 12), ([2], 3, 4)],
)
def test_every_cluster_is_used_when_edges_are_too_few(blocks, edgeless, n_clusters):
    W, y = planted(blocks, np.random.default_rng(6), shuffle=False)
    W = np.pad(W, (0, edgeless))
    with pytest.warns(FragmentedGraphWarning):
        found = spectral_clustering(W, n_clusters)
    assert sorted(set(found)) == list(range(n_clusters))
    assert len(found) == y.size + edgeless


def test_one_cluster_and_one_each():
    W, y = planted([4, 3], np.random.default_rng(7))
    assert spectral_clustering(W, 1).tolist() == [0] * y.size
    assert spectral_clustering(W, y.size).tolist() == list(range(y.size))


@pytest.mark.parametrize("assign_labels", ASSIGN_LABELS)
def test_runs_repeat_and_dense_equals_sparse(assign_labels):
    rng = np.random.default_rng(8)
    W = rng.random((120, 120)) ** 6
    W = W + W.T
    first = spectral_clustering(W, 7, assign_labels=assign_labels, seed=3)
    assert (first == spectral_clustering(W, 7, assign_labels=assign_labels, seed=3)).all()
    sparse = scipy.sparse.csr_array(W)
    assert (first == spectral_clustering(sparse, 7, assign_labels=assign_labels, seed=3)).all()
    assert (np.sort(np.unique(first, return_index=True)[1]) >= 0).all()
    assert first[0] == 0  # numbered in order of appearance


def test_input_is_left_alone():
    W, _ = planted([5, 4], np.random.default_rng(9))
    np.fill_diagonal(W, 1.0)
    sparse, before = scipy.sparse.csr_array(W), W.copy()
    spectral_clustering(W, 2)
    spectral_clustering(sparse, 2)
    np.testing.assert_array_equal(W, before)
    np.testing.assert_array_equal(sparse.toarray(), before)


@pytest.mark.parametrize(
    ("change", "arguments", "error", "text"),
    [
        (lambda W: W[:3], {}, ValueError, r"affinity must be \(N, N\) with N >= 1, got \(3, 7\)"),
        (lambda W: W[:0, :0], {}, ValueError, r"affinity must be \(N, N\) with N >= 1"),
        (lambda W: W + np.eye(7, k=1), {}, ValueError, "affinity must be symmetric, got"),
        (lambda W: -W, {}, ValueError, "affinity must be non-negative, got -"),
        (lambda W: W * np.nan, {}, ValueError, "affinity must be finite, got NaN"),
        (lambda W: W * 1j, {}, TypeError, "affinity must be numeric, got complex"),
        (None, {"n_clusters": 8}, ValueError, "between 1 and the number of samples 7, got 8"),
        (None, {"n_clusters": 0}, ValueError, "n_clusters must be between 1 and"),
        (None, {"n_clusters": 2.0}, TypeError, "n_clusters must be an integer, got 2.0"),
        (None, {"assign_labels": "qr"}, ValueError, "assign_labels must be one of"),
        (None, {"n_init": 0}, ValueError, "n_init must be an integer >= 1, got 0"),
        (
            None,
            {"assign_labels": "discretize", "n_eigenvectors": 3},
            ValueError,
            "'discretize' needs n_eigenvectors == n_clusters = 2, got 3",
        ),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_bad_input_is_refused_by_name(change, arguments, error, text, sparse):
    W, _ = planted([4, 3], np.random.default_rng(10))
    W = change(W) if change else W
    with pytest.raises(error, match=text):
        spectral_clustering(scipy.sparse.csr_array(W) if sparse else W, **{"n_clusters": 2, **arguments})


# Affinities


def post_by_loops(C, n_clusters, threshold, subspace_dim, power, unit_diagonal):
    """DSC-Net's steps, one scalar at a time."""
    n = len(C)
    kept = np.zeros_like(C)
    for i in range(n):
        total, reached = np.abs(C[i]).sum(), 0.0
        for j in np.argsort(-np.abs(C[i]), kind="stable"):
            if reached > threshold * total or total == 0:
                break
            kept[i, j] = C[i, j]
            reached += abs(C[i, j])
    S = (kept + kept.T) / 2
    if unit_diagonal:
        np.fill_diagonal(S, 1.0)
    U, s, _ = np.linalg.svd(S)
    rank = min(subspace_dim * n_clusters + 1, n)
    U = U[:, :rank] * np.sqrt(s[:rank])
    G = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            lengths = np.linalg.norm(U[i]) * np.linalg.norm(U[j])
            G[i, j] = max(U[i] @ U[j] / lengths, 0.0) ** power
    return G / G.max()


@pytest.mark.parametrize("unit_diagonal", [False, True])
@pytest.mark.parametrize(("threshold", "power"), [(0.5, 1), (0.8, 8), (1.0, 3.5)])
def test_post_affinity_equals_the_loops(threshold, power, unit_diagonal):
    _, _, C = subspaces(np.random.default_rng(11))
    knobs = {
        "threshold": threshold,
        "subspace_dim": 3,
        "power": power,
        "unit_diagonal": unit_diagonal,
    }
    expected = post_by_loops(C, 3, **knobs)
    W = post_affinity(C, 3, **knobs)
    np.testing.assert_allclose(W, expected, atol=1e-8)
    assert (W == W.T).all()
    assert W.min() >= 0
    assert W.max() == pytest.approx(1.0)


def test_post_affinity_ignores_the_scale_of_c():
    _, _, C = subspaces(np.random.default_rng(12))
    W = post_affinity(C, 3, threshold=0.5, subspace_dim=3, power=2)
    scaled = post_affinity(1e-6 * C, 3, threshold=0.5, subspace_dim=3, power=2)
    np.testing.assert_allclose(W, scaled, atol=1e-8)


def as_given(C, form):
    """C as each kind of input."""
    if form == "scipy":
        return scipy.sparse.coo_array(C)
    return torch.from_numpy(C).to_sparse_csr() if form == "torch CSR" else C


FORMS = ("array", "scipy", "torch CSR")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("affinity", ["post", "plain", "sparse", "neighbors"])
@pytest.mark.parametrize("assign_labels", ASSIGN_LABELS)
def test_subspaces_are_told_apart(affinity, assign_labels, form):
    _, y, C = subspaces(np.random.default_rng(13), n_clusters=4, per_cluster=25)
    labels, W = cluster_coefficients(
        as_given(C.astype(np.float32), form),
        4,
        affinity=affinity,
        threshold=0.5,
        subspace_dim=3,
        power=4,
        assign_labels=assign_labels,
    )
    assert same_partition(y, labels)
    assert W.shape == (100, 100)


def test_zero_rows_stay_zero_and_do_not_disturb_the_rest():
    _, y, C = subspaces(np.random.default_rng(14))
    C[5] = 0.0
    C[:, 5] = 0.0
    W = post_affinity(C, 3, threshold=0.5, subspace_dim=30, power=2)
    assert (W[5] == 0).all()
    rest = np.delete(np.arange(60), 5)
    alone = post_affinity(C[np.ix_(rest, rest)], 3, threshold=0.5, subspace_dim=30, power=2)
    np.testing.assert_allclose(W[np.ix_(rest, rest)], alone, atol=1e-8)
    with pytest.warns(FragmentedGraphWarning, match="1 of 60 samples have no edge"):
        labels = spectral_clustering(W, 3)
    assert same_partition(y[rest], labels[rest])


def test_all_zero_coefficients_give_an_empty_graph():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not post_affinity(np.zeros((6, 6)), 2).any()
        assert not plain_affinity(np.zeros((6, 6))).any()


def test_plain_affinity_is_the_mean_of_magnitudes():
    C = np.random.default_rng(15).standard_normal((7, 7))
    C[C > 1] = 0
    expected = (np.abs(C) + np.abs(C).T) / 2
    np.testing.assert_allclose(plain_affinity(C), expected)
    for form in FORMS[1:]:
        W = plain_affinity(as_given(C, form))
        assert scipy.sparse.issparse(W)
        np.testing.assert_allclose(W.toarray(), expected)


@pytest.mark.parametrize("block", [2**24, 20])
def test_sparse_affinity_keeps_the_five_largest_of_c_and_its_transpose(monkeypatch, block):
    monkeypatch.setattr(graphs, "BLOCK_ENTRIES", block)
    C = np.random.default_rng(16).standard_normal((9, 9))
    A = C + C.T
    np.fill_diagonal(A, -np.inf)
    for row in A:
        row[np.argsort(row)[:-5]] = 0.0
    A = A.clip(min=0.0)
    W = sparse_affinity(torch.from_numpy(C).requires_grad_())
    np.testing.assert_allclose(W.toarray(), (A + A.T) / 2)
    assert not np.diag(W.toarray()).any()
    assert sparse_affinity(np.ones((1, 1))).shape == (1, 1)
    np.testing.assert_allclose(sparse_affinity(np.ones((3, 3))).toarray(), 2 * (1 - np.eye(3)))


@pytest.mark.parametrize("form", FORMS)
def test_neighbors_are_the_rows_of_largest_positive_cosine(monkeypatch, form):
    monkeypatch.setattr(graphs, "BLOCK_ENTRIES", 130)
    rng = np.random.default_rng(16)
    C = rng.standard_normal((20, 20)) * (rng.random((20, 20)) < 0.2)
    C[4] = 0.0
    C[:, 7] = 0.0
    C[7] = np.eye(20)[7]  # alike to nobody
    C[9] = 1e-30 * C[2]  # alike to one, whatever the length
    norm = np.linalg.norm(C, axis=1, keepdims=True)
    unit = np.divide(C, norm, out=np.zeros_like(C), where=norm > 0)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    A = np.zeros((20, 20))
    for i in range(20):
        for j in np.argsort(-cosine[i], kind="stable")[:3]:
            A[i, j] = cosine[i, j] > 1e-12
    W = neighbor_affinity(as_given(C, form), 20)
    assert isinstance(W, scipy.sparse.csr_array)
    np.testing.assert_array_equal(W.toarray(), (A + A.T) / 2)
    assert A[9, 2] == 1
    assert not W[[4, 7]].nnz


def test_unsorted_columns_are_sorted_in_a_copy():
    crow, column, values = torch.tensor([0, 2, 3, 3]), torch.tensor([2, 0, 1]), torch.tensor([5.0, 6.0, 7.0])
    C = torch.sparse_csr_tensor(crow, column, values, (3, 3), check_invariants=False)
    expected = [[6, 0, 5], [0, 7, 0], [0, 0, 0]]
    for _ in range(2):
        found = scipy_csr(C)
        np.testing.assert_array_equal(found.toarray(), expected)
        assert found.has_sorted_indices
        assert found.indices.dtype == np.int32
        plain_affinity(C)
        neighbor_affinity(C)
    assert values.tolist() == [5, 6, 7]


def test_neighbors_are_at_least_one_and_at_most_all_others():
    C = np.ones((3, 3))
    np.testing.assert_array_equal(neighbor_affinity(C, 1, 9).toarray(), 1 - np.eye(3))
    with pytest.raises(ValueError, match="n_neighbors must be an integer >= 1, got 0"):
        neighbor_affinity(C, 1, 0)


def test_neighbors_are_added_until_the_pieces_are_as_few_as_clusters():
    angle = np.deg2rad([0, 1, 2, 20, 21, 22, 40, 41, 42, 90])
    C = np.zeros((10, 10))
    C[:, :2] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    C[9, :3] = 0, 0, 1  # alike to nobody

    def pieces(n_clusters):
        W = neighbor_affinity(C, n_clusters, 2)
        return sorted(np.bincount(scipy.sparse.csgraph.connected_components(W)[1]).tolist())

    assert pieces(3) == [1, 3, 3, 3]
    assert pieces(1) == [1, 9]
    far = np.kron(np.eye(5), np.ones((2, 2)))
    assert neighbor_affinity(far, 2, 1).nnz == 10  # no neighbor helps: nothing in common


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "function", [lambda C: post_affinity(C, 2), plain_affinity, sparse_affinity, neighbor_affinity]
)
@pytest.mark.parametrize(
    ("C", "error", "text"),
    [
        (np.zeros((2, 3)), ValueError, r"coefficients must be \(N, N\), got \(2, 3\)"),
        (np.zeros((2, 2), dtype=int), TypeError, "coefficients must be floating point, got"),
        (np.array([[0, np.nan], [1, 0]]), ValueError, "must be finite, .* in 1 of 2 rows"),
        (np.array([[0, np.inf], [1, 0]]), ValueError, "coefficients must be finite"),
    ],
)
def test_bad_coefficients_are_refused_by_name(function, C, error, text, sparse):
    with pytest.raises(error, match=text):
        function(scipy.sparse.csr_array(C) if sparse else C)


@pytest.mark.parametrize(
    ("knob", "text"),
    [
        ({"threshold": 0.0}, "threshold must be a number > 0"),
        ({"threshold": float("nan")}, "threshold must be a number > 0"),
        ({"subspace_dim": 0}, "subspace_dim must be an integer >= 1, got 0"),
        ({"power": 0}, "power must be a finite number > 0, got 0"),
        ({"n_clusters": 5}, "n_clusters must be between 1 and the number of samples 4, got 5"),
    ],
)
def test_bad_knobs_are_refused_by_name(knob, text):
    with pytest.raises(ValueError, match=text):
        post_affinity(np.eye(4), **{"n_clusters": 2, **knob})


def test_unknown_affinity_is_refused():
    with pytest.raises(ValueError, match=r"affinity must be one of .*'post'.* got 'dense'"):
        cluster_coefficients(np.eye(4), 2, affinity="dense")
