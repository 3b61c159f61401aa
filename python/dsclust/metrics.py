"""How good a clustering is: ACC, NMI and ARI against true labels, and the subspace-preserving error of C.

Owns the evaluation conventions: ACC by the Hungarian method (Kuhn 1955), NMI with the arithmetic mean of the two
entropies, ARI (Hubert & Arabie 1985), all invariant to how clusters are numbered. Pure functions of label vectors;
nothing here chooses or trains anything.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

Labels = npt.ArrayLike


class Record(TypedDict):
    """One line of a comparison: a method, its figures (None where true labels are unknown), its wall time."""

    method: str
    acc: float | None
    nmi: float | None
    ari: float | None
    seconds: float


def _label_pair(owner: str, labels_true: Labels, labels_pred: Labels) -> tuple[Any, Any]:
    vectors = []
    for name, labels in (("labels_true", labels_true), ("labels_pred", labels_pred)):
        vector = np.asarray(labels)
        if vector.ndim != 1 or vector.size == 0:
            raise ValueError(f"{owner}: {name} must be a non-empty vector, got shape {vector.shape}")
        if np.issubdtype(vector.dtype, np.floating):
            if not (np.isfinite(vector).all() and (vector == np.round(vector)).all()):
                raise ValueError(f"{owner}: {name} must hold class labels, got fractions, NaN or infinity")
        elif vector.dtype.kind not in "iubUSO":
            raise TypeError(f"{owner}: {name} must hold class labels, got dtype {vector.dtype}")
        vectors.append(vector)
    true, pred = vectors
    if true.size != pred.size:
        raise ValueError(f"{owner}: labels_true and labels_pred must have one length, got {true.size} and {pred.size}")
    return true, pred


def clustering_accuracy(labels_true: Labels, labels_pred: Labels) -> float:
    """ACC in [0, 1]: the share of samples that the best one-to-one match of clusters to classes gets right.

    Both vectors have length N; labels may be any integers or strings. With more clusters than classes the surplus
    clusters match nothing (all their samples count as wrong), and likewise the other way round.
    """
    true, pred = _label_pair("clustering_accuracy", labels_true, labels_pred)
    counts = contingency_matrix(true, pred)
    row, column = linear_sum_assignment(counts, maximize=True)
    return float(counts[row, column].sum() / true.size)


def evaluate(labels_true: Labels, labels_pred: Labels) -> dict[str, float]:
    """``{"acc", "nmi", "ari"}`` of a clustering; 1 is perfect, a random one has NMI and ARI near 0 (ARI may be < 0).

    NMI is normalized by the arithmetic mean of the entropies (DSC-Net, SSCN and scikit-learn's default). SENet and the
    reference code of SSC-OMP and EnSC use the geometric mean, which is never smaller: their figures are not comparable
    to the last digit where cluster sizes are uneven.

    Raises ValueError (shape, length, non-finite) or TypeError (dtype), naming the argument.
    """
    true, pred = _label_pair("evaluate", labels_true, labels_pred)
    return {
        "acc": clustering_accuracy(true, pred),
        "nmi": float(normalized_mutual_info_score(true, pred, average_method="arithmetic")),
        "ari": float(adjusted_rand_score(true, pred)),
    }


def make_record(method: str, labels_pred: Labels, labels_true: Labels | None, seconds: float) -> Record:
    """The :class:`Record` of a clustering; its figures are None where `labels_true` is None."""
    if labels_true is None:
        return Record(method=method, acc=None, nmi=None, ari=None, seconds=seconds)
    figures = evaluate(labels_true, labels_pred)
    return Record(method=method, acc=figures["acc"], nmi=figures["nmi"], ari=figures["ari"], seconds=seconds)


def subspace_preserving_error(coefficients: Any, labels_true: Labels) -> float:
    """Mean over samples of the share of ``‖c_i‖₁`` on samples of other classes; 0 = subspace-preserving.

    coefficients: (N, N) array, tensor or SciPy sparse; the diagonal is left out, and a row without other coefficients
    counts as 1 (it explains nothing). Source: Soltanolkotabi & Candès 2012; You et al., CVPR 2016.
    """
    owner = "subspace_preserving_error"
    true, _ = _label_pair(owner, labels_true, labels_true)
    if hasattr(coefficients, "detach"):
        coefficients = coefficients.detach().cpu().numpy()
    C = scipy.sparse.coo_array(coefficients)
    if C.shape != (true.size, true.size):
        raise ValueError(f"{owner}: coefficients must be (N, N) with N = len(labels_true) = {true.size}, got {C.shape}")
    if not np.isfinite(C.data).all():
        raise ValueError(f"{owner}: coefficients must be finite, got NaN or infinity")
    row, column = C.coords
    weight = np.where(row == column, 0.0, np.abs(C.data).astype(np.float64))
    total = np.bincount(row, weight, minlength=true.size)
    foreign = np.bincount(row, weight * (true[row] != true[column]), minlength=true.size)
    share = np.divide(foreign, total, out=np.ones_like(foreign), where=total > 0)
    return float(share.mean())
