"""Energy-based self-expression: its loss against the formula written out, and that it clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dsclust import EnergySubspaceClustering, cluster
from dsclust.data import load
from dsclust.methods.energy import EnergyMethod, EnergyModel
from dsclust.metrics import clustering_accuracy
from dsclust.parts.method import Start
from dsclust.parts.networks import convolutional_autoencoder
from dsclust.presets import LossWeights
from dsclust.training.interrupt import TrainingInterrupted
from sklearn.datasets import load_digits
from torch.nn import functional as F


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(threshold: float = 0.05) -> tuple[EnergyModel, torch.Tensor]:
    net = convolutional_autoencoder((1, 8, 8), (3, 4), (3, 3), generator=generator(4)).double()
    model = EnergyModel(net, 5, LossWeights(0.5, 0.7, 3.0), width=6, generator=generator(1))
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64, generator=generator(7))
    with torch.no_grad():
        model.start(x, Start(len(x)))
    with torch.no_grad():
        model.threshold.fill_(threshold)
    return model, x


@pytest.mark.parametrize("threshold", [0.05, 0.0, -0.1])
def test_the_loss_is_the_formula_written_out(threshold):
    model, x = small(threshold)
    z = model.encoder(x)
    A = model.dictionary
    scores = model.query(F.normalize(z, dim=1)) @ model.key(F.normalize(A, dim=1)).T
    C = scores.sign() * F.relu(scores.abs() - model.threshold) / 6**0.5
    torch.testing.assert_close(model.codes(z), C)
    w = model.weights
    expected = (
        w.reconstruction * (x - model.decoder(C @ A)).square().sum()
        + w.self_expression * (z - C @ A).square().sum()
        + w.coefficients * (0.9 * C.abs().sum() + 0.05 * C.square().sum())
    )
    loss = model.batch_loss(x)
    torch.testing.assert_close(loss.objective, expected)
    torch.testing.assert_close(sum(loss.terms.values()), expected.detach())
    torch.testing.assert_close(loss.measures["code_l1"], C.detach().abs().sum())
    parameters = list(model.parameters())
    for found, wanted in zip(
        torch.autograd.grad(loss.objective, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_atoms_start_at_samples_and_codes_decide_the_graph():
    model, x = small()
    z = model.encoder(x).detach()
    distance = torch.cdist(model.dictionary.detach(), z).amin(1)
    torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-6, rtol=0)
    codes = model.codes(z).detach()
    C = model.coefficients(z)
    used = codes.norm(dim=1) > 0
    assert used.any()
    torch.testing.assert_close(C, C.T)
    torch.testing.assert_close(C.diagonal(), used.double())
    i, j = used.nonzero()[:2, 0]
    torch.testing.assert_close(C[i, j], F.cosine_similarity(codes[i], codes[j], dim=0))


def test_the_model_is_of_one_size_for_any_number_of_samples():
    method = EnergyMethod(atoms=7)
    assert method.training_words(10, 5) == method.training_words(10**6, 256) == 0


@pytest.mark.parametrize(("setting", "text"), [({"atoms": -1}, "atoms: expected at least 0"), ({"width": 0}, "width")])
def test_impossible_settings_are_refused(setting, text):
    with pytest.raises(ValueError, match=text):
        EnergySubspaceClustering(2, **setting).fit(np.eye(6))


def test_digits_beat_chance_and_the_loss_falls():
    data = load_digits()
    model = EnergySubspaceClustering(10, random_state=0, epochs=40).fit(data.images[:600])
    assert clustering_accuracy(data.target[:600], model.labels_) > 0.4
    assert model.history_[-1]["loss"] < 0.5 * model.history_[0]["loss"]
    assert model.history_[-1]["code_l1"] > 0


def test_interrupted_and_resumed_is_equal_bit_by_bit(tmp_path):
    def interrupt(progress) -> None:
        if (progress.phase, progress.epoch) == ("train", 2):
            raise KeyboardInterrupt

    data = load(load_digits().images[:200], pixel_range=(0, 16))
    settings = {"method": EnergyMethod(), "batch_size": 80, "epochs": 4, "pretrain_steps": 20}
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingInterrupted):
        cluster(data, 4, checkpoint=path, callback=interrupt, **settings)
    resumed = cluster(data, 4, checkpoint=path, resume=True, **settings)
    whole = cluster(data, 4, **settings)
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
    assert resumed.training.history == whole.training.history
