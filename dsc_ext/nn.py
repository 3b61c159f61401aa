"""The two modules a deep subspace clustering model needs: the self-expressive layer and the memory bank.

With ``fused_adam`` the optimizer of C moves into the layer's backward pass, so that the gradient of C never exists.
Here is the order of things: gradients of the bank and of the live rows from C as the forward pass saw it, then the
step. The arithmetic is that of ``self_expression`` and ``self_expression_step_``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dsc_ext._torch import scale_in_force
from dsc_ext.ops.bank import bank_push_, bank_scatter_
from dsc_ext.ops.self_expression import grad_bank, grad_live, self_expression
from dsc_ext.ops.self_expression_step import self_expression_step_
from dsc_ext.optim import FusedAdam


class MemoryBank(nn.Module):
    """Keep the latent rows of all N samples, so that an encoder can train by mini-batch against every one of them.

    Args:
        n_samples: N, the rows of the bank.
        dim: d, the length of a flattened latent row.
        update: "index" (row i is sample i, whatever the order of batches) or "fifo" (slots are filled in order of
            arrival).
        shuffled: whether batches arrive in shuffled order. A FIFO then puts sample i into another slot every epoch and
            permutes the columns of C, which destroys it; the combination is refused.
        dtype, device: of the buffer.

    Buffers: ``features`` (N, d), ``cursor`` () int64, the next FIFO slot. Neither takes part in autograd.

    Source: BDSC, arXiv 2507.19917, §3.1.
    """

    features: Tensor
    cursor: Tensor

    def __init__(
        self,
        n_samples: int,
        dim: int,
        *,
        update: str = "index",
        shuffled: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if update not in ("index", "fifo"):
            raise ValueError(f"MemoryBank: update must be 'index' or 'fifo', got {update!r}")
        if update == "fifo" and shuffled:
            raise ValueError(
                "MemoryBank: update='fifo' needs a fixed order of batches, got shuffled=True: samples change slots "
                "every epoch and permute the columns of the coefficient matrix. Use update='index' or shuffled=False."
            )
        self.update_policy = update
        self.register_buffer("features", torch.zeros(n_samples, dim, dtype=dtype, device=device))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def fill(self, Z: Tensor) -> None:
        """Set the whole bank to ``Z`` (N, d) and the FIFO cursor to 0."""
        if Z.shape != self.features.shape:
            raise ValueError(f"MemoryBank.fill: Z must be {tuple(self.features.shape)}, got {tuple(Z.shape)}")
        self.features.copy_(Z)
        self.cursor.zero_()

    def scatter(self, rows: Tensor, Z: Tensor, *, normalize: bool = False, momentum: float = 0.0) -> None:
        """Replace the rows ``rows`` by ``Z``, see :func:`dsc_ext.bank_scatter_`."""
        bank_scatter_(self.features, rows, Z, normalize=normalize, momentum=momentum)

    def push(self, Z: Tensor, *, normalize: bool = False) -> None:
        """Push ``Z``, first in, first out, see :func:`dsc_ext.bank_push_`."""
        bank_push_(self.features, self.cursor, Z, normalize=normalize)

    def update(self, rows: Tensor, Z: Tensor) -> None:
        """Enter a batch by the bank's policy. Under "fifo" an unshuffled order makes ``rows`` the next slots."""
        if self.update_policy == "index":
            self.scatter(rows, Z)
        else:
            self.push(Z)

    def extra_repr(self) -> str:
        n_samples, dim = self.features.shape
        return f"n_samples={n_samples}, dim={dim}, update={self.update_policy!r}"


class SelfExpression(nn.Module):
    """Express each sample by the others, Ẑ = C Z, full batch or mini-batch: the layer at the heart of DSC-Net.

    Takes the place of the usual ``SelfExpression(n)`` of DSC-Net scripts: the parameter is called ``Coefficient`` and
    is (n, n), so the state_dict of an existing layer loads. ``SelfExpressiveCUDA`` is the same class, a name to drop
    into scripts that have a ``SelfExpression`` of their own.

    Args:
        n_samples: N. C takes 4·N² bytes, and three times that with Adam's moments.
        zero_diagonal: exclude each sample from its own combination. Off by default because the layer it replaces has a
            free diagonal (sufficient with an ℓ2 penalty); turn it on for an ℓ1 penalty, which is trivial without.
        init: initial value of every coefficient.
        sparse_grad: in mini-batch use, give ``Coefficient.grad`` as a sparse tensor of the batch's rows, for
            :class:`dsc_ext.optim.RowAdam`.
        fused_adam: let the backward pass step C, by these settings: the gradient of C is never stored, which saves
            time and 4·N² bytes. ``Coefficient.grad`` stays ``None``, and C goes into no other optimizer. See below.
        dtype, device: of the parameter.

    **With fused_adam** the same numbers come out, to rounding, as with :class:`dsc_ext.optim.RowAdam` stepped after
    each backward pass. In training mode, every ``backward()`` that reaches the layer

    - computes the gradients of ``z`` and of the bank from C as it was in the forward pass, then steps the rows of the
      batch, once each. Two micro-batches are two steps; a row that is in both is stepped twice, each time by its own
      micro-batch's gradient.
    - leaves C alone where ∂L/∂Ẑ is not finite everywhere, and adds one to the buffer ``skipped_steps`` instead (on the
      device: nothing waits for it).
    - must follow its forward pass before C changes again: two forward passes before a backward pass, a second backward
      pass (``retain_graph=True``) and ``create_graph=True`` are refused.

    In ``eval()`` mode, under ``torch.no_grad()`` and with ``Coefficient.requires_grad = False`` C is a constant. The
    step size in force is the attribute ``lr``, to be set between steps: ``layer.lr = scheduler.get_last_lr()[0]``. With
    ``torch.amp``, set ``layer.grad_scaler`` to the GradScaler, and the step divides its scale out. Moments and counts
    are the buffers ``exp_avg``, ``exp_avg_sq`` and ``row_step`` (none if proximal); a state_dict without any of them,
    that of the usual layer, loads as well and starts them at zero. Under ``torch.compile`` the graph breaks at the
    layer.

    Source: Ji et al., *Deep Subspace Clustering Networks*, NIPS 2017; mini-batch use: BDSC, arXiv 2507.19917, §3.1.

    Example:
        >>> layer = SelfExpression(4)
        >>> layer(torch.randn(4, 3)).shape                                # full batch
        torch.Size([4, 3])
        >>> rows, bank = torch.tensor([2, 0]), torch.randn(4, 3)
        >>> layer(torch.randn(2, 3), rows, bank).shape                    # mini-batch against the bank
        torch.Size([2, 3])
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    row_step: Tensor
    skipped_steps: Tensor

    def __init__(
        self,
        n_samples: int,
        *,
        zero_diagonal: bool = False,
        init: float = 1e-8,
        sparse_grad: bool = True,
        fused_adam: FusedAdam | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if n_samples < 1:
            raise ValueError(f"SelfExpression: n_samples must be at least 1, got {n_samples}")
        self.Coefficient = nn.Parameter(torch.full((n_samples, n_samples), init, dtype=dtype, device=device))
        self.zero_diagonal = zero_diagonal
        self.sparse_grad = sparse_grad
        self.fused_adam = fused_adam
        if fused_adam is not None:
            self._start_fused(fused_adam)

    def _start_fused(self, settings: FusedAdam) -> None:
        C = self.Coefficient
        self.lr = settings.lr
        self.grad_scaler: torch.amp.GradScaler | None = None
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64, device=C.device))
        if settings.proximal:
            return
        moments = settings.moments or C.dtype
        if moments not in (C.dtype, torch.bfloat16) or (moments == torch.bfloat16 and C.dtype != torch.float32):
            raise ValueError(
                "SelfExpression: fused_adam.moments must be the dtype of the parameter, or bfloat16 beside "
                f"float32, got {moments} beside {C.dtype}"
            )
        for name in ("exp_avg", "exp_avg_sq"):
            self.register_buffer(name, torch.zeros(C.shape, dtype=moments, device=C.device))
        self.register_buffer("row_step", torch.zeros(C.shape[0], dtype=torch.int64, device=C.device))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        arguments = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        own = {prefix + name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        if prefix + "Coefficient" in state_dict and not own.keys() & state_dict.keys():
            for key, buffer in own.items():
                buffer.zero_()
                if key in missing_keys:
                    missing_keys.remove(key)

    def forward(
        self, z: Tensor, rows: Tensor | None = None, bank: Tensor | MemoryBank | None = None, *, splice: bool = True
    ) -> Tensor:
        """Return Ẑ for all samples, or for a batch.

        Args:
            z: (N, d) all latent rows; or (B, d) the live batch.
            rows: (B,) int64 sample indices of the batch.
            bank: (N, d) features or a :class:`MemoryBank` to express the batch in.
            splice: let the live rows stand in for their own rows of the bank, so that gradient reaches the encoder
                through them; ``False`` reads the bank alone.

        Returns:
            (N, d) or (B, d).

        Raises:
            ValueError: only one of ``rows`` and ``bank`` given, or shapes that do not fit, by name.
        """
        if (rows is None) != (bank is None):
            given, missing = ("bank", "rows") if rows is None else ("rows", "bank")
            raise ValueError(f"SelfExpression: a mini-batch needs rows and bank, got {given} without {missing}")
        C: Tensor = self.Coefficient
        M = z if bank is None else bank.features if isinstance(bank, MemoryBank) else bank
        Z = z if bank is not None and splice else None
        if self.fused_adam is not None:
            if self.training and torch.is_grad_enabled() and C.requires_grad:
                express = _outside_graphs() if torch.compiler.is_compiling() else _express_and_step
                out: Tensor = express(self, M, rows, Z)
                return out
            C = C.detach()
        sparse_grad = self.sparse_grad and rows is not None
        return self_expression(C, M, rows, Z, zero_diagonal=self.zero_diagonal, sparse_grad=sparse_grad)

    def _step(self, settings: FusedAdam, G: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None) -> None:
        """Step C from G = ∂L/∂Ẑ, or count a step skipped unless all of G is finite. Waits for no device."""
        if G.numel() == 0:
            return
        least, largest = torch.aminmax(G)  # in one pass: NaN where any of G is
        found_inf = ((largest - largest) + (least - least)).float()  # zero, or NaN
        self.skipped_steps += found_inf != 0
        with_moments = not settings.proximal
        self_expression_step_(
            self.Coefficient,
            self.exp_avg if with_moments else None,
            self.exp_avg_sq if with_moments else None,
            self.row_step if with_moments else None,
            G,
            M,
            rows,
            Z,
            lr=self.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            decoupled=settings.decoupled,
            l1=settings.l1,
            proximal=settings.proximal,
            zero_diagonal=self.zero_diagonal,
            grad_scale=scale_in_force(self.grad_scaler),
            found_inf=found_inf,
        )

    def freeze(self) -> None:
        """End training: C is a constant from now on, and what ``fused_adam`` kept beside it (8·N² bytes) is let go."""
        self.Coefficient.requires_grad_(False)
        if self.fused_adam is not None:
            self.fused_adam = None
            for name in ("exp_avg", "exp_avg_sq", "row_step", "skipped_steps"):
                if hasattr(self, name):  # a proximal step keeps none of the first three
                    delattr(self, name)

    def extra_repr(self) -> str:
        settings = "" if self.fused_adam is None else f", fused_adam={self.fused_adam}"
        return f"n_samples={self.Coefficient.shape[0]}, zero_diagonal={self.zero_diagonal}{settings}"


SelfExpressiveCUDA = SelfExpression


class _StepInBackward(torch.autograd.Function):
    """Ẑ of the layer; the backward pass gives the gradients of M and Z, then steps the layer's C."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, C: Tensor, M: Tensor, rows: Tensor | None, Z: Tensor | None, layer: SelfExpression
    ) -> Tensor:
        # C is not saved for the backward pass, so that its checks below speak and not autograd's.
        ctx.save_for_backward(M, rows, Z)
        ctx.layer, ctx.version, ctx.stepped = layer, C._version, False
        return self_expression(C, M, rows, Z, zero_diagonal=layer.zero_diagonal)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layer: SelfExpression = ctx.layer
        C = layer.Coefficient
        if torch.is_grad_enabled():
            raise RuntimeError(
                "SelfExpression: with fused_adam the backward pass steps C and cannot be differentiated again, got "
                "create_graph=True; use the layer without fused_adam, with RowAdam"
            )
        if ctx.stepped:
            raise RuntimeError(
                "SelfExpression: with fused_adam each forward pass has one backward pass, got a second one "
                "(retain_graph=True), which would step C twice"
            )
        if C._version != ctx.version:
            raise RuntimeError(
                "SelfExpression: with fused_adam the backward pass must come before C changes again, got a C that "
                "has been stepped or written since this forward pass: call backward() after each forward()"
            )
        M, rows, Z = ctx.saved_tensors
        G = G.detach()
        dM = grad_bank(C, G, rows, Z, layer.zero_diagonal, 0) if ctx.needs_input_grad[1] else None
        dZ = grad_live(C, G, rows, layer.zero_diagonal, 0) if ctx.needs_input_grad[3] else None
        ctx.stepped = True
        assert layer.fused_adam is not None
        layer._step(layer.fused_adam, G, M, rows, Z)
        return None, dM, None, dZ, None


def _express_and_step(layer: SelfExpression, M: Tensor, rows: Tensor | None, Z: Tensor | None) -> Tensor:
    """Ẑ, (B, d) or (N, d), whose backward pass steps the layer's C."""
    C = layer.Coefficient
    if torch.is_autocast_enabled(C.device.type):  # as self_expression does by itself
        M, Z = M.to(C.dtype), None if Z is None else Z.to(C.dtype)
    out: Tensor = _StepInBackward.apply(C, M, rows, Z, layer)  # type: ignore[no-untyped-call]
    return out


@functools.cache
def _outside_graphs() -> Callable[..., Tensor]:
    """The same outside a traced graph, which breaks here: it cannot hold a backward pass that writes to a parameter.

    Not a decorator, which would import the compiler, two seconds, whenever the package is imported.
    """
    return torch.compiler.disable(_express_and_step)
