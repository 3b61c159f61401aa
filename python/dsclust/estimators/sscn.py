"""The estimator of SSCN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dsclust.estimators.base import AutoencoderClustering
from dsclust.methods.sscn import SSCNMethod
from dsclust.parts.method import Method
from dsclust.pipeline import FitResult


@dataclass(eq=False, repr=False)
class SSCN(AutoencoderClustering):
    """Subspace clustering by a learned metric, in mini-batches; labels new samples.

    An autoencoder and a linear map give each sample coordinates h, and two samples express each
    other by ``h_i . h_j``, so there is no N x N parameter: the model is small and the same for any
    N. Spectral clustering of the samples' Gram matrix gives labels, from which a classifier of K
    rotated coordinate subspaces learns to label any sample. Use it where new samples must be
    labeled, and from some thousand samples on, with at least about ten in a batch for each of the
    n_clusters * subspace_dim coordinates; :class:`BDSC` has a coefficient for every pair and is
    stronger on few samples.

    Parameters
    ----------
    n_clusters : int, default=8
    batch_size : int, optional
        Samples a step, which express one another; default 1000.
    subspace_dim : int, optional
        Dimension of a subspace, of the model as of the post-processing; default the preset's.
    epochs : int, optional
        Passes over the data after pre-training; default the preset's, or as many as make 300 steps.
    image_shape, pixel_range, features, preset, lr, pretrain_steps : optional
    affinity, threshold, power, unit_diagonal, n_eigenvectors, assign_labels : optional
    random_state, device, verbose
        As in :class:`BDSC`. The preset with the published settings is "mnist".

    Attributes
    ----------
    labels_ : (n,) int64 ndarray
        The classifier's, so that ``labels_`` is ``predict`` of the fitted samples.
    spectral_labels_ : (n,) int64 ndarray
        Those of spectral clustering, what the classifier learned from.
    affinity_matrix_, coefficients_, subspace_bases_, predictor_, n_features_in_, n_iter_, history_
        As in :class:`BDSC`; coefficients_ is the Gram matrix of the coordinates.

    Notes
    -----
    Time: an epoch is two passes of the networks and O(N h K d); labels of the fitted samples cost
    O(N³) as in :class:`BDSC`, those of new ones one pass of the encoder. Memory: independent of N
    in training and prediction, about 32 N² bytes for a moment on the way to labels. Deterministic
    on a CPU for a given number of threads.

    References
    ----------
    Busch, Faerman, Schubert, Seidl: Learning self-expression metrics for scalable and inductive
    subspace clustering. NeurIPS workshop 2020.

    Examples
    --------
    >>> from dsclust import SSCN
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images
    >>> model = SSCN(n_clusters=10, epochs=2, pretrain_steps=20, random_state=0).fit(X[:300])
    >>> model.predict(X[300:]).shape
    (1497,)
    """

    method_class: ClassVar[type[Method]] = SSCNMethod

    def _keep(self, result: FitResult) -> None:
        super()._keep(result)
        self.spectral_labels_ = result.spectral.labels
