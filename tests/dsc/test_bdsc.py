"""BDSC against DSC-Net written out in plain PyTorch, and the gradient modes' promises."""

from __future__ import annotations

import pytest
import torch
from dsc.methods import BDSC
from dsc.networks import convolutional_autoencoder
from dsc.presets import LossWeights
from torch.nn import functional as F

N, WEIGHTS = 24, LossWeights(0.5, 0.7, 3.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(n: int = N) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, dtype=torch.float64, generator=generator(7))


def model(**options) -> BDSC:
    net = convolutional_autoencoder((1, 8, 8), (3, 4), (3, 3), generator=generator(4)).double()
    bdsc = BDSC(net, N, WEIGHTS, **options)
    # An uneven C, as after some training: at its constant start all columns would look alike.
    with torch.no_grad():
        bdsc.self_expression.Coefficient.copy_(torch.randn(N, N, dtype=torch.float64, generator=generator(2)) / 10)
        bdsc.bank.fill(bdsc.encoder(samples()))
    return bdsc


def relu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.0)


class PlainDSCNet:
    """Full-batch DSC-Net in bare tensor operations: dense autograd for C, one Adam for everything.

    For even sizes and 3 x 3 kernels SAME padding is one pixel right and below.
    """

    def __init__(self, bdsc: BDSC) -> None:
        self.p = {n: p.detach().clone().requires_grad_() for n, p in bdsc.named_parameters()}
        self.adam = torch.optim.Adam(self.p.values(), lr=1e-3)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        p, z = self.p, x
        for i in (0, 1):
            z = F.conv2d(F.pad(z, (0, 1, 0, 1)), p[f"encoder.{i}.weight"], stride=2)
            z = relu(z + p[f"encoder.{i}.bias"][:, None, None])
        shape, z = z.shape, z.flatten(1)
        C = p["self_expression.Coefficient"]
        expressed = C @ z
        y = expressed.reshape(shape)
        for i in (1, 2):
            y = F.conv_transpose2d(y, p[f"decoder.{i}.weight"], stride=2)[..., :-1, :-1]
            y = relu(y + p[f"decoder.{i}.bias"][:, None, None])
        return (
            WEIGHTS.reconstruction * ((x - y) ** 2).sum()
            + WEIGHTS.coefficients * (C**2).sum()
            + WEIGHTS.self_expression * ((z - expressed) ** 2).sum()
        )


def step(bdsc: BDSC, optimizers, x, rows=None) -> float:
    loss = bdsc.batch_loss(x, rows)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.objective.backward()
    for optimizer in optimizers:
        optimizer.step()
    return float(sum(loss.terms.values()))


@pytest.mark.parametrize("rows", [None, torch.randperm(N, generator=generator(9))], ids=["in order", "by rows"])
def test_one_live_batch_is_dsc_net_step_for_step(rows):
    x, bdsc = samples(), model()
    plain = PlainDSCNet(bdsc)
    optimizers = bdsc.optimizers(1e-3, n_batches=1)
    for _ in range(6):
        expected = plain.loss(x)
        plain.adam.zero_grad()
        expected.backward()
        plain.adam.step()
        total = step(bdsc, optimizers, x if rows is None else x[rows], rows)
        assert total == pytest.approx(expected.item(), rel=1e-12)
        for name, p in bdsc.named_parameters():
            if name != "self_expression.Coefficient":  # its penalty comes as weight decay
                assert torch.allclose(p.grad, plain.p[name].grad, rtol=1e-9, atol=1e-10), name
            assert torch.allclose(p, plain.p[name], rtol=1e-9, atol=1e-11), name


def test_gradient_of_c_is_dsc_nets_less_the_penalty():
    x, bdsc = samples(), model()
    plain = PlainDSCNet(bdsc)
    plain.loss(x).backward()
    bdsc.batch_loss(x).objective.backward()
    C = bdsc.self_expression.Coefficient
    expected = plain.p["self_expression.Coefficient"].grad - 2 * WEIGHTS.coefficients * C.detach()
    assert torch.allclose(C.grad, expected, rtol=1e-10, atol=1e-12)


def test_batches_add_up_to_the_full_loss():
    x, bdsc = samples(), model()
    full = bdsc.batch_loss(x).terms
    parts = [bdsc.batch_loss(x[rows], rows).terms for rows in torch.arange(N).split(7)]
    for name, value in full.items():
        assert float(sum(p[name] for p in parts)) == pytest.approx(float(value), rel=1e-12)


def encoder_gradients(bdsc: BDSC, loss: torch.Tensor) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(bdsc.encoder.parameters()), allow_unused=True))


def reconstruction_alone(gradient: str, rows) -> tuple[BDSC, torch.Tensor]:
    bdsc = model(gradient=gradient)
    bdsc.weights = LossWeights(1.0, 0.0, 0.0)
    x = samples()
    return bdsc, bdsc.batch_loss(x if rows is None else x[rows], rows).objective


batches = pytest.mark.parametrize("rows", [None, torch.arange(N), torch.tensor([5, 0, 19])], ids=["all", "one", "part"])


@batches
def test_detached_bank_gives_the_encoder_no_reconstruction_gradient(rows):
    bdsc, loss = reconstruction_alone("detach", rows)
    gradients = encoder_gradients(bdsc, loss)
    assert all(g is None or not g.any() for g in gradients)


@batches
@pytest.mark.parametrize("gradient", ["splice", "detach+ae"])
def test_the_other_modes_do_give_it(gradient, rows):
    bdsc, loss = reconstruction_alone(gradient, rows)
    assert all(g is not None and g.any() for g in encoder_gradients(bdsc, loss))


def test_detached_bank_still_moves_the_encoder_by_self_expression():
    bdsc = model(gradient="detach")
    bdsc.weights = LossWeights(0.0, 0.0, 1.0)
    rows = torch.tensor([3, 4, 8])
    loss = bdsc.batch_loss(samples()[rows], rows).objective
    assert all(g is not None and g.any() for g in encoder_gradients(bdsc, loss))


def test_autoencoder_term_is_the_plain_one():
    bdsc, rows = model(gradient="detach+ae"), torch.tensor([3, 4, 8])
    x = samples()[rows]
    expected = WEIGHTS.reconstruction * (bdsc.decoder(bdsc.encoder(x)) - x).square().sum()
    assert torch.allclose(bdsc.batch_loss(x, rows).terms["autoencoder"], expected)


def test_only_the_rows_of_the_batch_move():
    bdsc, rows = model(), torch.tensor([5, 0, 19])
    before = bdsc.coefficients().clone()
    optimizers = bdsc.optimizers(1e-3, n_batches=8)
    for _ in range(3):
        step(bdsc, optimizers, samples()[rows], rows)
    moved = (bdsc.coefficients() != before).any(dim=1)
    assert sorted(moved.nonzero().flatten().tolist()) == [0, 5, 19]


def test_the_batch_enters_the_bank_before_it_is_expressed():
    # With C the identity a detached batch is expressed by what the bank holds of itself.
    bdsc, rows = model(gradient="detach"), torch.tensor([5, 0, 19])
    with torch.no_grad():
        bdsc.self_expression.Coefficient.copy_(torch.eye(N))
        bdsc.bank.features.zero_()
    loss = bdsc.batch_loss(samples()[rows], rows)
    assert float(loss.terms["self_expression"]) == 0.0
    assert torch.equal(bdsc.bank.features[rows], bdsc.encoder(samples()[rows]).detach())


def test_drift_is_relative_change_since_the_last_visit():
    bdsc, rows = model(), torch.tensor([5, 0, 19])
    x = samples()[rows]
    bdsc.batch_loss(x, rows)
    assert float(bdsc.batch_loss(x, rows).measures["drift"]) == pytest.approx(0.0, abs=1e-14)
    bdsc.bank.features.mul_(1.5)
    assert float(bdsc.batch_loss(x, rows).measures["drift"]) == pytest.approx(3 * 0.5, rel=1e-12)


def test_networks_step_at_a_share_of_the_rate_and_c_at_all_of_it():
    networks, coefficients = model().optimizers(1e-3, n_batches=4)
    assert networks.param_groups[0]["lr"] == 1e-3 / 4
    assert coefficients.param_groups[0]["lr"] == 1e-3
    assert coefficients.param_groups[0]["weight_decay"] == 2 * WEIGHTS.coefficients


def test_zero_diagonal_is_excluded_from_product_and_result():
    bdsc = model(zero_diagonal=True)
    assert not bdsc.coefficients().diagonal().any()
    with torch.no_grad():
        before = bdsc.batch_loss(samples()).terms
        bdsc.self_expression.Coefficient.fill_diagonal_(9.0)
        after = bdsc.batch_loss(samples()).terms
    assert torch.allclose(before["self_expression"], after["self_expression"], rtol=1e-12)


def test_impossible_modes_are_refused():
    with pytest.raises(ValueError, match=r"gradient.*splice.*got 'both'"):
        model(gradient="both")
    with pytest.raises(ValueError, match="fifo"):
        model(bank_update="fifo", shuffled=True)
