"""What only a GPU can show: streams, graphs, devices, asynchronous errors, sizes beyond 2³¹. The case table runs in
test_ops.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import dsc_ext
from dsc_ext import reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def problem(N: int = 300, B: int = 40, d: int = 24) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    C, M, Z = (
        torch.randn(N, N, generator=generator),
        torch.randn(N, d, generator=generator),
        torch.randn(B, d, generator=generator),
    )
    rows = torch.randperm(N, generator=generator)[:B]
    return C.cuda(), M.cuda(), rows.cuda(), Z.cuda()


def training_step(C, M, rows, Z, state, cursor) -> None:  # type: ignore[no-untyped-def]
    """One step of everything that may be captured: scatter, expression, row Adam, push."""
    dsc_ext.bank_scatter_(M, rows, Z, normalize=True)
    residual = dsc_ext.self_expression(C, M, rows, Z) - Z
    dsc_ext.row_adam_(C, *state, rows, residual @ M.T, lr=1e-2, weight_decay=0.1)
    dsc_ext.bank_push_(M, cursor, Z)


def fresh_state(C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros_like(C), torch.zeros_like(C), torch.zeros(C.shape[0], dtype=torch.int64, device=C.device)


def test_work_goes_to_the_current_stream() -> None:
    """A stream kept busy first: an op on another stream would read M before it is written."""
    C, M, rows, Z = problem()
    wanted = reference.self_expression(C, M + 1, rows, Z)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        M.add_(1)
        found = dsc_ext.self_expression(C, M, rows, Z)
    torch.cuda.current_stream().wait_stream(side)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_captured_step_equals_an_eager_one() -> None:
    C, M, rows, Z = problem()
    eager, captured = (C.clone(), M.clone()), (C.clone(), M.clone())
    eager_state, captured_state = fresh_state(C), fresh_state(C)
    eager_cursor, captured_cursor = (torch.tensor(7, device="cuda") for _ in range(2))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        training_step(*captured, rows, Z, captured_state, captured_cursor)
    for _ in range(3):
        training_step(*eager, rows, Z, eager_state, eager_cursor)
        graph.replay()
    for mine, theirs in zip(
        (*captured, *captured_state, captured_cursor), (*eager, *eager_state, eager_cursor), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_captured_loss_equals_an_eager_one() -> None:
    _, M, rows, Z = problem()
    mask = rows[torch.randint(40, (40, 9), generator=torch.Generator().manual_seed(1)).cuda()]
    anchor = Z.clone().requires_grad_()
    wanted = torch.autograd.grad(dsc_ext.info_nce(anchor, Z, M, rows, mask=mask), anchor)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = torch.autograd.grad(dsc_ext.info_nce(anchor, Z, M, rows, mask=mask), anchor)
    graph.replay()
    assert torch.equal(found[0], wanted[0])


def test_compiled_with_cuda_graphs() -> None:
    C, M, rows, Z = problem()
    C.requires_grad_()
    run = torch.compile(
        lambda C, z: dsc_ext.self_expression(C, M, rows, z).square().sum(), mode="reduce-overhead", fullgraph=True
    )
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        loss = run(C, Z)
        loss.backward()
    torch.testing.assert_close(loss, reference.self_expression(C, M, rows, Z).square().sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_work_goes_to_the_device_of_the_tensors() -> None:
    C, M, rows, Z = (tensor.to("cuda:1") for tensor in problem())
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(
        dsc_ext.self_expression(C, M, rows, Z), reference.self_expression(C, M, rows, Z), rtol=1e-4, atol=1e-4
    )


def test_more_than_two_to_the_31_coefficients() -> None:
    N = 46_400
    if torch.cuda.mem_get_info()[0] < 3.5 * 4 * N * N:
        pytest.skip("needs 30 GB of GPU memory for C and its moments")
    C = torch.zeros(N, N, device="cuda")
    state = fresh_state(C)
    M = torch.randn(N, 8, device="cuda")
    rows = torch.tensor([N - 1, 0], device="cuda")
    grad = torch.randn(2, N, device="cuda")
    dsc_ext.row_adam_(C, *state, rows, grad, lr=0.1)
    torch.testing.assert_close(C[rows], -0.1 * grad.sign(), rtol=1e-3, atol=1e-4)
    assert int(C[1:-1].count_nonzero()) == 0
    torch.testing.assert_close(
        dsc_ext.self_expression(C, M, rows), reference.self_expression(C, M, rows), rtol=1e-3, atol=1e-2
    )


OUT_OF_RANGE = """
import torch, dsc_ext
bank = torch.zeros(4, 3, device="cuda")
dsc_ext.bank_scatter_(bank, torch.tensor([9], device="cuda"), torch.ones(1, 3, device="cuda"))
torch.cuda.synchronize()
"""


def test_a_row_out_of_range_trips_an_assertion_on_the_device() -> None:
    """In a process of its own: the context does not survive it."""
    done = subprocess.run([sys.executable, "-c", OUT_OF_RANGE], capture_output=True, text=True)
    assert done.returncode != 0 and "bank_scatter_: rows must lie in the bank" in done.stderr
