"""The fused step is RowAdam on the composable op, and the layer that steps in its backward pass is that in a loop."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsc_ext
from dsc_ext import FusedAdam, RowAdam, SelfExpressiveCUDA, reference

N, D = 23, 5


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(settings: FusedAdam, dtype: torch.dtype = torch.float64, **options) -> tuple:  # type: ignore[no-untyped-def,type-arg]
    """A layer that steps itself, and one with the same coefficients for RowAdam."""
    start = torch.randn(N, N, generator=random(), dtype=dtype) / 10
    fused = SelfExpressiveCUDA(N, fused_adam=settings, dtype=dtype, **options)
    plain = SelfExpressiveCUDA(N, dtype=dtype, **options)
    with torch.no_grad():
        fused.Coefficient.copy_(start)
        plain.Coefficient.copy_(start)
    return fused, plain


def backward(layer: SelfExpressiveCUDA, z: Tensor, *batch: Tensor, splice: bool = True, scale: float = 1.0) -> Tensor:
    """One forward and backward pass of ‖z − ẑ‖²; gives ∂/∂z."""
    z = z.detach().requires_grad_()
    ((z - layer(z, *batch, splice=splice)).square().sum() * scale).backward()
    assert z.grad is not None
    return z.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("zero_diagonal", [True, False])
@pytest.mark.parametrize("penalties", [{}, {"weight_decay": 0.3, "l1": 0.02}])
@pytest.mark.parametrize("batch", ["all", "spliced", "bank"])
def test_the_layer_is_row_adam(
    dtype: torch.dtype, zero_diagonal: bool, penalties: dict[str, float], batch: str
) -> None:
    fused, plain = layers(FusedAdam(lr=1e-2, **penalties), dtype, zero_diagonal=zero_diagonal)  # type: ignore[arg-type]
    optimizer = RowAdam([plain.Coefficient], lr=1e-2, **penalties)
    generator = random(1)
    bank = torch.randn(N, D, generator=generator, dtype=dtype)
    for _ in range(5):
        rows = torch.randperm(N, generator=generator)[:9]
        z = torch.randn(N if batch == "all" else 9, D, generator=generator, dtype=dtype)
        arguments = () if batch == "all" else (rows, bank)
        optimizer.zero_grad()
        wanted = backward(plain, z, *arguments, splice=batch == "spliced")
        optimizer.step()
        torch.testing.assert_close(backward(fused, z, *arguments, splice=batch == "spliced"), wanted)
        torch.testing.assert_close(fused.Coefficient, plain.Coefficient)
    assert fused.Coefficient.grad is None
    assert torch.equal(fused.row_step, optimizer.state[plain.Coefficient]["row_step"])


def test_decoupled_decay_is_adamw() -> None:
    fused, plain = layers(FusedAdam(lr=1e-2, weight_decay=0.3, decoupled=True))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.3)
    for seed in range(5):
        z = torch.randn(N, D, generator=random(seed), dtype=torch.float64)
        optimizer.zero_grad()
        backward(plain, z)
        optimizer.step()
        backward(fused, z)
        torch.testing.assert_close(fused.Coefficient, plain.Coefficient)


def test_proximal_steps_find_the_lasso() -> None:
    """Each row minimizes ½‖z − cM‖² + λ‖c‖₁ over c with c_b = 0: optimality conditions hold, and zeros are exact."""
    z = torch.randn(N, D, generator=random(), dtype=torch.float64)
    penalty = 0.5
    layer, _ = layers(
        FusedAdam(lr=1 / torch.linalg.matrix_norm(z.T @ z, 2).item(), l1=penalty, proximal=True), zero_diagonal=True
    )
    for _ in range(2000):
        backward(layer, z, scale=0.5)
    C = layer.Coefficient.detach()
    gradient = (C @ z - z) @ z.T
    off = ~torch.eye(N, dtype=torch.bool)
    used = (C != 0) & off
    assert (C.diagonal() == 0).all() and 0 < used.sum() < off.sum()
    torch.testing.assert_close(gradient[used], -penalty * C[used].sign(), rtol=0, atol=1e-3)
    assert (gradient[off & ~used].abs() <= penalty + 1e-3).all()
    assert not hasattr(layer, "exp_avg")


@settings(max_examples=30, deadline=None)
@given(
    B=st.integers(1, 40),
    n=st.integers(1, 40),
    d=st.integers(0, 70),
    seed=st.integers(0, 2**31),
    spliced=st.booleans(),
    bf16=st.booleans(),
)
def test_any_shape_with_duplicates(B: int, n: int, d: int, seed: int, spliced: bool, bf16: bool) -> None:
    generator = random(seed)
    rows = torch.randint(n, (B,), generator=generator)
    C, G, M = (torch.randn(*shape, generator=generator) for shape in ((n, n), (B, d), (n, d)))
    Z = torch.randn(B, d, generator=generator) if spliced else None
    moments = torch.bfloat16 if bf16 else torch.float32
    state = [torch.randn(n, n, generator=generator).to(moments), torch.rand(n, n, generator=generator).to(moments)]
    step = torch.randint(9, (n,), generator=generator)
    mine, wanted = [[C.clone(), *(x.clone() for x in state), step.clone()] for _ in range(2)]
    dsc_ext.self_expression_step_(*mine, G, M, rows, Z, lr=1e-2, l1=0.1)
    reference.self_expression_step_(
        *wanted, G, M, rows, Z, 1e-2, 0.9, 0.999, 1e-8, 0.0, False, 0.1, False, True, 0, None, None
    )
    for found, want in zip(mine, wanted, strict=True):
        torch.testing.assert_close(found.double(), want.double(), rtol=8e-3 if bf16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_shards_are_the_whole_bit_for_bit(moments: torch.dtype) -> None:
    generator = random()
    C, G, M = (torch.randn(*shape, generator=generator) for shape in ((N, N), (N, D), (N, D)))

    def run(first: int, last: int) -> tuple[Tensor, ...]:
        state = [C[first:last].clone(), *(torch.zeros(last - first, N, dtype=moments) for _ in range(2))]
        step = torch.zeros(last - first, dtype=torch.int64)
        for _ in range(3):
            dsc_ext.self_expression_step_(*state, step, G[first:last], M, lr=1e-2, row_offset=first)
        return (*state, step)

    for parts, whole in zip(zip(run(0, 10), run(10, N), strict=True), run(0, N), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_bf16_second_moment_does_not_stand_still() -> None:
    """With beta2 = .999 a step moves v by a thousandth, a quarter of a bf16 ulp: rounding to nearest would drop it."""
    n, steps = 64, 3000
    # One feature: dC = 1 everywhere off the diagonal, so v → 1.
    G, M = torch.ones(n, 1), torch.ones(n, 1)
    C, m, v = torch.zeros(n, n), *(torch.zeros(n, n, dtype=torch.bfloat16) for _ in range(2))
    step = torch.zeros(n, dtype=torch.int64)
    for _ in range(steps):
        dsc_ext.self_expression_step_(C, m, v, step, G, M, lr=0.0, zero_diagonal=False)
    expected = 1 - 0.999**steps
    assert abs(v.float().mean().item() - expected) < 2e-3
    assert (v.float() - expected).abs().max() < 0.06
    nearest = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(steps):
        nearest = (0.999 * nearest.float() + 0.001).bfloat16()
    assert nearest < 0.3  # what it is good for


def test_stochastic_rounding_is_unbiased_and_keeps_what_is_exact() -> None:
    value = torch.tensor([1.0, 1.001, -3.1416, 1e-40, float("inf"), float("nan")]).repeat(1 << 16, 1)
    noise = torch.arange(1 << 16)[:, None].expand_as(value)
    found = reference.stochastic_bf16(value, noise).float()
    torch.testing.assert_close(found[:, :4].double().mean(0), value[0, :4].double(), rtol=1e-6, atol=1e-42)
    assert (found[:, 0] == 1).all() and found[:, 4].isinf().all() and found[:, 5].isnan().all()


def test_noise_is_uniform_and_uncorrelated() -> None:
    rows, columns = 64, 1024
    noise = torch.stack(
        [reference.rounding_noise(torch.arange(rows), torch.full((rows,), t), columns) for t in range(4)]
    )
    halves = torch.stack([noise & 0xFFFF, noise >> 16]).double() / 2**16 - 0.5
    assert halves.mean(dim=(2, 3)).abs().max() < 0.01  # sd 1/√12/256 = .001
    flat = halves.reshape(8, -1)
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert correlation.abs().max() < 0.02  # sd 1/256 = .004
    shifted = torch.corrcoef(torch.stack([halves[0, 0, :-1].flatten(), halves[0, 0, 1:].flatten()]))[0, 1]
    assert shifted.abs() < 0.02


# ---------------------------------------------------------------------------------------------------------- the layer


def test_micro_batches_are_steps_of_their_own() -> None:
    """A row in two micro-batches is stepped twice, as by RowAdam after each."""
    fused, plain = layers(FusedAdam(lr=1e-2))
    optimizer = RowAdam([plain.Coefficient], lr=1e-2)
    bank = torch.randn(N, D, generator=random(), dtype=torch.float64)
    for rows in (torch.tensor([4, 7, 1]), torch.tensor([7, 8, 9])):
        z = torch.randn(3, D, generator=random(int(rows[0])), dtype=torch.float64)
        optimizer.zero_grad()
        backward(plain, z, rows, bank)
        optimizer.step()
        backward(fused, z, rows, bank)
    torch.testing.assert_close(fused.Coefficient, plain.Coefficient)
    assert fused.row_step[[7, 4, 0]].tolist() == [2, 1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    layer, _ = layers(FusedAdam(lr=1e-2), torch.float32)
    z = torch.randn(N, D, generator=random())
    backward(layer, z)
    before = copy.deepcopy(layer.state_dict())
    z[3, 2] = bad
    backward(layer, z)
    assert layer.skipped_steps.item() == 1
    for name, value in layer.state_dict().items():
        assert name == "skipped_steps" or torch.equal(value, before[name])
    backward(layer, torch.randn(N, D, generator=random()))
    assert layer.skipped_steps.item() == 1 and (layer.row_step == 2).all()


def test_with_a_grad_scaler_the_scale_is_divided_out() -> None:
    scaled, plain = (layers(FusedAdam(lr=1e-2), torch.float32)[0] for _ in range(2))
    encoders = [torch.nn.Linear(7, D) for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    optimizers = [torch.optim.SGD(encoder.parameters(), lr=1e-3) for encoder in encoders]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaled.grad_scaler = scaler
    for seed in range(4):
        x = torch.randn(N, 7, generator=random(seed))
        for layer, encoder, optimizer in zip((scaled, plain), encoders, optimizers, strict=True):
            optimizer.zero_grad()
            z = encoder(x)
            loss = (z - layer(z)).square().sum()
            if layer is plain:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss * (float("inf") if seed == 2 else 1.0)).backward()  # as an overflow would
                scaler.step(optimizer)
                scaler.update()
        if seed == 2:  # the scaled one has skipped this step, and halved its scale
            assert scaled.skipped_steps == 1 and scaler.get_scale() == 2.0**11
            plain.load_state_dict(scaled.state_dict())
            encoders[1].load_state_dict(encoders[0].state_dict())
        torch.testing.assert_close(scaled.Coefficient, plain.Coefficient)
    assert scaled.row_step.unique().tolist() == [3]


def test_in_eval_mode_and_without_grad_nothing_is_stepped() -> None:
    layer, plain = layers(FusedAdam())
    before = layer.Coefficient.detach().clone()
    z = torch.randn(N, D, generator=random(), dtype=torch.float64)
    with torch.no_grad():
        layer(z)
    layer.eval()
    torch.testing.assert_close(backward(layer, z), backward(plain, z))  # gradient still reaches z
    layer.train()
    layer.Coefficient.requires_grad_(False)
    backward(layer, z)
    assert torch.equal(layer.Coefficient, before) and not layer.row_step.any()


def test_backward_passes_that_would_step_a_stale_c_are_refused() -> None:
    layer, _ = layers(FusedAdam())
    z = torch.randn(N, D, generator=random(), dtype=torch.float64, requires_grad=True)
    loss = layer(z).square().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="got a second one"):
        loss.backward()
    with pytest.raises(RuntimeError, match="create_graph=True; use the layer without fused_adam"):
        layer(z).square().sum().backward(create_graph=True)
    both = layer(z).square().sum() + layer(z).sum()
    with pytest.raises(RuntimeError, match="call backward\\(\\) after each forward\\(\\)"):
        both.backward()
    assert layer.row_step.unique().tolist() == [2]


@pytest.mark.parametrize("moments", [None, torch.bfloat16])
def test_training_goes_on_where_it_was_saved(moments: torch.dtype | None) -> None:
    layer, _ = layers(FusedAdam(lr=1e-2, moments=moments), torch.float32)
    zs = [torch.randn(N, D, generator=random(seed)) for seed in range(4)]
    for z in zs[:2]:
        backward(layer, z)
    resumed = SelfExpressiveCUDA(N, fused_adam=FusedAdam(lr=1e-2, moments=moments))
    resumed.load_state_dict(layer.state_dict())
    twin = copy.deepcopy(layer)
    for z in zs[2:]:
        for each in (layer, resumed, twin):
            backward(each, z)
    assert torch.equal(layer.Coefficient, resumed.Coefficient) and torch.equal(layer.Coefficient, twin.Coefficient)


def test_the_usual_layers_state_loads_and_starts_the_moments() -> None:
    layer, plain = layers(FusedAdam(), torch.float32)
    model, usual = torch.nn.Sequential(layer), torch.nn.Sequential(plain)
    backward(layer, torch.randn(N, D))
    model.load_state_dict(usual.state_dict())
    assert torch.equal(layer.Coefficient, plain.Coefficient)
    assert not layer.exp_avg.any() and not layer.exp_avg_sq.any() and not layer.row_step.any()
    partly = {name: value for name, value in model.state_dict().items() if not name.endswith("row_step")}
    with pytest.raises(RuntimeError, match="row_step"):
        model.load_state_dict(partly)


def test_a_scheduler_sets_the_step_size() -> None:
    fused, plain = layers(FusedAdam(lr=1e-2))
    optimizer = RowAdam([plain.Coefficient], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for seed in range(4):
        z = torch.randn(N, D, generator=random(seed), dtype=torch.float64)
        optimizer.zero_grad()
        backward(plain, z)
        optimizer.step()
        fused.lr = scheduler.get_last_lr()[0]
        backward(fused, z)
        scheduler.step()
    torch.testing.assert_close(fused.Coefficient, plain.Coefficient)


def test_under_autocast_the_layer_computes_in_float32() -> None:
    first, second = (layers(FusedAdam(lr=1e-2), torch.float32)[0] for _ in range(2))
    z = torch.randn(N, D, generator=random()).bfloat16()
    wanted = backward(first, z.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = second(z.requires_grad_())
        assert out.dtype == torch.float32
        (z.float() - out).square().sum().backward()
    torch.testing.assert_close(z.grad.float(), wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(first.Coefficient, second.Coefficient)


def test_compiled_models_step_too() -> None:
    torch._dynamo.reset()
    eager, compiled = (layers(FusedAdam(lr=1e-2), torch.float32)[0] for _ in range(2))
    run = torch.compile(lambda z: (2 * z - compiled(2 * z)).square().sum(), backend="aot_eager")
    for seed in range(3):
        z = torch.randn(N, D, generator=random(seed))
        (2 * z - eager(2 * z)).square().sum().backward()
        run(z).backward()
        torch.testing.assert_close(eager.Coefficient, compiled.Coefficient)
    assert (compiled.row_step == 3).all()


@pytest.mark.parametrize("proximal", [False, True])
def test_freeze_ends_training_and_lets_the_moments_go(proximal: bool) -> None:
    layer, _ = layers(FusedAdam(lr=1e-2, proximal=proximal))
    z = torch.randn(N, D, generator=random(), dtype=torch.float64)
    backward(layer, z)
    C = layer.Coefficient.detach().clone()
    layer.freeze()
    backward(layer, z)
    assert torch.equal(layer.Coefficient, C)
    assert list(layer.state_dict()) == ["Coefficient"]
    torch.testing.assert_close(layer(z), C @ z)
    SelfExpressiveCUDA(N, fused_adam=FusedAdam(), dtype=torch.float64).load_state_dict(layer.state_dict())
