"""SSCN: its loss against the formula written out, parameter counts, the classifier, and labels of new samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from dsclust import SSCN, Predictor, cluster
from dsclust.data import load
from dsclust.methods import sscn
from dsclust.methods.bdsc import BDSCMethod
from dsclust.metrics import clustering_accuracy
from dsclust.parts.networks import build_autoencoder, convolutional_autoencoder
from dsclust.presets import LossWeights, get_preset
from dsclust.training.interrupt import TrainingInterrupted
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

QUICK = {"epochs": 3, "pretrain_steps": 20, "random_state": 0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:300]


def test_the_loss_is_the_published_one_with_the_gram_matrix_written_out():
    net = convolutional_autoencoder((1, 8, 8), (3, 4), (3, 3), generator=generator(4)).double()
    weights = LossWeights(0.5, 0.7, 3.0)
    model = sscn.SSCNModel(net, 3, 2, weights, generator=generator(1))
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64, generator=generator(7))
    z = net.encoder(x)
    h = z @ model.subspaces
    assert h.shape == (12, 6)
    Q = h @ h.T
    expected = (
        weights.reconstruction * (x - net.decoder(Q @ z)).square().sum()
        + weights.self_expression * (z - Q @ z).square().sum()
        + weights.coefficients * Q.square().sum()
    )
    loss = model.batch_loss(x)
    torch.testing.assert_close(loss.objective, expected)
    torch.testing.assert_close(sum(loss.terms.values()), expected.detach())
    torch.testing.assert_close(model.coefficients(z), Q.detach())
    parameters = list(model.parameters())
    for found, wanted in zip(
        torch.autograd.grad(loss.objective, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_parameters_on_mnist_are_as_many_as_published():
    preset = get_preset("mnist", 10)
    net = build_autoencoder(preset, (1, 28, 28), generator())
    assert sum(p.numel() for p in net.parameters()) == 14_991
    model = sscn.SSCNModel(net, 10, preset.graph.subspace_dim, LossWeights(1, 1, 1), generator=generator())
    classifier = sscn.SubspaceClassifier(10, preset.graph.subspace_dim)
    count = sum(p.numel() for module in (model, classifier) for p in module.parameters())
    assert count == 66_291


def test_the_classifier_finds_rotated_subspaces_and_stays_orthogonal():
    K, d, n = 4, 3, 400
    basis = torch.linalg.qr(torch.randn(K * d, K * d, generator=generator(1)))[0]
    labels = torch.arange(n) % K
    h = torch.zeros(n, K, d)
    h[torch.arange(n), labels] = torch.randn(n, d, generator=generator(2))
    h = (h.flatten(1) + 0.05 * torch.randn(n, K * d, generator=generator(3))) @ basis
    classifier = sscn.SubspaceClassifier(K, d)
    assert (classifier(h).argmax(1) == labels).float().mean() < 0.6
    history = classifier.fit(h[:300], labels[:300], generator=generator(), batch_size=100)
    assert history[-1] < history[0]
    assert (classifier(h[300:]).argmax(1) == labels[300:]).float().mean() > 0.95
    R = classifier.rotation.weight
    torch.testing.assert_close(R @ R.T, torch.eye(K * d), atol=1e-4, rtol=0)
    # A score is a constant of the row minus the squared distance to a subspace.
    turned = classifier.rotation(h).unflatten(1, (K, d))
    for k in range(K):
        outside = turned.clone()
        outside[:, k] = 0
        distance = outside.square().sum((1, 2))
        torch.testing.assert_close(classifier(h)[:, k] + distance, turned.square().sum((1, 2)))


def test_labels_are_those_predict_gives_and_new_samples_get_theirs(digits):
    model = SSCN(4, batch_size=100, **QUICK).fit(digits)
    np.testing.assert_array_equal(model.labels_, model.predict(digits))
    assert model.spectral_labels_.shape == (300,)
    new = load_digits().images[300:340]
    assert model.predict(new).shape == (40,)
    assert model.predict(new).dtype == np.int64
    # One sample alone, on another scale of its own, is labeled as it is among others.
    np.testing.assert_array_equal(model.predict(new[:1] / 1.0), model.predict(new)[:1])
    assert model.transform(new).shape[0] == 40


def test_a_saved_predictor_labels_alike_and_other_files_are_refused(digits, tmp_path):
    model = SSCN(4, batch_size=100, **QUICK).fit(digits)
    path = tmp_path / "model.safetensors"
    model.predictor_.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["dsclust"])["method"] == {"name": "sscn"}
    loaded = Predictor.load(path)
    X = np.asarray(digits, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)
    np.testing.assert_array_equal(loaded.transform(X), model.transform(digits))
    with pytest.raises(ValueError, match=r"X: expected samples of shape \(1, 8, 8\), got \(1, 9, 9\)"):
        loaded.predict(np.zeros((2, 1, 9, 9), dtype=np.float32))
    with pytest.raises(FileNotFoundError, match="no model"):
        Predictor.load(tmp_path / "none")
    (tmp_path / "text").write_text("x")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=f"{name} is not a model of dsclust"):
            Predictor.load(tmp_path / name)


def test_predict_before_fit_and_impossible_settings_are_refused(digits):
    with pytest.raises(NotFittedError):
        SSCN(4).predict(digits)
    with pytest.raises(ValueError, match="SSCN: n_clusters"):
        SSCN(0).fit(digits)
    with pytest.raises(TypeError, match="SSCN: batch_size"):
        SSCN(2, batch_size=1.5).fit(digits)


def test_digits_beat_chance_and_the_held_out_half_keeps_up():
    data = load_digits()
    X, y = data.images, data.target
    model = SSCN(10, epochs=60, pretrain_steps=600, random_state=0).fit(X[:600])
    inside = clustering_accuracy(y[:600], model.labels_)
    outside = clustering_accuracy(y[600:], model.predict(X[600:]))
    assert inside > 0.5
    assert outside > inside - 0.1


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed_is_equal_bit_by_bit(digits, tmp_path, epoch):
    def interrupt(progress) -> None:
        if (progress.phase, progress.epoch) == ("train", epoch):
            raise KeyboardInterrupt

    data = load(digits, pixel_range=(0, 16))
    settings = {"method": sscn.SSCNMethod(), "batch_size": 100, "epochs": 4, "pretrain_steps": 20}
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingInterrupted):
        cluster(data, 4, checkpoint=path, callback=interrupt, **settings)
    resumed = cluster(data, 4, checkpoint=path, resume=True, **settings)
    whole = cluster(data, 4, **settings)
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    assert resumed.training.history == whole.training.history
    with pytest.raises(ValueError, match=r"another run.*method\.name was 'sscn', now 'bdsc'"):
        cluster(data, 4, checkpoint=path, resume=True, **{**settings, "method": BDSCMethod()})
