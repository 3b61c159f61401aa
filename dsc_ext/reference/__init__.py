"""Plain PyTorch twin of every op: the specification, the test oracle, and the fallback where there is no kernel.

Nothing here is clever. Each function says in a few tensor operations what the op of the same name computes, is
differentiable by autograd to any order, and runs on every device and dtype PyTorch has. It may copy what a kernel would
not (the batch's rows of ``C``, the bank with live rows in place), which is the price of being readable.

One module a family of ops; all their functions are named from here.
"""

from dsc_ext.reference.affinity import symmetrize_affinity, threshold_coefficients, topk_coefficients
from dsc_ext.reference.bank import bank_push_, bank_scatter_
from dsc_ext.reference.batches import is_last_occurrence, last_occurrence, splice, without_diagonal
from dsc_ext.reference.contrast import info_nce, info_nce_expected, negative_scores
from dsc_ext.reference.dense import inner_product_self_expression, self_expression
from dsc_ext.reference.solvers import (
    elastic_net_on_support,
    lasso_signs,
    omp_on_support,
    on_support_adjoint,
    on_support_rounding,
    products_on_support,
    pursued,
    ridge_on_support,
    ridge_shift,
    solve_on_active,
)
from dsc_ext.reference.sparse import (
    gathered,
    sparse_self_expression,
    sparse_self_expression_grad,
    sparse_self_expression_transposed,
    sparse_support,
)
from dsc_ext.reference.steps import (
    rounding_noise,
    row_adam_,
    self_expression_step_,
    sparse_self_expression_step_,
    step_rows_,
    stochastic_bf16,
)

__all__ = [
    "bank_push_",
    "bank_scatter_",
    "elastic_net_on_support",
    "gathered",
    "info_nce",
    "info_nce_expected",
    "inner_product_self_expression",
    "is_last_occurrence",
    "lasso_signs",
    "last_occurrence",
    "negative_scores",
    "omp_on_support",
    "on_support_adjoint",
    "on_support_rounding",
    "products_on_support",
    "pursued",
    "ridge_on_support",
    "ridge_shift",
    "rounding_noise",
    "row_adam_",
    "self_expression",
    "self_expression_step_",
    "solve_on_active",
    "sparse_self_expression",
    "sparse_self_expression_grad",
    "sparse_self_expression_step_",
    "sparse_self_expression_transposed",
    "sparse_support",
    "splice",
    "step_rows_",
    "stochastic_bf16",
    "symmetrize_affinity",
    "threshold_coefficients",
    "topk_coefficients",
    "without_diagonal",
]
