"""SENet: its loss and gradients against the formula written out, constant memory, sparse C, labels of new samples."""

from __future__ import annotations

import json
import subprocess
import sys

import dsclust.memory as memory
import dsclust.pipeline as pipeline
import numpy as np
import pytest
import scipy.sparse
import torch
from dsclust import Predictor, SENet, cluster
from dsclust.data import load
from dsclust.memory import Sizes, required_bytes
from dsclust.methods import senet
from dsclust.methods.bdsc import BDSCMethod
from dsclust.methods.senet import SENetMethod
from dsclust.metrics import clustering_accuracy
from dsclust.training.interrupt import TrainingInterrupted
from safetensors import safe_open
from sklearn.datasets import load_digits

SMALL = SENetMethod(width=16, depth=2, n_keys=0, n_coefficients=5, n_steps=20)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(n: int, features: int = 7, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, features, dtype=torch.float64, generator=generator(seed))


def model_of(settings: SENetMethod, x: torch.Tensor) -> senet.SENet:
    model = senet.SENetModel(x[0].numel(), settings, generator=generator(1)).double()
    with torch.no_grad():
        model.threshold.fill_(0.3)
    model.start(x, model.encoder(x))
    model.begin_epoch(x, 0, generator(2))
    return model


def written_out(model: senet.SENet, x: torch.Tensor, rows: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """The published loss, summed over the batch, with C as a matrix of batch against dictionary."""
    z = torch.nn.functional.normalize(x, dim=1)
    s = model.settings
    score = model.query(z[rows]) @ model.key(z[members]).T
    C = score.sign() * torch.relu(score.abs() - model.threshold) / s.width
    C = torch.where(rows[:, None] == members, 0.0, C)
    error = (z[rows] - C @ z[members]).square().sum()
    return s.gamma / 2 * error + s.l1_ratio * C.abs().sum() + (1 - s.l1_ratio) / 2 * C.square().sum()


@pytest.mark.parametrize("chunk", [4, 13, 2048])
@pytest.mark.parametrize("whole", [False, True])
def test_loss_and_gradients_are_the_published_ones_however_the_dictionary_is_cut(monkeypatch, chunk, whole):
    monkeypatch.setattr(senet, "CHUNK", chunk)
    x = samples(30)
    model = model_of(SMALL, x)
    rows = torch.arange(30) if whole else torch.tensor([7, 0, 22, 29, 3])
    loss = model.batch_loss(x[rows], None if whole else rows)
    expected = written_out(model, x, rows, torch.arange(30))
    torch.testing.assert_close(loss.objective, expected / len(rows))
    torch.testing.assert_close(sum(loss.terms.values()), expected.detach())
    parameters = list(model.parameters())
    for found, wanted in zip(
        torch.autograd.grad(loss.objective, parameters),
        torch.autograd.grad(expected / len(rows), parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_a_drawn_dictionary_holds_the_batch_and_others_once_and_is_another_each_time():
    x = samples(40)
    model = model_of(SENetMethod(width=16, depth=2, n_keys=12), x)
    rows = torch.tensor([5, 39, 1])
    drawn = [model._others(rows) for _ in range(50)]
    for others in drawn:
        assert len({*others.tolist(), *rows.tolist()}) == 12
    assert len({tuple(sorted(others.tolist())) for others in drawn}) > 45
    assert len({index for others in drawn for index in others.tolist()}) == 37
    state = model.draws.get_state()
    found = model.batch_loss(x[rows], rows).objective
    model.draws.set_state(state)
    members = torch.cat([rows, model._others(rows)])
    torch.testing.assert_close(found, written_out(model, x, rows, members) / 3)
    # A batch as large as the dictionary is its own.
    assert len(model._others(torch.arange(20))) == 0


def test_parameters_start_as_published_and_are_as_many():
    net = senet.network(500, 1024, 3, generator())
    assert sum(p.numel() for p in net.parameters()) == 3_661_824
    bounds = [(6 / n) ** 0.5 for n in (500, 1024, 1024, 2048)]
    linear = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    for layer, bound in zip(linear, bounds, strict=True):
        assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    model = senet.SENetModel(7, SMALL, generator=generator())
    assert float(model.threshold.detach()) == 0
    assert model.max_gradient_norm == 1e-3
    assert [model.lr_factor(epoch, 4) for epoch in (0, 2)] == [1.0, 0.5]
    assert (model.query[0].weight != model.key[0].weight).any()


def test_coefficients_are_the_largest_of_each_row_and_no_others(monkeypatch):
    monkeypatch.setattr(senet, "CHUNK", 8)
    x = samples(30)
    model = model_of(SMALL, x)
    z = model.encoder(x)
    score = (model.query(z) @ model.key(z).T).detach().fill_diagonal_(0)
    C = score.sign() * torch.relu(score.abs() - model.threshold.detach()) / 16
    fifth = C.abs().sort(dim=1, descending=True).values[:, 4:5]
    found = model.coefficients(z)
    assert found.layout is torch.sparse_csr
    torch.testing.assert_close(found.to_dense(), torch.where(C.abs() >= fifth, C, 0.0))
    assert (found.values() != 0).all()
    with torch.no_grad():
        model.threshold.fill_(1e9)
    assert model.coefficients(z).values().numel() == 0


def test_new_samples_are_labeled_by_the_nearest_row_of_all_coefficients():
    x = samples(30)
    model = model_of(SMALL, x)
    z, new = model.encoder(x), model.encoder(samples(6, seed=9))
    labels = torch.arange(30) % 3
    nearest = model.classifier(z, labels, 3, generator())
    fitted, rows = ((model.query(some) @ model.key(z).T).detach() for some in (z, new))
    cosine = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(fitted, dim=1).T
    best, at = cosine.max(dim=1, keepdim=True)
    expected = torch.zeros(6, 3, dtype=torch.float64).scatter_(1, labels[at], 1 + best)
    torch.testing.assert_close(nearest(new), expected)
    assert (nearest(z).argmax(dim=1) == labels).all()
    restored = SMALL.restore_classifier(nearest.state_dict(), None, 3)
    torch.testing.assert_close(restored(new), nearest(new), rtol=0, atol=0)


def peak_of_a_step(n_keys: int) -> float:
    """MB by which a step against so many keys raises a process's peak, beside the samples."""
    code = f"""
import resource, torch
from dsclust.methods.senet import SENetMethod
from dsclust.methods import senet
torch.set_num_threads(1)
x = torch.randn({n_keys}, 32)
model = senet.SENetModel(32, SENetMethod(width=128, n_keys=0), generator=torch.Generator())
def step(x, rows):
    model.begin_epoch(x, 0, torch.Generator())
    model.zero_grad()
    model.batch_loss(x[rows], rows).objective.backward()
step(x[:4096].clone(), torch.arange(100))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(x, torch.arange(100))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_of_a_step_does_not_grow_with_the_dictionary():
    # The keys alone would be 32 MB, their activations 160 MB; the list of the dictionary is 2 MB.
    assert peak_of_a_step(65_536) < 16


SUBSPACES = {"width": 64, "n_steps": 200, "random_state": 0}


def subspaces(n_clusters=3, per_cluster=90, dim=4, ambient=60, seed=0):
    rng = np.random.default_rng(seed)
    X = np.concatenate(
        [rng.standard_normal((per_cluster, dim)) @ rng.standard_normal((dim, ambient)) for _ in range(n_clusters)]
    )
    order = rng.permutation(len(X))
    return X[order], np.repeat(np.arange(n_clusters), per_cluster)[order]


@pytest.mark.parametrize("affinity", ["neighbors", "plain", "post"])
def test_a_union_of_subspaces_is_found_from_a_sparse_c(affinity):
    X, y = subspaces()
    model = SENet(3, affinity=affinity, n_coefficients=40, subspace_dim=4, **SUBSPACES).fit(X[:200])
    assert clustering_accuracy(y[:200], model.labels_) > 0.95
    assert clustering_accuracy(y, np.r_[model.labels_, model.predict(X[200:])]) > 0.9
    C = model.coefficients_
    assert isinstance(C, scipy.sparse.csr_array)
    assert C.shape == (200, 200)
    assert C.nnz <= 200 * 40
    assert not C.diagonal().any()
    assert C.dtype == np.float32
    assert scipy.sparse.issparse(model.affinity_matrix_) == (affinity != "post")
    assert {"epoch", "loss", "self_expression", "coefficients"} == set(model.history_[0])
    assert model.history_[-1]["loss"] < 0.7 * model.history_[0]["loss"]
    np.testing.assert_allclose(np.linalg.norm(model.transform(X), axis=1), 1, rtol=1e-5)


def test_a_saved_predictor_labels_alike(tmp_path):
    X, _ = subspaces()
    model = SENet(3, width=16, depth=1, n_steps=5, n_coefficients=9, random_state=0).fit(X)
    path = tmp_path / "model.safetensors"
    model.predictor_.save(path)
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()["dsclust"])["method"]
    assert stored == {"name": "senet", **SENetMethod(16, 1, n_steps=5, n_coefficients=9).__dict__}
    loaded = Predictor.load(path)
    np.testing.assert_array_equal(loaded.predict(X.astype(np.float32)), model.predict(X))
    np.testing.assert_array_equal(loaded.transform(X.astype(np.float32)), model.transform(X))


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed_is_equal_bit_by_bit(tmp_path, epoch):
    def interrupt(progress) -> None:
        if (progress.phase, progress.epoch) == ("train", epoch):
            raise KeyboardInterrupt

    data = load(load_digits().images[:150], pixel_range=(0, 16))
    settings = {"method": SENetMethod(width=16, n_keys=60, n_coefficients=20), "batch_size": 40, "epochs": 4}
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingInterrupted):
        cluster(data, 4, checkpoint=path, callback=interrupt, **settings)
    resumed = cluster(data, 4, checkpoint=path, resume=True, **settings)
    whole = cluster(data, 4, **settings)
    np.testing.assert_array_equal(resumed.coefficients.toarray(), whole.coefficients.toarray())
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    assert resumed.training.history == whole.training.history


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"width": 0}, ValueError, "SENet: width: expected at least 1, got 0"),
        ({"depth": 2.5}, TypeError, "SENet: depth: expected an integer, got 2.5"),
        ({"gamma": 0.0}, ValueError, "SENet: gamma: expected a finite number > 0, got 0.0"),
        ({"gamma": "x"}, TypeError, "SENet: gamma: expected a number, got 'x'"),
        ({"l1_ratio": 1.5}, ValueError, "SENet: l1_ratio: expected a finite number >= 0 and <= 1, got 1.5"),
        ({"n_keys": -1}, ValueError, "SENet: n_keys: expected at least 0, got -1"),
        ({"n_coefficients": True}, TypeError, "SENet: n_coefficients: expected an integer, got True"),
        ({"n_steps": 0}, ValueError, "SENet: n_steps: expected at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, error, text):
    with pytest.raises(error, match=text):
        SENet(2, **settings).fit(np.eye(5))


def test_steps_become_epochs_and_needs_follow_the_entries():
    method = SENetMethod()
    result = cluster(load(samples(30).numpy()), 2, SENetMethod(width=8, n_steps=5), batch_size=10)
    assert len(result.training.history) == 2  # 3 batches an epoch
    assert result.label_config.graph.affinity == "neighbors"
    n = 100_000
    sparse = required_bytes(Sizes(n, 100, method, "neighbors"))
    assert sparse < 0.03 * required_bytes(Sizes(n, 100, BDSCMethod(), "post"))
    assert required_bytes(Sizes(n, 100, method, "post")) == 32 * n**2


def test_what_cannot_fit_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda place: 1000)
    monkeypatch.setattr(pipeline, "fit", lambda *a, **k: pytest.fail("training was started"))
    with pytest.raises(MemoryError, match=r"30 samples need about .* for the 29 coefficients of each and their graph"):
        SENet(2).fit(samples(30).numpy())
