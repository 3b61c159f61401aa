"""Every op that takes a matrix by its rows, on rows more than 2³¹ elements apart."""

from __future__ import annotations

import pytest
import torch

import dsc_ext
from dsc_ext import reference

# Adjacent rows of one huge storage would need its size in memory; two rows far apart need two pages.
FAR = 2**31 + 5


@pytest.fixture
def far_apart() -> torch.Tensor:
    """(2, 9) whose rows lie more than 2³¹ elements from one another; the 8 GB between them are never touched."""
    try:
        storage = torch.empty(FAR + 9)
    except RuntimeError as error:
        pytest.skip(f"cannot reserve 8 GB of address space: {error}")
    matrix = storage.as_strided((2, 9), (FAR, 1))
    matrix.copy_(torch.randn(2, 9))
    return matrix


def test_offsets_beyond_two_to_the_31(far_apart: torch.Tensor) -> None:
    near = far_apart.clone()
    M, rows = torch.randn(9, 3), torch.tensor([1, 0, 1])
    torch.testing.assert_close(
        dsc_ext.self_expression(far_apart, M, rows, zero_diagonal=False),
        reference.self_expression(near, M, rows, None, False),
    )
    torch.testing.assert_close(
        dsc_ext.threshold_coefficients(far_apart, 0.4), reference.threshold_coefficients(near, 0.4)
    )
    a, own = torch.randn(2, 9), torch.tensor([0, 1])
    torch.testing.assert_close(dsc_ext.info_nce(a, a, far_apart, own), reference.info_nce(a, a, near, own).mean())
    threshold = torch.tensor(0.5)
    torch.testing.assert_close(
        dsc_ext.inner_product_self_expression(far_apart, far_apart, far_apart, threshold)[:],
        dsc_ext.inner_product_self_expression(near, near, near, threshold)[:],
    )
    Z = torch.randn(1, 9)
    dsc_ext.bank_scatter_(far_apart, torch.tensor([1]), Z)
    assert torch.equal(far_apart, torch.stack([near[0], Z[0]]))
    dsc_ext.bank_push_(far_apart, torch.tensor(1), Z + 1)
    assert torch.equal(far_apart[1], Z[0] + 1)
