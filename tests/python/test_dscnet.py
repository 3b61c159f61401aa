"""DSC-Net: step for step its formula in plain PyTorch, published sizes and weights, and that it is full batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from dsclust import BDSC, DSCNet
from dsclust.data import load
from dsclust.methods.bdsc import BDSCMethod
from dsclust.methods.dscnet import DSCNetMethod
from dsclust.parts.method import Pretrained, Problem
from dsclust.parts.networks import build_autoencoder, convolutional_autoencoder
from dsclust.presets import LossWeights, get_preset
from dsclust.training.config import PretrainConfig, TrainConfig
from dsclust.training.interrupt import TrainingInterrupted
from dsclust.training.trainer import fit
from sklearn.datasets import load_digits
from torch.nn import functional as F

QUICK = {"epochs": 3, "pretrain_steps": 20, "random_state": 0}
PRETRAINING = PretrainConfig(draws=1, trial_steps=10, min_steps=20, max_steps=20)
N, WEIGHTS = 24, LossWeights(0.5, 0.7, 3.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(method, chunk: int = N):
    """The model as the trainer gets it, in float64, with an uneven C, and the same network once more."""
    nets = [convolutional_autoencoder((1, 8, 8), (3,), (3,), generator=generator(4)).double() for _ in range(2)]
    problem = Problem(get_preset("digits", 4), (1, 8, 8), N, 4, chunk, method.full_batch)
    model = method.model(problem, Pretrained(nets[0], WEIGHTS), generator())
    C = torch.randn(N, N, dtype=torch.float64, generator=generator(2)) / 10
    with torch.no_grad():
        model.self_expression.Coefficient.copy_(C.fill_diagonal_(0.0) if method.penalty == "l1" else C)
    return model, nets[1], problem


@pytest.mark.parametrize("chunk", [N, 7])
@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_step_for_step_the_published_objective(penalty, chunk):
    model, net, problem = made(DSCNetMethod(penalty), chunk)
    assert problem.n_batches == 1
    C = model.coefficients().clone().requires_grad_()
    adam = torch.optim.Adam([*net.parameters(), C], lr=1e-2)
    optimizers = model.optimizers(1e-2, problem.n_batches)
    x = torch.rand(N, 1, 8, 8, dtype=torch.float64, generator=generator(7))
    for _ in range(6):
        z = net.encoder(x)
        off = C - torch.diag(torch.diag(C)) if penalty == "l1" else C
        price = off.abs().sum() if penalty == "l1" else off.square().sum()
        expected = (
            WEIGHTS.reconstruction * F.mse_loss(net.decoder(off @ z), x, reduction="sum")
            + WEIGHTS.self_expression * F.mse_loss(off @ z, z, reduction="sum")
            + WEIGHTS.coefficients * price
        )
        adam.zero_grad()
        expected.backward()
        adam.step()
        loss = model.batch_loss(x)
        assert float(sum(loss.terms.values()) + model.price()) == pytest.approx(expected.item(), rel=1e-10)
        assert float(model.price()) == pytest.approx(WEIGHTS.coefficients * price.item(), rel=1e-10)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.objective.backward()
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(model.coefficients(), C.detach(), rtol=1e-8, atol=1e-10)
        for found, wanted in zip(model.encoder.parameters(), net.encoder.parameters(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    assert (model.coefficients().diagonal() == 0).all() == (penalty == "l1")


def test_one_batch_of_bdsc_is_dsc_net_bit_by_bit():
    data = load(load_digits().images[:60], pixel_range=(0, 16))
    config = TrainConfig(get_preset("digits", 4), 4, method=DSCNetMethod(), epochs=4, pretraining=PRETRAINING)
    runs = [fit(data, config), fit(data, dataclasses.replace(config, method=BDSCMethod()))]
    assert torch.equal(runs[0].coefficients, runs[1].coefficients)
    assert runs[0].history == runs[1].history


@pytest.mark.parametrize(
    ("preset", "shape", "clusters", "count"),
    [("orl", (1, 32, 32), 40, 504), ("eyaleb", (1, 48, 42), 38, 14_991), ("mnist", (1, 28, 28), 10, 14_991)],
)
def test_autoencoders_are_as_large_as_published(preset, shape, clusters, count):
    net = build_autoencoder(get_preset(preset, clusters), shape, generator())
    assert sum(p.numel() for p in net.parameters()) == count


def test_mnist_has_as_many_parameters_as_published():
    preset = get_preset("mnist", 10)
    net = build_autoencoder(preset, (1, 28, 28), generator()).to("meta")  # sizes without memory
    problem = Problem(preset, (1, 28, 28), 10_000, 10, 1000, True)
    assert preset.weights is not None
    model = DSCNetMethod().model(problem, Pretrained(net, preset.weights), generator())
    assert sum(p.numel() for p in model.parameters()) == 100_014_991
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_published_weights_are_the_ports_in_normal_form():
    # The port's (1, 2, 0.2), (1, 1, 75), (1, 1, 15); the original halves squared errors in some scripts.
    expected = {"orl": (1.0, 2.0, 0.2), "coil20": (1.0, 1.0, 75.0), "coil100": (1.0, 1.0, 15.0)}
    for name, weights in expected.items():
        found = get_preset(name, 20).weights
        assert found is not None
        assert dataclasses.astuple(found.normal_form()) == pytest.approx(weights)


def test_scale_free_weights_price_averaging_over_clusters_alike():
    problem = Problem(get_preset("digits", 5), (1, 8, 8), 40, 5, 40, True)
    C = torch.block_diag(*[torch.full((8, 8), 1 / 8)] * 5)
    for penalty, size in (("l2", C.square().sum()), ("l1", C.abs().sum())):
        weights = DSCNetMethod(penalty).scale_free_weights(problem, 3.0, 2.0)
        assert weights.coefficients * float(size) == pytest.approx(40)
        assert (weights.reconstruction, weights.self_expression) == (1 / 3, 1 / 2)


def test_a_batch_size_changes_the_last_digits_alone():
    X = load_digits().images[:60]
    whole, chunked = (DSCNet(4, batch_size=size, **QUICK).fit(X) for size in (None, 25))

    def distance(model) -> float:
        return np.linalg.norm(model.coefficients_ - whole.coefficients_) / np.linalg.norm(whole.coefficients_)

    assert whole.n_iter_ == chunked.n_iter_ == 3
    assert distance(chunked) < 1e-5
    assert distance(BDSC(4, batch_size=25, **QUICK).fit(X)) > 1e-4


def test_the_l1_penalty_keeps_the_diagonal_out_and_is_another_c():
    X = load_digits().images[:60]
    l1, l2 = (DSCNet(4, penalty=penalty, **QUICK).fit(X) for penalty in ("l1", "l2"))
    assert not l1.coefficients_.diagonal().any()
    assert l2.coefficients_.diagonal().any()
    with pytest.raises(ValueError, match="DSC-Net: penalty: expected one of l2, l1, got 'l3'"):
        DSCNet(4, penalty="l3", **QUICK).fit(X)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_interrupted_and_resumed_is_equal_bit_by_bit(tmp_path, penalty):
    def interrupt(progress) -> None:
        if (progress.phase, progress.epoch) == ("train", 3):
            raise KeyboardInterrupt

    data = load(load_digits().images[:60], pixel_range=(0, 16))
    config = TrainConfig(
        get_preset("digits", 4), 4, DSCNetMethod(penalty), batch_size=25, epochs=5, pretraining=PRETRAINING
    )
    path = tmp_path / "checkpoint"
    with pytest.raises(TrainingInterrupted):
        fit(data, config, checkpoint=path, callback=interrupt)
    resumed, whole = fit(data, config, checkpoint=path, resume=True), fit(data, config)
    assert torch.equal(resumed.coefficients, whole.coefficients)
    assert resumed.history == whole.history
