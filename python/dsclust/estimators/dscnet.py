"""The estimator of DSC-Net."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from dsclust.estimators.base import AutoencoderClustering
from dsclust.methods.dscnet import DSCNetMethod
from dsclust.parts.method import Method
from dsclust.parts.penalty import Penalty


@dataclass(eq=False, repr=False)
class DSCNet(AutoencoderClustering):
    """Deep subspace clustering networks: all samples in every step.

    An autoencoder turns each sample into a latent row, ``Z ~ C Z`` writes each row as a combination
    of the others, and spectral clustering of the graph of ``|C|`` gives the clusters. The original
    of the family, and what its other methods are measured against. :class:`BDSC` is the same in
    mini-batches, with several steps an epoch.

    Parameters
    ----------
    n_clusters : int, default=8
    penalty : {"l2", "l1"}, default="l2"
        Of the coefficients: ``||C||²``, as released, or ``||C||₁`` with a zero diagonal.
    batch_size : int, optional
        Samples that go through the networks at a time; default all. It bounds the memory of their
        activations, at the price of running them twice, and leaves the result as it is.
    epochs, lr, pretrain_steps, preset, image_shape, pixel_range, features : optional
    affinity, threshold, subspace_dim, power, unit_diagonal, n_eigenvectors, assign_labels : optional
    random_state, device, verbose
        As in :class:`BDSC`. Presets hold the published settings, those of the l2 penalty.

    Attributes
    ----------
    labels_, affinity_matrix_, coefficients_, subspace_bases_, predictor_, n_features_in_, n_iter_, history_
        As in :class:`BDSC`; an epoch is one step.

    Notes
    -----
    Time: each epoch costs O(N² d) for latent dimension d and two passes of the networks; the
    post-processing O(N³). Memory: 12 N² bytes in training, about 32 N² for a moment on the way to
    labels; a fit that cannot have that raises MemoryError first. Deterministic on a CPU for a given
    number of threads.

    References
    ----------
    Ji, Zhang, Li, Salzmann, Reid: Deep Subspace Clustering Networks. NIPS 2017.

    Examples
    --------
    >>> from dsclust import DSCNet
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images[:300]
    >>> labels = DSCNet(n_clusters=10, epochs=5, random_state=0).fit_predict(X)
    >>> labels.shape
    (300,)
    """

    method_class: ClassVar[type[Method]] = DSCNetMethod

    _: KW_ONLY
    penalty: str | Penalty = "l2"
