"""BDSC against DSC-Net written out in plain PyTorch; what gradient modes and ways to consistency promise."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from dsclust import BDSC
from dsclust.methods.bdsc import BDSCMethod, BDSCModel
from dsclust.parts.consistency import CONSISTENCIES, Consistency, MomentumEncoder, Refresh
from dsclust.parts.networks import convolutional_autoencoder
from dsclust.presets import LossWeights
from sklearn.datasets import load_digits
from torch.nn import functional as F

from dsc_ext import RowAdam, SelfExpressiveCUDA

N, WEIGHTS = 24, LossWeights(0.5, 0.7, 3.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(n: int = N) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, dtype=torch.float64, generator=generator(7))


def model(chunk: int | None = None, n_batches: int = 1, **options) -> BDSCModel:
    net = convolutional_autoencoder((1, 8, 8), (3, 4), (3, 3), generator=generator(4)).double()
    bdsc = BDSCModel(net, N, WEIGHTS, BDSCMethod(**options), n_batches=n_batches, chunk=chunk)
    # An uneven C, as after some training: at its constant start all columns would look alike.
    with torch.no_grad():
        C = torch.randn(N, N, dtype=torch.float64, generator=generator(2)) / 10
        bdsc.self_expression.Coefficient.copy_(C.fill_diagonal_(0.0) if bdsc.self_expression.zero_diagonal else C)
        bdsc.bank.fill(bdsc.encoder(samples()))
    return bdsc


def relu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.0)


class PlainDSCNet:
    """Full-batch DSC-Net in bare tensor operations: dense autograd for C, one Adam for everything.

    For even sizes and 3 x 3 kernels SAME padding is one pixel right and below. With an l1 penalty the diagonal is
    masked out of C.
    """

    def __init__(self, bdsc: BDSCModel, penalty: str = "l2") -> None:
        self.penalty = penalty
        self.p = {n: p.detach().clone().requires_grad_() for n, p in bdsc.named_parameters()}
        self.adam = torch.optim.Adam(self.p.values(), lr=1e-3)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        p, z = self.p, x
        for i in (0, 1):
            z = F.conv2d(F.pad(z, (0, 1, 0, 1)), p[f"encoder.{i}.weight"], stride=2)
            z = relu(z + p[f"encoder.{i}.bias"][:, None, None])
        shape, z = z.shape, z.flatten(1)
        C = p["self_expression.Coefficient"]
        if self.penalty == "l1":
            C = C - torch.diag(torch.diag(C))
        expressed = C @ z
        y = expressed.reshape(shape)
        for i in (1, 2):
            y = F.conv_transpose2d(y, p[f"decoder.{i}.weight"], stride=2)[..., :-1, :-1]
            y = relu(y + p[f"decoder.{i}.bias"][:, None, None])
        return (
            WEIGHTS.reconstruction * ((x - y) ** 2).sum()
            + WEIGHTS.coefficients * (C.abs().sum() if self.penalty == "l1" else (C**2).sum())
            + WEIGHTS.self_expression * ((z - expressed) ** 2).sum()
        )


def step(bdsc: BDSCModel, optimizers, x, rows=None) -> float:
    loss, price = bdsc.batch_loss(x, rows), bdsc.price()
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.objective.backward()
    for optimizer in optimizers:
        optimizer.step()
    return float(sum(loss.terms.values()) + price)


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
            if name != "self_expression.Coefficient":  # the backward pass has stepped it and kept no gradient
                assert torch.allclose(p.grad, plain.p[name].grad, rtol=1e-9, atol=1e-10), name
            assert torch.allclose(p, plain.p[name], rtol=1e-9, atol=1e-11), name


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_gradient_of_c_is_that_of_the_whole_loss_written_out(penalty):
    x, bdsc = samples(), model(penalty=penalty, zero_diagonal=penalty == "l1")
    plain = PlainDSCNet(bdsc, penalty)
    expected = plain.loss(x)
    expected.backward()
    loss = bdsc.batch_loss(x)
    assert float(sum(loss.terms.values()) + bdsc.price()) == pytest.approx(expected.item(), rel=1e-12)
    loss.objective.backward()
    gradient = bdsc.self_expression.exp_avg / (1 - 0.9)  # what a first step of Adam makes of it
    assert torch.allclose(gradient, plain.p["self_expression.Coefficient"].grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("zero_diagonal", [False, True])
@pytest.mark.parametrize("gradient", ["splice", "detach+ae"])
def test_the_step_inside_the_backward_pass_is_row_adam_after_it(gradient, zero_diagonal):
    fused = model(gradient=gradient, zero_diagonal=zero_diagonal)
    apart = copy.deepcopy(fused)
    apart.self_expression = SelfExpressiveCUDA(N, zero_diagonal=zero_diagonal, dtype=torch.float64)
    apart.self_expression.load_state_dict({"Coefficient": fused.coefficients().clone()})
    C = apart.self_expression.Coefficient
    optimizers = [
        (fused, fused.optimizers(1e-2, n_batches=3)),
        (apart, [*apart.optimizers(1e-2, n_batches=3), RowAdam([C], lr=1e-2, weight_decay=2 * WEIGHTS.coefficients)]),
    ]
    for epoch in range(3):
        for rows in torch.randperm(N, generator=generator(epoch)).split(8):
            losses = [step(bdsc, own, samples()[rows], rows) for bdsc, own in optimizers]
            assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert fused.self_expression.Coefficient.grad is None
    for name, p in apart.named_parameters():
        assert torch.allclose(p, dict(fused.named_parameters())[name], rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("gradient", ["splice", "detach", "detach+ae"])
def test_the_gradient_in_chunks_is_that_of_the_full_batch(gradient, dtype):
    whole, chunked = (model(gradient=gradient, chunk=chunk).to(getattr(torch, dtype)) for chunk in (N, 7))
    x = samples().to(getattr(torch, dtype))
    for bdsc in (whole, chunked):
        bdsc.loss = bdsc.batch_loss(x)
        bdsc.loss.objective.backward()
    precision = 1e-12 if dtype == "float64" else 1e-5
    for name, term in whole.loss.terms.items():
        assert float(chunked.loss.terms[name]) == pytest.approx(float(term), rel=precision)
    pairs = list(zip(whole.parameters(), chunked.parameters(), strict=True))
    gradients = [(p.grad, q.grad) for p, q in pairs if p is not whole.self_expression.Coefficient]
    gradients.append((whole.self_expression.exp_avg, chunked.self_expression.exp_avg))
    for expected, found in gradients:
        assert (found - expected).norm() <= precision * expected.norm()


def test_chunks_keep_no_activations_but_their_own():
    x, kept = samples().repeat(8, 1, 1, 1), {}
    net = convolutional_autoencoder((1, 8, 8), (16, 2), (3, 3), generator=generator()).double()
    for chunk in (len(x), 8):
        bdsc = BDSCModel(copy.deepcopy(net), len(x), WEIGHTS, BDSCMethod(), chunk=chunk)
        bdsc.bank.fill(torch.zeros_like(bdsc.bank.features))
        kept[chunk] = 0

        def count(tensor: torch.Tensor, chunk: int = chunk) -> torch.Tensor:
            kept[chunk] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            bdsc.batch_loss(x)
    assert kept[8] < kept[len(x)] / 5


def test_batches_add_up_to_the_full_loss():
    x, bdsc = samples(), model()
    full = bdsc.batch_loss(x).terms
    parts = [bdsc.batch_loss(x[rows], rows).terms for rows in torch.arange(N).split(7)]
    for name, value in full.items():
        assert float(sum(p[name] for p in parts)) == pytest.approx(float(value), rel=1e-12)


def encoder_gradients(bdsc: BDSCModel, loss: torch.Tensor) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(bdsc.encoder.parameters()), allow_unused=True))


def reconstruction_alone(gradient: str, rows) -> tuple[BDSCModel, torch.Tensor]:
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


@pytest.mark.parametrize("consistency", CONSISTENCIES)
def test_networks_step_at_a_share_of_the_rate_under_the_rule_alone_and_c_at_all_of_it(consistency):
    bdsc = model(consistency=consistency)
    (networks,) = bdsc.optimizers(1e-3, n_batches=4)
    assert networks.param_groups[0]["lr"] == (1e-3 / 4 if consistency == "lr" else 1e-3)
    assert bdsc.self_expression.lr == 1e-3
    assert bdsc.self_expression.fused_adam.weight_decay == 2 * WEIGHTS.coefficients
    held = {id(p) for group in networks.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*bdsc.encoder.parameters(), *bdsc.decoder.parameters())}


def test_a_zero_diagonal_is_excluded_from_the_product_and_stays():
    net = convolutional_autoencoder((1, 8, 8), (3,), (3,), generator=generator())
    C = BDSCModel(net, N, WEIGHTS, BDSCMethod(zero_diagonal=True), coefficient_init=0.5).coefficients()
    assert torch.equal(C, 0.5 * (1 - torch.eye(N)))
    bdsc = model(zero_diagonal=True)
    optimizers = bdsc.optimizers(1e-3, n_batches=1)
    for _ in range(3):
        step(bdsc, optimizers, samples())
    assert not bdsc.coefficients().diagonal().any()
    with torch.no_grad():
        before = bdsc.batch_loss(samples()).terms
        bdsc.self_expression.Coefficient.fill_diagonal_(9.0)
        after = bdsc.batch_loss(samples()).terms
    assert torch.allclose(before["self_expression"], after["self_expression"], rtol=1e-12)


def moved(bdsc: BDSCModel) -> BDSCModel:
    """With an encoder that has left the bank behind."""
    with torch.no_grad():
        for p in bdsc.encoder.parameters():
            p.mul_(1.2)
    return bdsc


def test_a_momentum_encoder_follows_and_writes_the_bank():
    momentum = [MomentumEncoder.momentum(k) for k in (1, 10, 20, 5000)]
    assert momentum == pytest.approx([0.9, 0.9, 0.95, 0.999])
    bdsc, rows = model(consistency="momentum", n_batches=20), torch.tensor([5, 0, 19])
    before = bdsc.bank.features.clone()
    expected = copy.deepcopy(bdsc.encoder)
    moved(bdsc)
    with torch.no_grad():
        for p in expected.parameters():
            p.mul_(0.95 + 0.05 * 1.2)
    loss = bdsc.batch_loss(samples()[rows], rows)
    torch.testing.assert_close(bdsc.bank.features[rows], expected(samples()[rows]).detach())
    others = torch.ones(N, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(bdsc.bank.features[others], before[others])
    # The batch itself is live, from the encoder in training.
    z = bdsc.encoder(samples()[rows])
    bank = bdsc.bank.features.index_copy(0, rows, z.detach())
    wanted = WEIGHTS.self_expression * (z - bdsc.coefficients()[rows] @ bank).square().sum()
    torch.testing.assert_close(loss.terms["self_expression"], wanted.detach())
    assert all(p.grad is None and not p.requires_grad for p in bdsc.follower.parameters())
    assert any(name.startswith("follower.") for name in bdsc.state_dict())


@pytest.mark.parametrize("rows", [None, torch.tensor([5, 0, 19])], ids=["all", "part"])
def test_averaged_rows_keep_a_share_of_the_old(rows):
    bdsc = model(consistency="ema:momentum=0.3")
    before = bdsc.bank.features.clone()
    chosen = slice(None) if rows is None else rows
    z = moved(bdsc).encoder(samples()[chosen]).detach()
    bdsc.batch_loss(samples()[chosen], rows)
    torch.testing.assert_close(bdsc.bank.features[chosen], 0.3 * before[chosen] + 0.7 * z)


def test_a_refreshed_bank_is_encoded_anew_every_so_many_epochs():
    bdsc = moved(model(consistency="refresh:every=2", chunk=7))
    stale = bdsc.bank.features.clone()
    bdsc.begin_epoch(samples(), 1, generator())
    assert torch.equal(bdsc.bank.features, stale)
    bdsc.begin_epoch(samples(), 2, generator())
    torch.testing.assert_close(bdsc.bank.features, bdsc.encoder(samples()).detach())


@pytest.mark.parametrize("bank", ["index", "fifo"])
@pytest.mark.parametrize("gradient", ["splice", "detach"])
def test_a_fresh_bank_is_never_stale_and_in_order(gradient, bank):
    bdsc, rows = model(consistency="fresh", gradient=gradient, bank=bank), torch.tensor([5, 0, 19])
    bdsc.begin_epoch(samples(), 0, generator())
    loss = moved(bdsc).batch_loss(samples()[rows], rows)
    torch.testing.assert_close(bdsc.bank.features, bdsc.encoder(samples()).detach())
    assert float(loss.measures["drift"]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("consistency", ["lr", "none"])
def test_other_rows_of_the_bank_stay_as_they_are_without_a_remedy(consistency):
    bdsc, rows = model(consistency=consistency), torch.tensor([5, 0, 19])
    before = bdsc.bank.features.clone()
    bdsc.begin_epoch(samples(), 0, generator())
    moved(bdsc).batch_loss(samples()[rows], rows)
    changed = (bdsc.bank.features != before).any(dim=1)
    assert sorted(changed.nonzero().flatten().tolist()) == [0, 5, 19]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"consistency": "hope"}, "BDSC: consistency: expected one of lr, momentum, .* got 'hope'"),
        ({"penalty": "l0"}, "BDSC: penalty: expected one of l2, l1, got 'l0'"),
        ({"penalty": "l1"}, "BDSC: zero_diagonal: expected true with penalty 'l1'"),
        ({"consistency": "refresh:every=0"}, "consistency refresh: every: expected at least 1, got 0"),
        ({"consistency": "ema:momentum=1.0"}, "consistency ema: momentum: expected .* < 1, got 1.0"),
        (
            {"consistency": "ema:speed=1.0"},
            r"BDSC: consistency: expected settings of ema \(momentum\), got 'speed=1.0'",
        ),
        ({"consistency": "refresh:every=often"}, "BDSC: consistency: refresh: every: expected an integer, got 'often'"),
        ({"bank": "fifo", "consistency": "ema"}, "BDSC: bank: expected 'index' with consistency 'ema'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BDSCMethod(**settings)


def test_a_part_is_written_one_way_and_may_be_passed_as_an_object():
    assert BDSCMethod(consistency=Refresh(every=1)) == BDSCMethod(consistency="refresh:every=1")
    assert BDSCMethod(consistency="refresh:every=1").settings()["consistency"] == "refresh"
    assert BDSCMethod(consistency=Refresh(every=3)).settings()["consistency"] == "refresh:every=3"
    assert BDSCMethod(consistency="refresh:every=3").rule == Refresh(every=3)


@pytest.fixture
def halved():
    """A rule that nobody else knows: new rows enter the bank at half their length."""

    @CONSISTENCIES.register
    @dataclass(frozen=True)
    class Halved(Consistency):
        name: ClassVar[str] = "halved"
        summary: ClassVar[str] = "rows enter at half their length"
        share: float = 0.5

        def enter(self, held, x, rows, Z) -> None:
            held.write(rows, self.share * Z)

    yield
    del CONSISTENCIES._kinds["halved"]


@pytest.mark.parametrize(("spec", "share"), [("halved", 0.5), ("halved:share=0.25", 0.25)])
def test_a_new_rule_is_one_class_that_every_face_finds_by_its_name(halved, spec, share):
    bdsc, rows = model(consistency=spec), torch.tensor([5, 0, 19])
    bdsc.batch_loss(samples()[rows], rows)
    torch.testing.assert_close(bdsc.bank.features[rows], share * bdsc.encoder(samples()[rows]).detach())
    X = load_digits().images[:60]
    estimator = BDSC(3, batch_size=20, consistency=spec, epochs=1, pretrain_steps=5, random_state=0)
    assert estimator.fit(X).predictor_.method.rule.share == share


def test_the_penalty_of_an_epoch_is_that_of_its_batches():
    bdsc = model()
    optimizers = bdsc.optimizers(1e-3, n_batches=3)
    bdsc.begin_epoch(samples(), 0, generator())
    expected = 0.0
    for rows in torch.randperm(N, generator=generator(3)).split(8):
        expected += WEIGHTS.coefficients * float(bdsc.coefficients()[rows].square().sum())
        step(bdsc, optimizers, samples()[rows], rows)
    assert bdsc.epoch_terms()["coefficients"] == pytest.approx(expected, rel=1e-12)
