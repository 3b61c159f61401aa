"""The estimator of energy-based self-expression."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from dsclust.estimators.base import AutoencoderClustering
from dsclust.methods.energy import EnergyMethod
from dsclust.parts.method import Method


@dataclass(eq=False, repr=False)
class EnergySubspaceClustering(AutoencoderClustering):
    """Self-expression on a learned dictionary, with coefficients from an energy network; experimental.

    An autoencoder turns each sample into a latent row; an energy between row and atom, after a
    learned threshold, gives its coefficients on m atoms; autoencoder, dictionary and energy are
    trained together in mini-batches. Samples whose codes point alike share a cluster. Only the
    idea is that of the paper: the rest is this package's reading of an abstract, so take no figure
    of it for the paper's. Use it to experiment; :class:`SSCN` is the published model of this size.

    Parameters
    ----------
    n_clusters : int, default=8
    atoms : int, default=0
        Rows of the dictionary; 0 for twice n_clusters * subspace_dim, at most n.
    width : int, default=128
        Hidden and output units of the two networks of the energy.
    batch_size : int, optional
        Samples a step; default 256.
    subspace_dim : int, optional
        Dimension of a subspace, of the dictionary as of the post-processing; default the preset's.
    epochs : int, optional
        Passes over the data after pre-training; default the preset's, or as many as make 1000 steps.
    image_shape, pixel_range, features, preset, lr, pretrain_steps : optional
    affinity, threshold, power, unit_diagonal, n_eigenvectors, assign_labels : optional
    random_state, device, verbose
        As in :class:`BDSC`.

    Attributes
    ----------
    coefficients_ : (n, n) float32 ndarray
        Cosines of the samples' codes.
    labels_, affinity_matrix_, subspace_bases_, predictor_, n_features_in_, n_iter_, history_
        As in :class:`BDSC`.

    Notes
    -----
    Time: an epoch is two passes of the networks and O(N m h). Memory: independent of N in training,
    about 32 N² bytes for a moment on the way to labels. Deterministic on a CPU for a given number
    of threads.

    References
    ----------
    Li et al.: arXiv 2110.15037 (its abstract).

    Examples
    --------
    >>> from dsclust import EnergySubspaceClustering
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images
    >>> model = EnergySubspaceClustering(n_clusters=10, epochs=2, pretrain_steps=20, random_state=0).fit(X[:300])
    >>> model.predict(X[300:]).shape
    (1497,)
    """

    method_class: ClassVar[type[Method]] = EnergyMethod

    _: KW_ONLY
    atoms: int = 0
    width: int = 128
