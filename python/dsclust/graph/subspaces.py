"""The subspaces themselves: an orthonormal basis of each cluster's latent rows."""

from __future__ import annotations

import numpy as np

from dsclust.samples import Array
from dsclust.signs import point_upwards


def subspace_bases(latent: Array, labels: Array, n_clusters: int, subspace_dim: int) -> list[Array]:
    """Return K arrays (d, h), the leading right singular vectors of each cluster's rows of `latent` (N, h), strongest
    first.

    Rows are not centered: subspaces pass through the origin. d is `subspace_dim`, or fewer where a cluster has fewer
    samples or dimensions; 0 for an empty one. The largest entry of each vector is positive. Costs an SVD per cluster.
    """
    bases = []
    for k in range(n_clusters):
        _, strength, basis = np.linalg.svd(latent[labels == k], full_matrices=False)
        basis = basis[: min(subspace_dim, np.count_nonzero(strength))]
        bases.append(point_upwards(basis.T).T)
    return bases
