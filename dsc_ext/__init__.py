"""dsc_ext: CUDA/C++ kernels for deep subspace clustering behind PyTorch ops, layers and an optimizer.

    ops         self_expression, inner_product_self_expression, sparse_self_expression
                self_expression_step_, sparse_self_expression_step_, row_adam_
                ridge_on_support, elastic_net_on_support, omp_on_support
                topk_coefficients, threshold_coefficients, symmetrize_affinity
                bank_scatter_, bank_push_, info_nce
    layers      SelfExpression, MemoryBank. SelfExpressiveCUDA is SelfExpression under the name to drop into scripts.
    optimizers  RowAdam; or FusedAdam, the settings of one inside the backward pass of SelfExpression
    twin        reference: every op in plain PyTorch

All of them are imported from here. `python -m dsc_ext` says what was built and where each op runs.
"""

from importlib.metadata import PackageNotFoundError, version

from dsc_ext import nn, optim, reference
from dsc_ext.nn import MemoryBank, SelfExpression, SelfExpressiveCUDA
from dsc_ext.ops.bank import bank_push_, bank_scatter_
from dsc_ext.ops.info_nce import info_nce
from dsc_ext.ops.inner_product_self_expression import inner_product_self_expression
from dsc_ext.ops.on_support import elastic_net_on_support, omp_on_support, ridge_on_support
from dsc_ext.ops.row_adam import row_adam_
from dsc_ext.ops.self_expression import self_expression
from dsc_ext.ops.self_expression_step import self_expression_step_
from dsc_ext.ops.sparse_self_expression import sparse_self_expression
from dsc_ext.ops.sparse_self_expression_step import sparse_self_expression_step_
from dsc_ext.ops.symmetrize_affinity import symmetrize_affinity
from dsc_ext.ops.threshold_coefficients import threshold_coefficients
from dsc_ext.ops.topk_coefficients import topk_coefficients
from dsc_ext.optim import FusedAdam, RowAdam

try:
    __version__ = version("dsc-ext")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "FusedAdam",
    "MemoryBank",
    "RowAdam",
    "SelfExpression",
    "SelfExpressiveCUDA",
    "__version__",
    "bank_push_",
    "bank_scatter_",
    "elastic_net_on_support",
    "info_nce",
    "inner_product_self_expression",
    "nn",
    "omp_on_support",
    "optim",
    "reference",
    "ridge_on_support",
    "row_adam_",
    "self_expression",
    "self_expression_step_",
    "sparse_self_expression",
    "sparse_self_expression_step_",
    "symmetrize_affinity",
    "threshold_coefficients",
    "topk_coefficients",
]
