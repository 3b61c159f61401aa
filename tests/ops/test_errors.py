"""Bad input is refused by an error that names the op, the argument, what came and what was expected; nothing is
changed.
"""

from __future__ import annotations

import pytest
import torch

import dsc_ext
from dsc_ext import FusedAdam, MemoryBank, RowAdam, SelfExpressiveCUDA

C, M, Z, ROWS = torch.zeros(4, 4), torch.zeros(4, 3), torch.zeros(2, 3), torch.tensor([0, 2])
THRESHOLD = torch.tensor(0.1)
BANK, STEP = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
V, J = torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64)  # sparse coefficients


def step_(C, exp_avg, exp_avg_sq, *, step=STEP, G=M, **options):  # type: ignore[no-untyped-def]
    return dsc_ext.self_expression_step_(C, exp_avg, exp_avg_sq, step, G, M.to(C.dtype), lr=0.1, **options)


REFUSED = [
    (lambda: dsc_ext.self_expression([1.0], M), TypeError, "self_expression: C must be a tensor, got list"),
    (lambda: dsc_ext.self_expression(C.half(), M), TypeError, r"C must be float32 or float64, got \(4, 4\) float16 on cpu"),
    (lambda: dsc_ext.self_expression(C, M.double()), TypeError, r"M must be float32, got \(4, 3\) float64"),
    (lambda: dsc_ext.self_expression(C, torch.zeros(5, 3)), ValueError, r"M must be \(N, d\) with N = C.shape\[1\] = 4, got \(5, 3\)"),
    (lambda: dsc_ext.self_expression(C[0], M), ValueError, "C must be 2-D"),
    (lambda: dsc_ext.self_expression(C, M, ROWS.int()), TypeError, "rows must be int64"),
    (lambda: dsc_ext.self_expression(C, M, ROWS[None]), ValueError, "rows must be 1-D"),
    (lambda: dsc_ext.self_expression(C, M, None, Z), ValueError, "rows must be given with it"),
    (lambda: dsc_ext.self_expression(C, M, ROWS, Z[:1]), ValueError, r"Z must be \(B, d\) = \(2, 3\) as rows and M say, got \(1, 3\)"),
    (lambda: dsc_ext.self_expression(torch.zeros(5, 4), M, ROWS), ValueError, r"N = M.shape\[0\] = 4.*got C \(5, 4\) with row_offset = 0"),
    (lambda: dsc_ext.self_expression(C[:2], M, row_offset=3), ValueError, r"got C \(2, 4\) with row_offset = 3"),
    (lambda: dsc_ext.self_expression(C, M, torch.tensor([4])), IndexError, r"rows must lie in \[row_offset, row_offset \+ n\)"),
    (lambda: dsc_ext.self_expression(C, M, torch.tensor([-1])), IndexError, "rows must lie in"),
    (lambda: dsc_ext.self_expression(C, M.to("meta"), ROWS), ValueError, r"M must be on cpu like the other tensors, got \(4, 3\) float32 on meta"),
    (lambda: dsc_ext.info_nce([1.0], Z, M, ROWS), TypeError, "info_nce: anchor must be a tensor, got list"),
    (lambda: dsc_ext.info_nce(Z.long(), Z, M, ROWS), TypeError, "anchor must be float32 or float64 or float16 or bfloat16"),
    (lambda: dsc_ext.info_nce(Z.double(), Z, M, ROWS), TypeError, r"positive must be float64, got \(2, 3\) float32"),
    (lambda: dsc_ext.info_nce(Z, Z.double(), M, ROWS), TypeError, "positive must be float32 or float16 or bfloat16, got"),
    (lambda: dsc_ext.info_nce(Z, M, M, ROWS), ValueError, r"positive must be \(B, d\) = \(2, 3\) like anchor, got \(4, 3\)"),
    (lambda: dsc_ext.info_nce(Z, Z, C, ROWS), ValueError, r"bank must be \(N, d\) with d = anchor.shape\[1\] = 3, got \(4, 4\)"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS[:1]), ValueError, r"rows must be \(B,\) with B = anchor.shape\[0\] = 2, got \(1,\)"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS.int()), TypeError, "rows must be int64"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS, mask=ROWS), ValueError, "mask must be 2-D"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS, mask=ROWS[None]), ValueError, r"mask must be \(B, q\) with B = .* = 2, got \(1, 2\)"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS, temperature=0.0), ValueError, "temperature must be positive and finite, got 0.0"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS, reduction="max"), ValueError, "reduction must be 'mean', 'sum' or 'none', got 'max'"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS + 2), IndexError, r"rows and the columns of mask must lie in \[0, N\)"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS - 1), IndexError, "rows and the columns of mask must lie in"),
    (lambda: dsc_ext.info_nce(Z, Z, M, ROWS, mask=torch.full((2, 1), 4)), IndexError, "rows and the columns of mask must lie in"),
    (lambda: dsc_ext.inner_product_self_expression([1.0], M, M), TypeError, "inner_product_self_expression: Q must be a tensor, got list"),
    (lambda: dsc_ext.inner_product_self_expression(M, M, M, 0.1), ValueError, "threshold must be a tensor with one element, got float 0.1"),
    (lambda: dsc_ext.inner_product_self_expression(M, M, M, M[0]), ValueError, r"threshold must be a tensor with one element, got \(3,\)"),
    (lambda: dsc_ext.inner_product_self_expression(M, M, M, THRESHOLD.double()), TypeError, r"threshold must be float32, got \(\) float64"),
    (lambda: dsc_ext.inner_product_self_expression(M.half(), M.half(), M.half(), THRESHOLD.double()), TypeError, "threshold must be float16 or float32"),
    (lambda: dsc_ext.inner_product_self_expression(M, M.double(), M, THRESHOLD), TypeError, r"K must be float32, got \(4, 3\) float64"),
    (lambda: dsc_ext.inner_product_self_expression(M, Z[:, :2], Z), ValueError, r"K must be \(N, dq\) with dq = Q.shape\[1\] = 3, got \(2, 2\)"),
    (lambda: dsc_ext.inner_product_self_expression(M, M, Z, THRESHOLD), ValueError, r"V must be \(N, dv\) with N = K.shape\[0\] = 4, got \(2, 3\)"),
    (lambda: dsc_ext.inner_product_self_expression(Z, M, M, THRESHOLD), ValueError, r"rows \(B,\) must say which sample each query is.*got B = 2, N = 4"),
    (lambda: dsc_ext.inner_product_self_expression(Z, M, M, None, 1.0, ROWS[:1]), ValueError, r"rows must be \(B,\) with B = Q.shape\[0\] = 2, got \(1,\)"),
    (lambda: dsc_ext.inner_product_self_expression(Z, M, M, THRESHOLD, 1.0, ROWS.int()), TypeError, "rows must be int64"),
    (lambda: dsc_ext.inner_product_self_expression(Z, M, M, THRESHOLD, 1.0, ROWS + 2), IndexError, r"rows must lie in \[0, N\), the samples"),
    (lambda: dsc_ext.sparse_self_expression(V, [0], M), TypeError, "sparse_self_expression: indices must be a tensor, got list"),
    (lambda: dsc_ext.sparse_self_expression(V, J.int(), M), TypeError, r"indices must be int64, got \(4, 2\) int32"),
    (lambda: dsc_ext.sparse_self_expression(V, J[:3], M), ValueError, r"both be \(n, k\), got \(4, 2\) and \(3, 2\)"),
    (lambda: dsc_ext.sparse_self_expression(V.half(), J, M), TypeError, "values must be float32 or float64, got"),
    (lambda: dsc_ext.sparse_self_expression(V, J, M.double()), TypeError, "M must be float32 or float16 or bfloat16, got"),
    (lambda: dsc_ext.sparse_self_expression(V.double(), J, M.half()), TypeError, "M must be float64, got"),
    (lambda: dsc_ext.sparse_self_expression(V, J, M, Z=Z), ValueError, "rows must be given with it"),
    (lambda: dsc_ext.sparse_self_expression(V, J, M, rows=ROWS, Z=Z.half()), TypeError, "Z must be float32, got"),
    (lambda: dsc_ext.sparse_self_expression(V, J, M, rows=ROWS, Z=Z[:1]), ValueError, r"Z must be \(B, d\) = \(2, 3\)"),
    (lambda: dsc_ext.sparse_self_expression(V, J, M[:3]), ValueError, r"N = M.shape\[0\] = 3.*got values \(4, 2\) with row_offset = 0"),
    (lambda: dsc_ext.sparse_self_expression(V, J, M, rows=torch.tensor([4])), IndexError, r"rows must lie in \[row_offset"),
    (lambda: dsc_ext.sparse_self_expression(V, J + 4, M), IndexError, "indices must be below N, the rows of the bank"),
    (lambda: dsc_ext.sparse_self_expression_step_(V, J, V, V, STEP, Z, M, lr=0.1), ValueError, r"G must be \(B, d\) = \(4, 3\) as rows and M say, got \(2, 3\)"),
    (lambda: dsc_ext.sparse_self_expression_step_(V, J, V, V[:3], STEP, M, M, lr=0.1), ValueError, r"exp_avg_sq must have the shape of values, \(4, 2\), got \(3, 2\)"),
    (lambda: dsc_ext.sparse_self_expression_step_(V, J, V, V, None, M, M, lr=0.1), TypeError, "step must be a tensor, got NoneType"),
    (lambda: dsc_ext.sparse_self_expression_step_(V, J, V, None, None, M, M, lr=0.1, proximal=True), ValueError, "exp_avg must be None with proximal=True"),
    (lambda: dsc_ext.ridge_on_support([1.0], J, 0.1), TypeError, "ridge_on_support: X must be a tensor, got list"),
    (lambda: dsc_ext.ridge_on_support(M.half(), J, 0.1), TypeError, r"X must be float32 or float64, got \(4, 3\) float16"),
    (lambda: dsc_ext.ridge_on_support(M, J.int(), 0.1), TypeError, r"indices must be int64, got \(4, 2\) int32"),
    (lambda: dsc_ext.ridge_on_support(M, J[:3], 0.1), ValueError, r"indices must be \(N, k\) with N = X.shape\[0\] = 4 where no Q is given, got \(3, 2\)"),
    (lambda: dsc_ext.ridge_on_support(M, J[0], 0.1), ValueError, "indices must be 2-D"),
    (lambda: dsc_ext.ridge_on_support(M, J, 0.0), ValueError, "lam must be positive and finite, got 0.0"),
    (lambda: dsc_ext.ridge_on_support(M, J, float("inf")), ValueError, "lam must be positive and finite, got inf"),
    (lambda: dsc_ext.ridge_on_support(M, J[:2], 0.1, Q=Z.double()), TypeError, r"Q must be float32, got \(2, 3\) float64"),
    (lambda: dsc_ext.ridge_on_support(M, J + 4, 0.1), IndexError, "indices must be below N, the rows of X"),
    (lambda: dsc_ext.elastic_net_on_support(M, J, 0.1, 0.1, Q=Z), ValueError, r"Q must be \(B, d\) = \(4, 3\) as indices and X say, got \(2, 3\)"),
    (lambda: dsc_ext.elastic_net_on_support(M, J, -0.1, 0.1), ValueError, "elastic_net_on_support: l1 must be 0 or more and finite, got -0.1"),
    (lambda: dsc_ext.elastic_net_on_support(M, J, 0.1, float("nan")), ValueError, "l2 must be 0 or more and finite, got nan"),
    (lambda: dsc_ext.elastic_net_on_support(M, J + 4, 0.1, 0.1), IndexError, "indices must be below N"),
    (lambda: dsc_ext.omp_on_support(M, J.to("meta"), 1), ValueError, r"indices must be on cpu like the other tensors, got \(4, 2\) int64 on meta"),
    (lambda: dsc_ext.omp_on_support(M, J, -1), ValueError, "omp_on_support: n_nonzero must be 0 or more and finite, got -1"),
    (lambda: dsc_ext.omp_on_support(M, J, 1, tolerance=-1e-3), ValueError, "tolerance must be 0 or more and finite, got -0.001"),
    (lambda: dsc_ext.omp_on_support(M, J + 4, 1), IndexError, "indices must be below N"),
    (lambda: dsc_ext.threshold_coefficients(C, -0.1), ValueError, "rho must be a share of the row's l1 norm, 0 or more, got -0.1"),
    (lambda: dsc_ext.threshold_coefficients(C, float("nan")), ValueError, "rho must be"),
    (lambda: dsc_ext.threshold_coefficients(C.long(), 0.5), TypeError, "C must be float32 or float64"),
    (lambda: dsc_ext.symmetrize_affinity(C, reduce="sum"), ValueError, "reduce must be 'mean', 'max' or 't-conorm', got 'sum'"),
    (lambda: dsc_ext.topk_coefficients([1.0], 2), TypeError, r"topk_coefficients: C must be a matrix or a pair \(Q, K\) of tensors, got list"),
    (lambda: dsc_ext.topk_coefficients(1.0, 2), TypeError, "topk_coefficients: C must be a tensor, got float 1.0"),
    (lambda: dsc_ext.topk_coefficients(C.half(), 2), TypeError, r"C must be float32 or float64, got \(4, 4\) float16"),
    (lambda: dsc_ext.topk_coefficients(C, -1), ValueError, "k must be 0 or more, got -1"),
    (lambda: dsc_ext.topk_coefficients(M, 2), ValueError, r"C must be rows row_offset .. row_offset \+ n of N = 3 .*got \(4, 3\) with row_offset = 0"),
    (lambda: dsc_ext.topk_coefficients(C, 2, rows=ROWS.int()), TypeError, "rows must be int64"),
    (lambda: dsc_ext.topk_coefficients(C, 2, rows=torch.tensor([4])), IndexError, r"rows must lie in \[row_offset, row_offset \+ n\)"),
    (lambda: dsc_ext.topk_coefficients((M, M.double()), 2), TypeError, r"K must be float32, got \(4, 3\) float64"),
    (lambda: dsc_ext.topk_coefficients((M.long(), M.long()), 2), TypeError, "Q must be float32 or float64 or float16 or bfloat16"),
    (lambda: dsc_ext.topk_coefficients((M, C), 2), ValueError, r"K must be \(N, d\) with d = Q.shape\[1\] = 3, got \(4, 4\)"),
    (lambda: dsc_ext.topk_coefficients((M, Z), 2), ValueError, r"Q must be rows row_offset .. row_offset \+ n of N = 2 = K.shape\[0\]"),
    (lambda: dsc_ext.topk_coefficients((Z, M), 2, rows=ROWS[:1]), ValueError, r"rows must be \(B,\) with B = Q.shape\[0\] = 2, got \(1,\)"),
    (lambda: dsc_ext.topk_coefficients((Z, M), 2, rows=ROWS, row_offset=1), ValueError, "row_offset must be 0 where rows name the samples of Q, got 1"),
    (lambda: dsc_ext.topk_coefficients((Z, M), 2, rows=torch.tensor([0, 4])), IndexError, r"rows must lie in \[0, N\), the samples of K"),
    (lambda: dsc_ext.symmetrize_affinity(M), ValueError, r"must be an \(N, N\) matrix, dense or CSR, got \(4, 3\)"),
    (lambda: dsc_ext.symmetrize_affinity(C, threshold=-1.0), ValueError, "threshold must be 0 or more, got -1.0"),
    (lambda: dsc_ext.symmetrize_affinity(M, torch.zeros(4, 2).long()), ValueError, r"both be \(N, k\), got \(4, 3\) and \(4, 2\)"),
    (lambda: dsc_ext.symmetrize_affinity(M, torch.full((4, 3), 4)), IndexError, "indices must be below N"),
    (lambda: dsc_ext.symmetrize_affinity(C.to_sparse_coo()), TypeError, "dense or sparse CSR, got layout torch.sparse_coo"),
    (lambda: dsc_ext.bank_scatter_(BANK, ROWS, Z[:, :2]), ValueError, r"Z must be \(B, d\) with d = bank.shape\[1\] = 3, got \(2, 2\)"),
    (lambda: dsc_ext.bank_scatter_(BANK, ROWS[:1], Z), ValueError, r"rows must be \(B,\) with B = Z.shape\[0\] = 2, got \(1,\)"),
    (lambda: dsc_ext.bank_scatter_(BANK, ROWS, Z, momentum=1.0), ValueError, r"momentum must be in \[0, 1\), got 1.0"),
    (lambda: dsc_ext.bank_scatter_(BANK, torch.tensor([0, 4]), Z), IndexError, r"rows must lie in \[0, N\), the slots of the bank"),
    (lambda: dsc_ext.bank_scatter_(BANK.T.contiguous().T, ROWS, Z), ValueError, "bank is written in place"),
    (lambda: dsc_ext.bank_push_(BANK, torch.zeros(2).long(), Z), TypeError, "cursor must be an int64 tensor with one element"),
    (lambda: dsc_ext.bank_push_(BANK, torch.zeros(()), Z), TypeError, "cursor must be an int64 tensor"),
    (lambda: dsc_ext.row_adam_(C, C, C, STEP[:3], None, C, lr=0.1), ValueError, r"step must be \(n,\) with n = C.shape\[0\] = 4, got \(3,\)"),
    (lambda: dsc_ext.row_adam_(C, M, C, STEP, None, C, lr=0.1), ValueError, "exp_avg must have the shape of C"),
    (lambda: dsc_ext.row_adam_(C, C, C, STEP, ROWS, C, lr=0.1), ValueError, r"grad must be \(2, 4\) as rows and C say, got \(4, 4\)"),
    (lambda: dsc_ext.row_adam_(C, C, C, STEP, torch.tensor([9]), C[:1], lr=0.1), IndexError, r"rows must lie in \[0, n\)"),
    (lambda: step_(C, C, C, row_offset=1), ValueError, r"C must be rows row_offset .* got C \(4, 4\) with row_offset = 1"),
    (lambda: step_(C, C, C.bfloat16()), TypeError, "exp_avg_sq must be torch.float32 like exp_avg, got .* bfloat16"),
    (lambda: step_(C.double(), C.bfloat16(), C.bfloat16()), TypeError, "exp_avg must be float64, got .* bfloat16"),
    (lambda: step_(C, C, M), ValueError, r"exp_avg_sq must have the shape of C, \(4, 4\), got \(4, 3\)"),
    (lambda: step_(C, None, C), TypeError, "exp_avg must be a tensor, got NoneType None"),
    (lambda: step_(C, C, C, proximal=True), ValueError, "exp_avg must be None with proximal=True, which keeps no state"),
    (lambda: step_(C, C, C, step=STEP[:3]), ValueError, r"step must be \(n,\) with n = C.shape\[0\] = 4, got \(3,\)"),
    (lambda: step_(C, C, C, G=Z), ValueError, r"G must be \(B, d\) = \(4, 3\) as rows and M say, got \(2, 3\)"),
    (lambda: step_(C, C, C, rows=ROWS), ValueError, r"G must be \(B, d\) = \(2, 3\) as rows and M say, got \(4, 3\)"),
    (lambda: step_(C, C, C, Z=M), ValueError, "rows must be given with it, got rows=None"),
    (lambda: step_(C.T.contiguous().T, C, C), ValueError, "C is written in place, so it must be contiguous"),
    (lambda: step_(C, C, C, grad_scale=torch.ones(2)), ValueError, r"grad_scale must have one element, got \(2,\)"),
    (lambda: step_(C, C, C, found_inf=torch.tensor(False)), TypeError, "found_inf must be float32"),
    (lambda: step_(C, C, C, G=Z, rows=ROWS + 2), IndexError, r"rows must lie in \[row_offset, row_offset \+ n\)"),
    (lambda: FusedAdam(lr=-1.0), ValueError, "FusedAdam: lr must be 0 or more, got -1.0"),
    (lambda: FusedAdam(betas=(0.9, 1.0)), ValueError, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
    (lambda: FusedAdam(moments=torch.float16), ValueError, "moments must be a float32, float64 or bfloat16 dtype"),
    (lambda: SelfExpressiveCUDA(4, fused_adam=FusedAdam(moments=torch.float64)), ValueError, "moments must be the dtype of the parameter"),
    (lambda: MemoryBank(4, 3, update="lifo"), ValueError, "update must be 'index' or 'fifo', got 'lifo'"),
    (lambda: MemoryBank(4, 3, update="fifo", shuffled=True), ValueError, "permute the columns of the coefficient matrix"),
    (lambda: MemoryBank(4, 3).fill(Z), ValueError, r"Z must be \(4, 3\), got \(2, 3\)"),
    (lambda: SelfExpressiveCUDA(0), ValueError, "n_samples must be at least 1, got 0"),
    (lambda: SelfExpressiveCUDA(4)(Z, ROWS), ValueError, "a mini-batch needs rows and bank, got rows without bank"),
    (lambda: RowAdam([torch.zeros(3, requires_grad=True)]), ValueError, r"parameters must be 2-D, got shape \(3,\)"),
    (lambda: RowAdam([C.clone().requires_grad_()], lr=-1.0), ValueError, "lr must be 0 or more, got -1.0"),
    (lambda: RowAdam([C.clone().requires_grad_()], betas=(0.9, 1.0)), ValueError, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "kind", "text"), REFUSED, ids=[text[:40] for _, _, text in REFUSED])
def test_bad_input_is_refused_by_name(bad, kind, text) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind, match=text):
        bad()


def test_a_refused_row_changes_nothing() -> None:
    bank, bad = torch.ones(4, 3), torch.tensor([1, 7])
    with pytest.raises(IndexError):
        dsc_ext.bank_scatter_(bank, bad, torch.zeros(2, 3))
    assert torch.equal(bank, torch.ones(4, 3))
    matrix, step = torch.ones(4, 4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(IndexError):
        dsc_ext.row_adam_(matrix, matrix.clone(), matrix.clone(), step, bad, torch.ones(2, 4), lr=1.0)
    assert torch.equal(matrix, torch.ones(4, 4)) and not step.any()
    with pytest.raises(IndexError):
        dsc_ext.self_expression_step_(
            matrix, matrix.clone(), matrix.clone(), step, torch.ones(2, 3), torch.ones(4, 3), bad, lr=1.0
        )
    assert torch.equal(matrix, torch.ones(4, 4)) and not step.any()
