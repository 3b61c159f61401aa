"""The one case table: which inputs each op is tried on, by every backend.

A case is an op, a label and a function that makes the arguments of ``torch.ops.dsc_ext.<op>`` from a generator, a dtype
and a device. ``EXPECTED`` computes what the op should give from the same arguments, by dsc_ext.reference. In-place ops
are compared by what they leave in the arguments they mutate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsc_ext import reference

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    op: str
    label: str
    make: Callable[[Make], Arguments]
    differentiable: tuple[int, ...] = ()  # positions of arguments that take a gradient

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"

    def arguments(
        self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", seed: int = 0
    ) -> Arguments:
        return self.make(Make(torch.Generator().manual_seed(seed), dtype, torch.device(device)))


@dataclass
class Make:
    """Draws on the CPU, whatever the device, so that every backend sees the same numbers."""

    generator: torch.Generator
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(dtype or self.dtype).to(self.device)

    def positive(self, *shape: int) -> Tensor:
        return self.normal(*shape).abs()

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)

    def few_values(self, *shape: int) -> Tensor:
        """Numbers with many ties, exact in every dtype."""
        return self.integers(-3, 4, *shape).to(self.dtype)

    def distinct(self, count: int, size: int) -> Tensor:
        return torch.randperm(size, generator=self.generator)[:count].to(self.device)

    def tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _self_expression(
    B: int, N: int, d: int, *, splice: bool = True, zero_diagonal: bool = True
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        rows = m.distinct(B, N)
        return m.normal(N, N), m.normal(N, d), rows, m.normal(B, d) if splice else None, zero_diagonal, 0, False

    return make


def _duplicates(m: Make) -> Arguments:
    return m.normal(9, 9), m.normal(9, 4), m.tensor([7, 2, 7, 0, 7]), m.normal(5, 4), True, 0, False


def _shard(m: Make) -> Arguments:
    return m.normal(5, 12), m.normal(12, 3), m.tensor([6, 4, 8]), m.normal(3, 3), True, 4, False


def _landmarks(m: Make) -> Arguments:
    return m.normal(9, 4), m.normal(4, 3), m.tensor([8, 0, 8]), None, False, 0, False


def _full(m: Make) -> Arguments:
    return m.normal(8, 8), m.normal(8, 5), None, None, True, 0, False


def _full_shard(m: Make) -> Arguments:
    return m.normal(3, 8), m.normal(8, 5), None, None, True, 2, False


def _inner_product(
    B: int,
    N: int,
    dq: int,
    dv: int,
    *,
    rows: str = "distinct",
    threshold: float = 0.3,
    storage: torch.dtype | None = None,
) -> Callable[[Make], Arguments]:
    """``rows``: "distinct" samples, "all" of them in order, "free" for queries that are no samples."""

    def make(m: Make) -> Arguments:
        Q, K, V = (m.normal(n, d, dtype=storage) for n, d in ((B, dq), (N, dq), (N, dv)))
        compute = m.dtype if storage is None else torch.float32
        t = torch.full((), threshold, dtype=compute, device=m.device)
        return Q, K, V, t, 0.7 / max(dq, 1), m.distinct(B, N) if rows == "distinct" else None, rows != "free"

    return make


def _inner_product_duplicates(m: Make) -> Arguments:
    """And a threshold of shape (1,), a negative factor."""
    threshold = torch.full((1,), 0.2, dtype=m.dtype, device=m.device)
    return m.normal(5, 3), m.normal(9, 3), m.normal(9, 4), threshold, -0.5, m.tensor([7, 2, 7, 0, 7]), True


def _inner_product_ties(m: Make) -> Arguments:
    """Scores of exactly the threshold, and of exactly 0."""
    threshold = torch.full((), 2.0, dtype=m.dtype, device=m.device)
    return m.few_values(20, 2), m.few_values(37, 2), m.few_values(37, 3), threshold, 1.0, m.distinct(20, 37), True


def _inner_product_not_finite(m: Make) -> Arguments:
    arguments = _inner_product(70, 90, 5, 6)(m)
    arguments[0][3, 1] = float("nan")
    arguments[2][7, 2] = float("nan")
    return arguments


def _sparse(
    B: int | None,
    N: int,
    k: int,
    d: int,
    *,
    splice: bool = True,
    zero_diagonal: bool = True,
    bank: torch.dtype | None = None,
    hub: bool = False,
) -> Callable[[Make], Arguments]:
    """Columns are padded, repeated and on the diagonal; with ``hub`` every row names column N // 2."""

    def make(m: Make) -> Arguments:
        indices = m.integers(-1, N, N, k)
        if k > 1:
            indices[:, 1] = N // 2 if hub else torch.arange(N, device=m.device)
        if N > 0 and k > 2:
            indices[N // 2] = -1
        rows = None if B is None else m.distinct(B, N)
        Z = m.normal(B, d) if splice and B is not None else None
        M = m.normal(N, d, dtype=bank if m.dtype == torch.float32 else None)
        return m.normal(N, k), indices, M, rows, Z, zero_diagonal, 0, False

    return make


def _sparse_duplicates(m: Make) -> Arguments:
    arguments = list(_sparse(5, 9, 4, 6)(m))
    arguments[3] = m.tensor([7, 2, 7, 0, 7])
    return tuple(arguments)


def _sparse_shard(m: Make) -> Arguments:
    indices = m.integers(-1, 12, 5, 4)
    return m.normal(5, 4), indices, m.normal(12, 3), m.tensor([6, 4, 8]), m.normal(3, 3), True, 4, False


def _sparse_landmarks(m: Make) -> Arguments:
    return m.normal(9, 3), m.integers(0, 4, 9, 3), m.normal(4, 5), m.tensor([8, 0, 8]), None, False, 0, False


def _sparse_grad(forward: Callable[[Make], Arguments]) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        values, indices, M, rows, Z, zero_diagonal, row_offset, _ = forward(m)
        B = values.shape[0] if rows is None else rows.shape[0]
        return m.normal(B, M.shape[1]), indices, M, rows, Z, zero_diagonal, row_offset

    return make


def _sparse_transposed(
    forward: Callable[[Make], Arguments], *, bank: bool = True, live: bool = True
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        values, indices, M, rows, Z, zero_diagonal, row_offset, _ = forward(m)
        B = values.shape[0] if rows is None else rows.shape[0]
        G = m.normal(B, M.shape[1])
        return G, values, indices, rows, M.shape[0], Z is not None, bank, live, zero_diagonal, row_offset

    return make


def _threshold(n: int, m: int, rho: float, kind: str = "normal") -> Callable[[Make], Arguments]:
    def make(make_: Make) -> Arguments:
        C = make_.few_values(n, m) if kind == "ties" else make_.normal(n, m)
        if kind == "zero rows":
            C[::2] = 0
        if kind == "not finite":
            C[0, 0], C[1, 0] = float("nan"), float("inf")
        return C, rho

    return make


def _topk(
    n: int, m: int, k: int, *, rows: int | None = None, kind: str = "normal", signed: bool = False, own: bool = True
) -> Callable[[Make], Arguments]:
    def make(make_: Make) -> Arguments:
        C = make_.few_values(n, m) if kind == "ties" else make_.normal(n, m)
        if kind == "equal":
            C.fill_(0.5)
        if kind == "not finite":
            C[0, ::2], C[1, 3], C[1, 1], C[2] = float("nan"), float("inf"), float("-inf"), float("nan")
        picked = None if rows is None else make_.distinct(rows, n)
        return C, None, k, picked, signed, own, 0, False

    return make


def _topk_duplicates(m: Make) -> Arguments:
    return m.normal(6, 6), None, 2, m.tensor([4, 1, 4]), False, True, 0, False


def _topk_shard(m: Make) -> Arguments:
    return m.normal(5, 12), None, 3, m.tensor([6, 4, 8]), False, True, 4, False


def _topk_products(
    B: int,
    N: int,
    d: int,
    k: int,
    *,
    rows: bool = True,
    storage: torch.dtype | None = None,
    kind: str = "normal",
    signed: bool = False,
    own: bool = True,
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        if kind == "normal":
            Q, K = m.normal(B, d, dtype=storage), m.normal(N, d, dtype=storage)
        else:
            Q, K = m.few_values(B, d), m.few_values(N, d)
        if kind == "ascending":  # every sample beats all before it
            Q, K = Q.fill_(1), K.copy_(torch.arange(1, N + 1)[:, None].expand(N, d))
        if kind == "not finite":
            K[1], K[N - 1] = float("nan"), float("nan")
        return Q, K, k, m.distinct(B, N) if rows else None, signed, own, 0, False

    return make


def _symmetrize(n: int, k: int, reduce: str, threshold: float = 0.0) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        # Unsorted, repeated and padded columns, and a hub that every row names.
        column = m.integers(-1, n, n, k) if n else m.integers(0, 1, 0, k)
        if k > 1:
            column[:, 0] = n // 2
        crow = torch.arange(n + 1, device=m.device) * k
        return m.normal(n * k), crow, column.reshape(-1), reduce, threshold

    return make


def _symmetrize_sorted(n: int, share: float, reduce: str) -> Callable[[Make], Arguments]:
    """Strictly increasing columns, so that nothing has to be copied; every third row empty."""

    def make(m: Make) -> Arguments:
        present = m.normal(n, n).abs() < share
        present[::3] = False
        crow = torch.nn.functional.pad(present.sum(1).cumsum(0), (1, 0))
        return m.normal(int(crow[-1])), crow, present.nonzero()[:, 1], reduce, 0.0

    return make


def _symmetrize_dense(n: int, reduce: str, threshold: float = 0.0, share: float = 9.0) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        C = m.normal(n, n)
        return C.masked_fill_(m.normal(n, n).abs() > share, 0.0), reduce, threshold

    return make


def _scatter(
    to: torch.dtype | None, source: torch.dtype | None, *, d: int = 5, normalize: bool = False, momentum: float = 0.0
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        Z = m.normal(4, d, dtype=source)
        Z[0] = 0
        return m.normal(6, d, dtype=to), m.tensor([1, 4, 1, 0]), Z, normalize, momentum

    return make


def _scatter_many(m: Make) -> Arguments:
    """More rows than each can look for its duplicates among the others."""
    return m.normal(500, 1), m.integers(0, 500, 2100), m.normal(2100, 1), False, 0.0


def _push_many(m: Make) -> Arguments:
    """More numbers than one block takes."""
    return m.normal(70, 300), m.tensor([66]), m.normal(60, 300), True


def _push(
    B: int, *, to: torch.dtype | None = None, normalize: bool = False, start: int = 4
) -> Callable[[Make], Arguments]:
    return lambda m: (m.normal(6, 5, dtype=to), m.tensor([start]), m.normal(B, 5), normalize)


def _adam(
    B: int | None, m_columns: int = 300, *, weight_decay: float = 0.0, l1: float = 0.0
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        n = 7
        rows = None if B is None else m.distinct(B, n)
        state = (
            m.normal(n, m_columns),
            m.normal(n, m_columns),
            m.positive(n, m_columns),
            m.tensor([0, 3, 1, 0, 9, 2, 5]),
        )
        return *state, rows, m.normal(n if B is None else B, m_columns), 1e-2, 0.9, 0.999, 1e-8, weight_decay, l1

    return make


def _adam_duplicates(m: Make) -> Arguments:
    arguments = list(_adam(4)(m))
    arguments[4] = m.tensor([5, 1, 5, 5])
    return tuple(arguments)


def _adam_many(m: Make) -> Arguments:
    arguments = list(_adam(4, 3)(m))
    arguments[4], arguments[5] = m.integers(0, 7, 60), m.normal(60, 3)
    return tuple(arguments)


def _step(
    B: int | None,
    N: int,
    d: int,
    *,
    n: int | None = None,
    rows: list[int] | None = None,
    row_offset: int = 0,
    splice: bool = True,
    moments: torch.dtype | None = None,
    weight_decay: float = 0.1,
    decoupled: bool = False,
    l1: float = 0.02,
    proximal: bool = False,
    zero_diagonal: bool = True,
    grad_scale: float | None = None,
    found_inf: float | None = None,
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        held = n or N
        batch = None if B is None else m.tensor(rows) if rows else m.distinct(B, held) + row_offset
        count = held if batch is None else batch.shape[0]
        state: tuple[Tensor | None, ...] = (None, None, None)
        if not proximal:
            stored = moments if m.dtype == torch.float32 else None  # bf16 goes with float32 alone
            state = (
                m.normal(held, N, dtype=stored),
                m.normal(held, N).abs().to(stored or m.dtype),
                m.integers(0, 9, held),
            )
        C, G, M = m.normal(held, N), m.normal(count, d), m.normal(N, d)
        Z = m.normal(count, d) if splice and batch is not None else None
        scalars = [None if x is None else torch.tensor(x, device=m.device) for x in (grad_scale, found_inf)]
        return (
            C, *state, G, M, batch, Z, 1e-2, 0.9, 0.999, 1e-8, weight_decay, decoupled, l1, proximal, zero_diagonal,
            row_offset, *scalars,
        )  # fmt: skip

    return make


def _unit(X: Tensor) -> Tensor:
    return X / X.norm(dim=1, keepdim=True)


def _info_nce(
    B: int,
    N: int,
    d: int,
    *,
    q: int | None = None,
    temperature: float = 0.2,
    view: torch.dtype | None = None,
    bank: torch.dtype | None = None,
    kind: str = "",
) -> Callable[[Make], Arguments]:
    """Unit rows; a mask of ``q`` columns, some of them padding, some twice. 16-bit inputs where all is not float64."""

    def make(m: Make) -> Arguments:
        def stored(X: Tensor, to: torch.dtype | None) -> Tensor:
            return X if to is None or m.dtype == _f64 else X.to(to)

        a, p, M = m.normal(B, d), m.normal(B, d), m.normal(N, d)
        if kind != "cold":
            a, p, M = _unit(a), _unit(p), _unit(M)
        rows = m.integers(0, N, B)
        mask = None if q is None else m.integers(-1, N, B, q)
        if kind == "nothing left":
            mask[1] = torch.arange(N, device=m.device)
        if kind == "not finite":
            a[1, 0], p[2, 0], M[7, 1] = float("nan"), float("nan"), float("nan")
            rows[3] = 7
        return stored(a, view), stored(p, view), stored(M, bank), rows, mask, temperature

    return make


def _sparse_step(
    forward: Callable[[Make], Arguments],
    *,
    moments: torch.dtype | None = None,
    weight_decay: float = 0.1,
    decoupled: bool = False,
    l1: float = 0.02,
    proximal: bool = False,
    grad_scale: float | None = None,
    found_inf: float | None = None,
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        values, indices, M, rows, Z, zero_diagonal, row_offset, _ = forward(m)
        n, k = values.shape
        state: tuple[Tensor | None, ...] = (None, None, None)
        if not proximal:
            stored = moments if m.dtype == torch.float32 else None  # bf16 goes with float32 alone
            state = (m.normal(n, k, dtype=stored), m.normal(n, k).abs().to(stored or m.dtype), m.integers(0, 9, n))
        G = m.normal(n if rows is None else rows.shape[0], M.shape[1])
        scalars = [None if x is None else torch.tensor(x, device=m.device) for x in (grad_scale, found_inf)]
        return (
            values, indices, *state, G, M, rows, Z, 1e-2, 0.9, 0.999, 1e-8, weight_decay, decoupled, l1, proximal,
            zero_diagonal, row_offset, *scalars,
        )  # fmt: skip

    return make


def _on_support(
    N: int, d: int, k: int, *parameters: float, B: int | None = None, kind: str = "normal"
) -> Callable[[Make], Arguments]:
    """Each row's columns differ and are unsorted; some are padding, and some of the samples' own (without ``B``)."""

    def make(m: Make) -> Arguments:
        X = m.normal(N, d) / max(d, 1) ** 0.5
        if kind == "correlated":
            X = X + 2 * m.normal(1, d) / max(d, 1) ** 0.5
        rows = N if B is None else B
        columns = [m.distinct(k, N) for _ in range(rows)]
        indices = torch.stack(columns) if columns else m.integers(0, 1, 0, k)
        if k > 2:
            indices[1::3, k // 2] = -1
            indices[2::5] = -1
            if B is None:
                indices[::2, 1] = torch.arange(0, N, 2, device=m.device)
        if kind == "repeated":
            indices[:, 2] = indices[:, 0]
        if kind == "zero rows":
            X[::2] = 0
        if kind == "not finite":
            X[3, 1], X[N - 1, 0] = float("nan"), float("inf")
        return X, indices, None if B is None else m.normal(B, d) / max(d, 1) ** 0.5, *parameters

    return make


def _on_support_adjoint(
    N: int, d: int, k: int, shift: float, floored: bool, share: float = 0.5
) -> Callable[[Make], Arguments]:
    def make(m: Make) -> Arguments:
        X, indices, _ = _on_support(N, d, k)(m)
        active = (indices >= 0) & (m.normal(*indices.shape).abs() > share)
        return m.normal(*indices.shape), X, indices, active, shift, floored

    return make


_bf16, _f16, _f64 = torch.bfloat16, torch.float16, torch.float64

CASES = [
    Case("self_expression", "splice", _self_expression(5, 11, 3), (0, 1, 3)),
    Case("self_expression", "splice-free-diagonal", _self_expression(5, 11, 3, zero_diagonal=False), (0, 1, 3)),
    Case("self_expression", "bank-alone", _self_expression(4, 11, 3, splice=False), (0, 1)),
    Case("self_expression", "duplicates", _duplicates, (0, 1, 3)),
    Case("self_expression", "shard", _shard, (0, 1, 3)),
    Case("self_expression", "landmarks", _landmarks, (0, 1)),
    Case("self_expression", "full-batch", _full, (0, 1)),
    Case("self_expression", "full-batch-shard", _full_shard, (0, 1)),
    Case("self_expression", "tile-edges", _self_expression(66, 131, 65)),
    Case("self_expression", "middle-width", _self_expression(7, 70, 40)),
    Case("self_expression", "whole-batch", _self_expression(130, 130, 32)),
    Case("self_expression", "split-sum", _self_expression(3, 600, 7)),
    Case("self_expression", "no-rows", _self_expression(0, 6, 3)),
    Case("self_expression", "no-columns", _self_expression(2, 6, 0)),
    Case("self_expression_step_", "splice", _step(5, 11, 3)),
    Case("self_expression_step_", "free-diagonal", _step(5, 11, 3, zero_diagonal=False)),
    Case("self_expression_step_", "bank-alone", _step(4, 11, 3, splice=False, weight_decay=0.0, l1=0.0)),
    Case("self_expression_step_", "decoupled", _step(5, 11, 3, decoupled=True)),
    Case("self_expression_step_", "bf16-moments", _step(5, 40, 3, moments=_bf16)),
    Case("self_expression_step_", "proximal", _step(5, 40, 3, l1=30.0, proximal=True)),
    Case("self_expression_step_", "duplicates", _step(5, 9, 4, rows=[7, 2, 7, 0, 7])),
    Case("self_expression_step_", "shard", _step(3, 12, 3, n=5, row_offset=4)),
    Case("self_expression_step_", "shard-bf16", _step(3, 12, 3, n=5, row_offset=4, moments=_bf16)),
    Case("self_expression_step_", "landmarks", _step(4, 4, 3, n=9, splice=False, zero_diagonal=False)),
    Case("self_expression_step_", "full-batch", _step(None, 8, 5)),
    Case("self_expression_step_", "full-batch-shard", _step(None, 8, 5, n=3, row_offset=2)),
    Case("self_expression_step_", "scaled", _step(5, 11, 3, grad_scale=128.0, found_inf=0.0)),
    Case("self_expression_step_", "skipped", _step(5, 11, 3, grad_scale=128.0, found_inf=1.0)),
    Case("self_expression_step_", "tile-edges", _step(66, 131, 65)),
    Case("self_expression_step_", "several-runs", _step(13, 1100, 20)),
    Case("self_expression_step_", "many-features", _step(13, 70, 700, grad_scale=2.0)),
    Case("self_expression_step_", "no-rows", _step(0, 6, 3)),
    Case("self_expression_step_", "no-features", _step(2, 6, 0)),
    Case("inner_product_self_expression", "batch", _inner_product(5, 11, 3, 4), (0, 1, 2, 3)),
    Case("inner_product_self_expression", "whole-set", _inner_product(6, 6, 4, 3, rows="all"), (0, 1, 2, 3)),
    Case("inner_product_self_expression", "no-samples-queries", _inner_product(4, 7, 2, 3, rows="free"), (0, 1, 2, 3)),
    Case("inner_product_self_expression", "duplicates", _inner_product_duplicates, (0, 1, 2, 3)),
    Case("inner_product_self_expression", "zero-threshold", _inner_product(4, 7, 2, 3, threshold=0.0), (0, 1, 2)),
    Case(
        "inner_product_self_expression", "negative-threshold", _inner_product(4, 7, 2, 3, threshold=-0.2), (0, 1, 2, 3)
    ),
    Case("inner_product_self_expression", "ties", _inner_product_ties),
    Case("inner_product_self_expression", "not-finite", _inner_product_not_finite),
    Case("inner_product_self_expression", "tile-edges", _inner_product(66, 131, 65, 33)),
    Case("inner_product_self_expression", "tiles-exactly", _inner_product(64, 128, 32, 64)),
    Case("inner_product_self_expression", "wide", _inner_product(9, 70, 140, 270)),
    Case("inner_product_self_expression", "split-sum", _inner_product(3, 700, 7, 5)),
    Case("inner_product_self_expression", "bf16", _inner_product(9, 70, 17, 24, storage=_bf16)),
    Case("inner_product_self_expression", "f16", _inner_product(9, 70, 17, 24, storage=_f16)),
    Case("inner_product_self_expression", "one", _inner_product(1, 1, 1, 1)),
    Case("inner_product_self_expression", "no-queries", _inner_product(0, 6, 3, 2)),
    Case("inner_product_self_expression", "no-samples", _inner_product(3, 0, 3, 2, rows="free")),
    Case("inner_product_self_expression", "no-features", _inner_product(3, 6, 0, 2)),
    Case("inner_product_self_expression", "no-columns", _inner_product(3, 6, 2, 0)),
    Case("info_nce", "some", _info_nce(5, 11, 3, q=4), (0, 1)),
    Case("info_nce", "unmasked", _info_nce(4, 9, 3), (0, 1)),
    Case("info_nce", "nothing-left", _info_nce(3, 5, 3, q=5, kind="nothing left"), (0, 1)),
    Case("info_nce", "only-itself", _info_nce(3, 1, 3), (0, 1)),
    Case("info_nce", "cold", _info_nce(6, 300, 20, temperature=0.01, kind="cold")),
    Case("info_nce", "not-finite", _info_nce(6, 300, 5, q=3, kind="not finite")),
    Case("info_nce", "tile-edges", _info_nce(70, 301, 67, q=9)),
    Case("info_nce", "wide", _info_nce(5, 70, 150)),
    Case("info_nce", "split-sum", _info_nce(3, 2500, 7, q=900)),
    Case("info_nce", "bf16", _info_nce(5, 150, 33, view=_bf16, bank=_bf16)),
    Case("info_nce", "f16", _info_nce(5, 150, 33, view=_f16, bank=_f16)),
    Case("info_nce", "no-rows", _info_nce(0, 6, 3)),
    Case("info_nce", "no-columns", _info_nce(2, 6, 0)),
    Case("info_nce_expected", "some", _info_nce(5, 11, 3, q=4)),
    Case("info_nce_expected", "nothing-left", _info_nce(3, 5, 3, q=5, kind="nothing left")),
    Case("info_nce_expected", "tile-edges", _info_nce(70, 301, 67, q=9)),
    Case("info_nce_expected", "split-sum", _info_nce(3, 2500, 7)),
    Case("info_nce_expected", "wide", _info_nce(5, 70, 200, q=2)),
    Case("info_nce_expected", "several-panels", _info_nce(130, 200, 16, temperature=0.1)),
    Case("info_nce_expected", "not-finite", _info_nce(6, 300, 5, q=3, kind="not finite")),
    Case("info_nce_expected", "bf16-bank", _info_nce(5, 150, 33, bank=_bf16)),
    Case("info_nce_expected", "f16-bank", _info_nce(5, 150, 33, bank=_f16)),
    Case("info_nce_expected", "no-columns", _info_nce(2, 6, 0)),
    Case("sparse_self_expression", "splice", _sparse(5, 11, 4, 3), (0, 2, 4)),
    Case("sparse_self_expression", "splice-free-diagonal", _sparse(5, 11, 4, 3, zero_diagonal=False), (0, 2, 4)),
    Case("sparse_self_expression", "bank-alone", _sparse(4, 11, 3, 17, splice=False), (0, 2)),
    Case("sparse_self_expression", "duplicates", _sparse_duplicates, (0, 2, 4)),
    Case("sparse_self_expression", "shard", _sparse_shard, (0, 2, 4)),
    Case("sparse_self_expression", "landmarks", _sparse_landmarks, (0, 2)),
    Case("sparse_self_expression", "all-rows", _sparse(None, 8, 3, 5), (0, 2)),
    Case("sparse_self_expression", "hub", _sparse(600, 700, 3, 6, hub=True)),
    Case("sparse_self_expression", "one-column", _sparse(7, 30, 5, 1)),
    Case("sparse_self_expression", "vector-edges", _sparse(9, 40, 20, 70)),
    Case("sparse_self_expression", "wide", _sparse(5, 40, 33, 300)),
    Case("sparse_self_expression", "aligned", _sparse(33, 70, 7, 64)),
    Case("sparse_self_expression", "bf16-bank", _sparse(9, 40, 20, 37, bank=torch.bfloat16)),
    Case("sparse_self_expression", "f16-bank", _sparse(9, 40, 20, 64, bank=torch.float16)),
    Case("sparse_self_expression", "narrow-f16-bank", _sparse(9, 40, 4, 3, bank=torch.float16)),
    Case("sparse_self_expression", "no-rows", _sparse(0, 6, 4, 3)),
    Case("sparse_self_expression", "no-entries", _sparse(4, 6, 0, 3)),
    Case("sparse_self_expression", "no-columns", _sparse(2, 6, 4, 0)),
    *[
        case
        for label, forward in {
            "splice": _sparse(5, 11, 4, 3),
            "duplicates": _sparse_duplicates,
            "shard": _sparse_shard,
            "bank-alone": _sparse(4, 11, 3, 17, splice=False),
            "all-rows": _sparse(None, 40, 9, 64),
            "hub": _sparse(600, 700, 3, 6, hub=True),
            "wide-hub": _sparse(None, 700, 2, 70, hub=True),
            "wide": _sparse(5, 40, 33, 300),
            "bf16-bank": _sparse(9, 40, 20, 37, bank=torch.bfloat16),
            "no-rows": _sparse(0, 6, 4, 3),
            "no-entries": _sparse(4, 6, 0, 3),
        }.items()
        for case in (
            Case("sparse_self_expression_grad", label, _sparse_grad(forward)),
            Case("sparse_self_expression_transposed", label, _sparse_transposed(forward)),
        )
    ],
    Case("sparse_self_expression_transposed", "live-alone", _sparse_transposed(_sparse_duplicates, bank=False)),
    Case("sparse_self_expression_transposed", "no-live", _sparse_transposed(_sparse_duplicates, live=False)),
    Case("sparse_self_expression_step_", "splice", _sparse_step(_sparse(5, 11, 4, 3))),
    Case("sparse_self_expression_step_", "bank-alone", _sparse_step(_sparse(4, 11, 3, 17, splice=False), l1=0.0)),
    Case("sparse_self_expression_step_", "duplicates", _sparse_step(_sparse_duplicates)),
    Case("sparse_self_expression_step_", "shard", _sparse_step(_sparse_shard, moments=_bf16)),
    Case("sparse_self_expression_step_", "landmarks", _sparse_step(_sparse_landmarks)),
    Case("sparse_self_expression_step_", "all-rows", _sparse_step(_sparse(None, 40, 9, 64), decoupled=True)),
    Case("sparse_self_expression_step_", "vector-edges", _sparse_step(_sparse(9, 40, 20, 70), moments=_bf16)),
    Case("sparse_self_expression_step_", "long-rows", _sparse_step(_sparse(3, 40, 600, 5))),
    Case("sparse_self_expression_step_", "bf16-bank", _sparse_step(_sparse(9, 40, 20, 64, bank=_bf16), moments=_bf16)),
    Case("sparse_self_expression_step_", "f16-bank", _sparse_step(_sparse(9, 40, 20, 8, bank=_f16))),
    Case("sparse_self_expression_step_", "proximal", _sparse_step(_sparse_duplicates, l1=30.0, proximal=True)),
    Case("sparse_self_expression_step_", "scaled", _sparse_step(_sparse_duplicates, grad_scale=128.0, found_inf=0.0)),
    Case("sparse_self_expression_step_", "skipped", _sparse_step(_sparse_duplicates, grad_scale=128.0, found_inf=1.0)),
    Case("sparse_self_expression_step_", "no-rows", _sparse_step(_sparse(0, 6, 4, 3))),
    Case("sparse_self_expression_step_", "no-entries", _sparse_step(_sparse(4, 6, 0, 3))),
    Case("sparse_self_expression_step_", "no-features", _sparse_step(_sparse(2, 6, 4, 0))),
    *[
        case
        for op, parameters, few in (
            ("ridge_on_support", (0.3,), (0.3,)),
            ("elastic_net_on_support", (0.05, 0.2), (0.05, 0.1)),
            ("omp_on_support", (6, 1e-3), (2, 1e-3)),
        )
        for case in (
            Case(op, "some", _on_support(7, 5, 3, *few), (0,)),
            Case(op, "targets", _on_support(7, 5, 3, *few, B=4), (0, 2)),
            Case(op, "more-than-features", _on_support(6, 3, 5, *few), (0,)),
            Case(op, "vector-edges", _on_support(40, 131, 33, *parameters, B=5)),
            Case(op, "zero-rows", _on_support(12, 20, 5, *parameters, kind="zero rows")),
            Case(op, "not-finite", _on_support(12, 20, 5, *parameters, kind="not finite")),
            Case(op, "no-entries", _on_support(4, 3, 0, *parameters)),
        )
    ],
    Case("ridge_on_support", "repeated", _on_support(12, 20, 5, 0.1, kind="repeated")),
    Case("ridge_on_support", "tiles-exactly", _on_support(40, 64, 31, 0.3, B=3)),
    Case("ridge_on_support", "most-atoms", _on_support(140, 150, 120, 0.3, B=2)),
    Case("ridge_on_support", "one", _on_support(1, 1, 1, 0.3)),
    Case("ridge_on_support", "no-rows", _on_support(0, 3, 0, 0.3)),
    Case("ridge_on_support", "no-features", _on_support(6, 0, 3, 0.3)),
    Case("elastic_net_on_support", "repeated", _on_support(12, 20, 5, 0.02, 0.1, kind="repeated")),
    Case("elastic_net_on_support", "lasso", _on_support(6, 7, 3, 0.05, 0.0), (0,)),
    Case("elastic_net_on_support", "wide-lasso", _on_support(60, 160, 45, 0.02, 0.0, B=3)),
    Case("elastic_net_on_support", "correlated-lasso", _on_support(30, 60, 14, 0.02, 0.0, kind="correlated")),
    Case("elastic_net_on_support", "no-penalty", _on_support(12, 20, 7, 0.0, 0.0)),
    Case("elastic_net_on_support", "all-penalty", _on_support(12, 20, 7, 9.0, 0.1)),
    Case("elastic_net_on_support", "beyond-the-kernel", _on_support(140, 150, 130, 0.05, 0.2, B=2)),
    Case("omp_on_support", "no-atoms", _on_support(12, 20, 7, 0, 0.0)),
    Case("omp_on_support", "every-atom", _on_support(12, 20, 7, 20, 0.0)),
    Case("omp_on_support", "tolerant", _on_support(12, 20, 7, 7, 0.7)),
    Case("on_support_adjoint", "floored", _on_support_adjoint(9, 5, 4, 0.3, True)),
    Case("on_support_adjoint", "active", _on_support_adjoint(9, 12, 6, 0.2, False)),
    Case("threshold_coefficients", "some", _threshold(4, 40, 0.3)),
    Case("threshold_coefficients", "small", _threshold(3, 5, 0.6), (0,)),
    Case("threshold_coefficients", "wide", _threshold(3, 700, 0.9)),
    Case("threshold_coefficients", "ties", _threshold(6, 90, 0.5, "ties")),
    Case("threshold_coefficients", "ties-at-zero-share", _threshold(6, 90, 0.0, "ties")),
    Case("threshold_coefficients", "zero-rows", _threshold(5, 33, 0.4, "zero rows")),
    Case("threshold_coefficients", "not-finite", _threshold(3, 33, 0.4, "not finite")),
    Case("threshold_coefficients", "everything", _threshold(3, 5, 1.0), (0,)),
    Case("threshold_coefficients", "no-rows", _threshold(0, 5, 0.5)),
    Case("threshold_coefficients", "no-columns", _threshold(3, 0, 0.5)),
    Case("topk_coefficients", "some", _topk(9, 9, 3), (0,)),
    Case("topk_coefficients", "rows", _topk(9, 9, 3, rows=4), (0,)),
    Case("topk_coefficients", "signed", _topk(9, 9, 3, signed=True), (0,)),
    Case("topk_coefficients", "duplicates", _topk_duplicates, (0,)),
    Case("topk_coefficients", "shard", _topk_shard, (0,)),
    Case("topk_coefficients", "landmarks", _topk(9, 4, 2, own=False), (0,)),
    Case("topk_coefficients", "more-than-there-is", _topk(4, 4, 6), (0,)),
    Case("topk_coefficients", "wide", _topk(3, 5000, 20, own=False)),
    Case("topk_coefficients", "ties", _topk(70, 200, 33, kind="ties", rows=20)),
    Case("topk_coefficients", "ties-signed", _topk(20, 200, 100, kind="ties", signed=True)),
    Case("topk_coefficients", "equal", _topk(2, 4700, 256, kind="equal")),
    Case("topk_coefficients", "not-finite", _topk(7, 90, 30, kind="not finite")),
    Case("topk_coefficients", "not-finite-signed", _topk(7, 90, 70, kind="not finite", signed=True)),
    Case("topk_coefficients", "beyond-the-kernel", _topk(5, 400, 300)),
    Case("topk_coefficients", "no-rows", _topk(0, 5, 2)),
    Case("topk_coefficients", "no-columns", _topk(3, 0, 2, own=False)),
    Case("topk_coefficients", "nothing", _topk(3, 4, 0)),
    Case("topk_coefficients", "products", _topk_products(5, 9, 4, 3), (0, 1)),
    Case("topk_coefficients", "products-signed", _topk_products(5, 9, 4, 3, signed=True), (0, 1)),
    Case("topk_coefficients", "products-of-all", _topk_products(7, 7, 3, 9, rows=False), (0, 1)),
    Case("topk_coefficients", "products-landmarks", _topk_products(9, 5, 4, 2, rows=False, own=False), (0, 1)),
    Case("topk_coefficients", "products-tile-edges", _topk_products(130, 131, 33, 7)),
    Case("topk_coefficients", "products-deep", _topk_products(3, 70, 170, 5)),
    Case("topk_coefficients", "products-split", _topk_products(3, 2100, 5, 12)),
    Case("topk_coefficients", "products-ties", _topk_products(40, 700, 6, 50, kind="ties")),
    Case("topk_coefficients", "products-ties-signed", _topk_products(20, 700, 6, 50, kind="ties", signed=True)),
    Case("topk_coefficients", "products-ascending", _topk_products(2, 1000, 3, 256, kind="ascending")),
    Case("topk_coefficients", "products-not-finite", _topk_products(5, 600, 3, 6, kind="not finite")),
    Case("topk_coefficients", "products-bf16", _topk_products(9, 90, 16, 4, storage=_bf16)),
    Case("topk_coefficients", "products-f16", _topk_products(9, 90, 16, 4, storage=_f16, signed=True)),
    Case("topk_coefficients", "products-no-rows", _topk_products(0, 6, 3, 2)),
    Case("topk_coefficients", "products-no-samples", _topk_products(3, 0, 4, 2, rows=False, own=False)),
    Case("topk_coefficients", "products-no-features", _topk_products(3, 6, 0, 2)),
    Case("symmetrize_affinity", "mean", _symmetrize(9, 4, "mean"), (0,)),
    Case("symmetrize_affinity", "max", _symmetrize(9, 4, "max"), (0,)),
    Case("symmetrize_affinity", "t-conorm", _symmetrize(9, 4, "t-conorm"), (0,)),
    Case("symmetrize_affinity", "threshold", _symmetrize(9, 4, "t-conorm", 0.5), (0,)),
    Case("symmetrize_affinity", "hub", _symmetrize(90, 7, "mean")),
    Case("symmetrize_affinity", "long-hub", _symmetrize(600, 2, "mean")),
    Case("symmetrize_affinity", "dense-rows", _symmetrize(40, 60, "max")),
    Case("symmetrize_affinity", "sorted", _symmetrize_sorted(40, 0.4, "mean"), (0,)),
    Case("symmetrize_affinity", "blocks", _symmetrize_sorted(300, 0.5, "t-conorm")),
    Case("symmetrize_affinity", "one", _symmetrize(1, 1, "mean")),
    Case("symmetrize_affinity", "no-entries", _symmetrize(5, 0, "mean")),
    Case("symmetrize_affinity", "no-rows", _symmetrize(0, 3, "mean")),
    Case("symmetrize_dense", "all", _symmetrize_dense(5, "t-conorm"), (0,)),
    Case("symmetrize_dense", "some", _symmetrize_dense(7, "max", 0.3, share=0.7), (0,)),
    Case("symmetrize_dense", "full-tiles", _symmetrize_dense(131, "mean")),
    Case("symmetrize_dense", "thin-tiles", _symmetrize_dense(200, "max", 0.1, share=0.02)),
    Case("symmetrize_dense", "bits-without-mirrors", _symmetrize_dense(300, "t-conorm", 0.5, share=0.001)),
    Case("symmetrize_dense", "no-rows", _symmetrize_dense(0, "mean")),
    Case("bank_scatter_", "replace", _scatter(None, None)),
    Case("bank_scatter_", "mix-normalize", _scatter(None, None, normalize=True, momentum=0.3)),
    Case("bank_scatter_", "wide", _scatter(None, None, d=300, normalize=True)),
    Case("bank_scatter_", "to-bf16", _scatter(_bf16, None, normalize=True)),
    Case("bank_scatter_", "to-f16", _scatter(_f16, None, momentum=0.3)),
    Case("bank_scatter_", "from-bf16", _scatter(None, _bf16)),
    Case("bank_scatter_", "from-f16-to-f64", _scatter(_f64, _f16, normalize=True)),
    Case("bank_scatter_", "many-duplicates", _scatter_many),
    Case("bank_push_", "wrap", _push(4)),
    Case("bank_push_", "many", _push_many),
    Case("bank_push_", "larger-than-bank", _push(20)),
    Case("bank_push_", "exactly-the-bank", _push(6, start=0)),
    Case("bank_push_", "normalize-bf16", _push(3, to=_bf16, normalize=True)),
    Case("bank_push_", "nothing", _push(0)),
    Case("row_adam_", "rows", _adam(3)),
    Case("row_adam_", "penalties", _adam(3, weight_decay=0.1, l1=0.02)),
    Case("row_adam_", "all-rows", _adam(None, 70, weight_decay=0.1)),
    Case("row_adam_", "duplicates", _adam_duplicates),
    Case("row_adam_", "many-duplicates", _adam_many),
    Case("row_adam_", "no-rows", _adam(0)),
]

TF32 = ("self_expression", "self_expression_step_")  # ops whose CUDA products may be taken in TF32
MUTATED = {
    "bank_scatter_": (0,),
    "bank_push_": (0, 1),
    "row_adam_": (0, 1, 2, 3),
    "self_expression_step_": (0, 1, 2, 3),
    "sparse_self_expression_step_": (0, 2, 3, 4),
}


def call(case: Case, arguments: Arguments) -> tuple[Tensor, ...]:
    """What ``torch.ops.dsc_ext.<op>`` returns, or leaves behind in its arguments."""
    returned = getattr(torch.ops.dsc_ext, case.op)(*arguments)
    if case.op in MUTATED:
        return tuple(arguments[i] for i in MUTATED[case.op] if arguments[i] is not None)
    return returned if isinstance(returned, tuple) else (returned,)


def expected(case: Case, arguments: Arguments) -> tuple[Tensor, ...]:
    """The same by the reference. For the two forms of symmetrize_affinity: the dense W."""
    if case.op == "self_expression":
        return (reference.self_expression(*arguments[:6]),)
    if case.op == "sparse_self_expression":
        return (reference.sparse_self_expression(*arguments[:7]),)
    if case.op == "inner_product_self_expression":
        Q, K, V, threshold, scale, rows, zero_diagonal = arguments
        if zero_diagonal and rows is None:
            rows = torch.arange(Q.shape[0], device=Q.device)
        return reference.inner_product_self_expression(Q, K, V, threshold, scale, rows if zero_diagonal else None)
    if case.op == "symmetrize_affinity":
        values, crow, column, *options = arguments
        n = crow.shape[0] - 1
        row = torch.repeat_interleave(torch.arange(n, device=crow.device), crow.diff())
        return (reference.symmetrize_affinity(values, row, column, n, *options),)
    if case.op == "symmetrize_dense":
        C, *options = arguments
        n = C.shape[0]
        every = torch.cartesian_prod(*[torch.arange(n, device=C.device)] * 2)
        return (reference.symmetrize_affinity(C.reshape(-1), every[:, 0], every[:, 1], n, *options),)
    if case.op == "topk_coefficients":
        return reference.topk_coefficients(*arguments[:7])
    returned = getattr(reference, case.op)(*arguments)
    if case.op in MUTATED:
        return tuple(arguments[i] for i in MUTATED[case.op] if arguments[i] is not None)
    return returned if isinstance(returned, tuple) else (returned,)


def clone(arguments: Arguments) -> Arguments:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)
