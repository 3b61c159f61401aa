"""What must hold of info_nce whatever the numbers: the formula for any shape, extreme scores, dtypes, memory; and of
the power of two under it.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simt import build
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import dsc_ext
from dsc_ext import _native, reference

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


def problem(
    B: int, N: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    a, p, M = (normalize(torch.randn(n, d, generator=random, dtype=dtype)) for n in (B, B, N))
    return a, p, M, torch.randint(N, (B,), generator=random)


@settings(max_examples=60, deadline=None)
@given(
    B=sizes,
    N=st.integers(1, 700),
    d=sizes,
    q=st.integers(0, 9),
    seed=seeds,
    temperature=st.sampled_from([0.05, 0.2, 3]),
)
def test_is_the_cross_entropy_of_the_positive(B: int, N: int, d: int, q: int, seed: int, temperature: float) -> None:
    """The usual code: logits with the positive in front, excluded ones at -inf, cross-entropy of class 0, autograd."""
    a, p, M, rows = problem(B, N, d, seed)
    mask = torch.randint(-1, N, (B, q), generator=torch.Generator().manual_seed(seed)) if q else None
    a.requires_grad_()
    p.requires_grad_()
    logits = a @ M.T / temperature
    for b in range(B):
        logits[b, rows[b]] = -torch.inf
        for j in [] if mask is None else mask[b].tolist():
            if j >= 0:
                logits[b, j] = -torch.inf
    logits = torch.cat(((a * p).sum(1, keepdim=True) / temperature, logits), 1)
    wanted = cross_entropy(logits, torch.zeros(B, dtype=torch.int64))
    found = dsc_ext.info_nce(a, p, M, rows, temperature=temperature, mask=mask)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(torch.autograd.grad(found, (a, p)), torch.autograd.grad(wanted, (a, p)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_reductions_agree() -> None:
    a, p, M, rows = problem(7, 30, 4)
    each = dsc_ext.info_nce(a, p, M, rows, reduction="none")
    assert each.shape == (7,)
    torch.testing.assert_close(dsc_ext.info_nce(a, p, M, rows), each.mean())
    torch.testing.assert_close(dsc_ext.info_nce(a, p, M, rows, reduction="sum"), each.sum())


def test_order_and_duplicates_of_the_mask_do_not_matter() -> None:
    a, p, M, rows = problem(5, 400, 4, dtype=torch.float32)
    mask = torch.randint(400, (5, 30), generator=torch.Generator().manual_seed(0))
    padding = torch.full((5, 7), -1)
    again = torch.cat((mask, padding, mask, rows[:, None]), 1)[:, torch.randperm(68)]
    wanted = dsc_ext.info_nce(a, p, M, rows, mask=mask, reduction="none")
    assert torch.equal(dsc_ext.info_nce(a, p, M, rows, mask=again, reduction="none"), wanted)


def test_without_gradient_the_same_bits() -> None:
    a, p, M, rows = problem(40, 3000, 20, dtype=torch.float32)
    plain = dsc_ext.info_nce(a, p, M, rows, reduction="none")
    assert torch.equal(dsc_ext.info_nce(a.requires_grad_(), p, M, rows, reduction="none"), plain)


def test_the_bank_is_detached() -> None:
    a, p, M, rows = problem(3, 9, 4)
    M.requires_grad_()
    a.requires_grad_()
    dsc_ext.info_nce(a, p, M, rows).backward()
    assert a.grad is not None and M.grad is None


def test_huge_scores_do_not_overflow(backend: torch.device) -> None:
    """Scores of ±1e6, rising along the bank so that the maximum moves in every slice and split."""
    M = torch.linspace(-1e4, 1e4, 3000, device=backend)[:, None].expand(3000, 2).contiguous()
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 0.5]], device=backend).requires_grad_()
    rows = torch.tensor([5, 2999, 1500], device=backend)
    found = dsc_ext.info_nce(a, a.detach(), M, rows, temperature=0.01, reduction="none")
    wanted = reference.info_nce(a.double(), a.detach().double(), M.double(), rows, None, 0.01)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    mine, theirs = torch.autograd.grad(found.sum(), a)[0], torch.autograd.grad(wanted.sum(), a)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0)


def test_a_perfect_positive_has_a_tiny_loss_not_zero(backend: torch.device) -> None:
    """Below 1e-7 the usual -own + log(exp(own) + …) has no digit left; the loss and its gradient keep theirs."""
    a = torch.tensor([[1.0, 0.0]], device=backend, requires_grad=True)
    if _native.backend(a) is None:
        pytest.skip("the reference is the usual one")
    M = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], device=backend)
    loss = dsc_ext.info_nce(a, a.detach(), M, torch.tensor([1], device=backend), temperature=0.05)
    torch.testing.assert_close(
        loss.item(), 2 * torch.tensor(-20.0, dtype=torch.float64).exp().item(), rtol=1e-5, atol=0
    )
    assert torch.autograd.grad(loss, a)[0][0, 0].item() == pytest.approx(-20 * loss.item(), rel=1e-5)


def test_infinite_scores() -> None:
    a = torch.tensor([[1.0, 0.5]])
    M = torch.tensor([[0.3, 0.1], [-torch.inf, 1.0], [0.2, 0.9]])
    own = torch.tensor([0])
    without = dsc_ext.info_nce(a, a, M, own, mask=torch.tensor([[1]]))
    torch.testing.assert_close(dsc_ext.info_nce(a, a, M, own), without)
    assert dsc_ext.info_nce(a, a, M[:2], own) == 0  # every negative at -inf
    assert dsc_ext.info_nce(a, a, -M, own) == torch.inf


def test_nan_shows_in_every_loss_it_belongs_to(backend: torch.device) -> None:
    a, p, M, _ = (x.to(backend) for x in problem(3, 300, 4, dtype=torch.float32))
    M[7] = torch.nan
    rows = torch.tensor([7, 0, 1], device=backend)
    mask = torch.tensor([[-1], [7], [8]], device=backend)
    found = dsc_ext.info_nce(a, p, M, rows, mask=mask, reduction="none")
    assert found.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_autocast_and_16_bit_inputs_give_float32_losses(stored: torch.dtype, backend: torch.device) -> None:
    a, p, M, rows = (x.to(backend) for x in problem(6, 50, 8, dtype=torch.float32))
    narrow = [x.to(stored) for x in (a, p, M)]
    wanted = reference.info_nce(*(x.float() for x in narrow), rows).mean()
    narrow[0].requires_grad_()
    with torch.autocast(backend.type, torch.bfloat16):
        under = dsc_ext.info_nce(*narrow, rows)
    for loss in (under, dsc_ext.info_nce(*narrow, rows)):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, wanted)
        assert torch.autograd.grad(loss, narrow[0])[0].dtype == stored
    mixed = dsc_ext.info_nce(a, narrow[1], narrow[2], rows)
    torch.testing.assert_close(mixed, reference.info_nce(a, *(x.float() for x in narrow[1:]), rows).mean())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [20, 100, 150])
def test_tf32_is_off_by_its_rounding_alone(stored: torch.dtype, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, p, M, rows = problem(9, 600, d, dtype=torch.float32)
    M = M.to(stored)
    wanted = reference.info_nce_expected(a, p, M, rows)
    monkeypatch.setitem(_native.backends, "cpu", build.emulator().cuda)
    exact = torch.ops.dsc_ext.info_nce_expected(a, p, M, rows, None, 0.2)
    monkeypatch.setattr(_native, "tf32", lambda like: True)
    rounded = torch.ops.dsc_ext.info_nce_expected(a, p, M, rows, None, 0.2)
    for mine, near, theirs in zip(exact, rounded, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(near, theirs, rtol=1e-3, atol=1e-3)
        assert not torch.equal(near, mine)


@pytest.mark.parametrize("which", ["cpu", "emulated"])
def test_scratch_stays_far_below_the_scores(which: str) -> None:
    """The plan of a call is a function of its shape alone, and its memory of what is asked."""
    launchers = _native.load().cpu if which == "cpu" else build.emulator().cuda
    for B in (64, 256, 1024):
        for N in (10_000, 100_000, 1_000_000):
            for d in (64, 128, 512):
                scores = 4 * B * N
                anchors = 4 * (B + 32) * d
                plain = launchers.info_nce_scratch(0, B, N, d, 0, False)
                assert plain <= scores / 20 + anchors
                assert launchers.info_nce_scratch(0, B, N, d, 0, True) <= scores * max(1 / 4, d / 512) + 2 * anchors
                assert launchers.info_nce_scratch(0, B, N, d, 9, False) <= plain + scores / 25
                narrow = launchers.info_nce_scratch(3, B, N, d, 0, True)
                assert narrow == launchers.info_nce_scratch(0, B, N, d, 0, True)
    assert launchers.info_nce_scratch(0, 0, 0, 0, 0, True) >= 0


# ------------------------------------------------------------------------------------------------- the power of two

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ISAS = {
    "DEFAULT": "-DDSC_VECTOR_BYTES=16 -DDSC_TILE_ROWS=6",
    "AVX2": "-DDSC_VECTOR_BYTES=32 -DDSC_TILE_ROWS=6 -mavx2 -mfma",
    "AVX512": "-DDSC_VECTOR_BYTES=64 -DDSC_TILE_ROWS=12 -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma",
}
DRIVER = r"""
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include "cpu/simd/softmax.h"
using namespace dsc::cpu;

template <class T> T power(T x) {
    using V = typename Vector<T>::type;
    const V found = exp2<T>(V{} + x);
    return found[Vector<T>::kLanes - 1];
}

template <class T, class Wide> double worst_ulp(Wide (*exact)(Wide)) {
    std::mt19937_64 random(0);
    const T low = 2 - Binary<T>::kBias - 1, high = Binary<T>::kBias;
    std::uniform_real_distribution<T> anywhere(low, high), near(-2, 2);
    double worst = 0;
    for (int i = 0; i < 3000000; ++i) {
        const T x = i % 2 ? near(random) : anywhere(random);
        const Wide want = exact(x);
        const T around = T(want), ulp = std::nextafter(around, std::numeric_limits<T>::infinity()) - around;
        worst = std::max(worst, double(std::fabs(Wide(power(x)) - want) / Wide(ulp)));
    }
    return worst;
}

template <class T> bool edges() {
    const T infinity = std::numeric_limits<T>::infinity(), bias = Binary<T>::kBias;
    bool right = power(T(0)) == 1 && power(-infinity) == 0 && power(infinity) == infinity;
    right = right && power(-bias) == 0 && power(T(-1e30)) == 0 && power(bias + 1) == infinity;
    right = right && power(T(1e30)) == infinity && std::isnan(power(T(NAN)));
    for (int n = 1 - int(bias); n <= int(bias); ++n) right = right && power(T(n)) == std::ldexp(T(1), n);
    return right;
}

int main() {
    std::printf("%g %g %d %d\n", worst_ulp<float, double>(std::exp2), worst_ulp<double, long double>(std::exp2),
                edges<float>(), edges<double>());
}
"""


@pytest.mark.parametrize("isa", ISAS)
def test_power_of_two_is_within_two_ulp(isa: str, tmp_path: Path) -> None:
    order = list(ISAS)
    if isa != "DEFAULT" and order.index(isa) > order.index(torch.backends.cpu.get_cpu_capability()):
        pytest.skip(f"this processor has no {isa}")
    (tmp_path / "driver.cpp").write_text(DRIVER)
    flags = f"-std=gnu++17 -O3 -Wno-psabi -fno-math-errno -I{CSRC} {ISAS[isa]}"
    command = [build.compiler(), *shlex.split(flags), "driver.cpp", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "driver")], capture_output=True, text=True, check=True)
    single, double, single_edges, double_edges = map(float, done.stdout.split())
    assert single <= 2 and double <= 2 and single_edges and double_edges, done.stdout
