"""The estimator of energy-based self-expression."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dsc.estimators.base import DeepSubspaceClustering
from dsc.methods import EnergyMethod
from dsc.presets import Preset


class EnergySubspaceClustering(DeepSubspaceClustering):
    """Self-expression on a learnt dictionary, with coefficients from an energy network; experimental.

    An autoencoder turns each sample into a latent row; an energy between row and atom, after a
    learnt threshold, gives its coefficients on m atoms; autoencoder, dictionary and energy are
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
    batch_size : int, default=256
        Samples a step.
    subspace_dim : int, optional
        Dimension of a subspace, of the dictionary as of the post-processing; default the preset's.
    epochs : int, optional
        Passes over the data after pre-training; default the preset's, or as many as make 1000 steps.
    image_shape, pixel_range, preset, lr, pretrain_steps : optional
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
    >>> from dsc import EnergySubspaceClustering
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images
    >>> model = EnergySubspaceClustering(n_clusters=10, epochs=2, pretrain_steps=20, random_state=0).fit(X[:300])
    >>> model.predict(X[300:]).shape
    (1497,)
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        atoms: int = 0,
        width: int = 128,
        image_shape: tuple[int, int] | tuple[int, int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
        preset: str | Preset | None = None,
        batch_size: int | None = 256,
        epochs: int | None = None,
        lr: float | None = None,
        pretrain_steps: int | None = None,
        affinity: Literal["post", "plain"] | None = None,
        threshold: float | None = None,
        subspace_dim: int | None = None,
        power: float | None = None,
        unit_diagonal: bool | None = None,
        n_eigenvectors: int | None = None,
        assign_labels: Literal["kmeans", "discretize", "cluster_qr"] = "discretize",
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.atoms = atoms
        self.width = width
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.preset = preset
        self.batch_size = batch_size
        self.epochs = epochs
        self.lr = lr
        self.pretrain_steps = pretrain_steps
        self.affinity = affinity
        self.threshold = threshold
        self.subspace_dim = subspace_dim
        self.power = power
        self.unit_diagonal = unit_diagonal
        self.n_eigenvectors = n_eigenvectors
        self.assign_labels = assign_labels
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _method(self) -> EnergyMethod:
        return EnergyMethod(self.atoms, self.width)
