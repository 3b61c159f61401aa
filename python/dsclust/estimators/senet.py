"""The estimator of SENet."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from dsclust.estimators.base import DeepSubspaceClustering
from dsclust.methods.senet import SENetMethod
from dsclust.parts.method import Method


@dataclass(eq=False, repr=False)
class SENet(DeepSubspaceClustering):
    """Subspace clustering by a network that gives the coefficient of any pair; for many samples, and new ones.

    Features are fixed: images are flattened, rows scaled to unit length. A query network takes a sample, a key network
    every other one, and the inner product of the two, less a learned threshold, is the coefficient of the one in the
    combination of the other. There is no N x N array at any time: training holds one batch and one chunk of keys, C
    keeps the largest entries of a row, and the graph is sparse. Use it where N x N numbers do not fit, on features
    that already lie near subspaces (scattering, a pre-trained network): it learns no representation, so that on raw
    pixels a nearest-neighbor graph is a strong rival; compare with :func:`dsclust.baselines.run_baselines`.
    :class:`BDSC` and :class:`SSCN` learn an encoder.

    Parameters
    ----------
    n_clusters : int, default=8
    width, depth : int, default=256, 3
        Units of a hidden layer, as many as outputs, and hidden layers, of both networks. Published are 1024 and 3; on a
        CPU a step of the smaller networks takes an eighth of the time.
    gamma : float, default=200.0
        Weight of the self-expression error beside the elastic net; published for MNIST and CIFAR-10.
    l1_ratio : float, default=0.9
        Share of the l1 norm in the elastic net; published.
    n_keys : int, default=1000
        Samples that a batch is combined of, the batch among them, drawn anew at each step; 0 for all. A step costs in
        proportion to it. A row of C, over all n samples, then adds up to about n / n_keys times its sample; the graph
        looks at proportions.
    n_coefficients : int, default=1000
        Coefficients of a row of C that are kept, the largest; published. At most n - 1.
    n_steps : int, default=5000
        Steps of training, rounded up to whole epochs: a few minutes on one core. 100,000 are published, for a GPU.
    batch_size : int, optional
        Samples a step; default 100, as published.
    epochs : int, optional
        Passes over the data, in place of n_steps.
    lr : float, optional
        Adam's at the start, default 1e-3; it falls along a cosine to 0. Published.
    affinity : {"neighbors", "plain", "post"}, optional
        The 3 nearest rows of C of each, by default and as published; ``(|C| + |C|.T)/2``; or DSC-Net's post-processing,
        which makes C dense.
    n_eigenvectors : int, optional
        Of the spectral step; default n_clusters. The paper takes 15 for MNIST.
    assign_labels : {"kmeans", "discretize", "cluster_qr"}, optional
        Default "kmeans".
    subspace_dim : int, optional
        Dimension of `subspace_bases_`; default the preset's.
    image_shape, pixel_range, features, preset : optional
    random_state, device, verbose
        As in :class:`BDSC`.

    Attributes
    ----------
    labels_ : (n,) int64 ndarray
    coefficients_, affinity_matrix_ : (n, n) scipy.sparse.csr_array
        C, row i that of sample i, and the graph; float32.
    subspace_bases_, predictor_, n_features_in_, n_iter_, history_
        As in :class:`BDSC`; the latent rows are the features.

    Notes
    -----
    Time: a step takes 6 (f w + depth w²) operations for each of batch_size + n_keys samples, for f features and width w
    (8 where n_keys exceeds 2048). C takes 2 N² w operations, its graph about 2 N n_coefficients², a new label 2 N w.
    Memory: training the same for any N beside the data; then 4 N w bytes, and about 40 N n_coefficients bytes for a
    moment on the way to labels. The predictor keeps 4 N w bytes. Deterministic on a CPU for a given number of threads.

    A new sample takes the label of the fitted one whose row of coefficients is most like its own; so a fitted one keeps
    its label.

    References
    ----------
    Zhang, You, Vidal, Li: Learning a self-expressive network for subspace clustering. CVPR 2021.

    Examples
    --------
    >>> from dsclust import SENet
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data
    >>> model = SENet(n_clusters=10, width=64, n_steps=50, random_state=0).fit(X[:300])
    >>> model.predict(X[300:]).shape
    (1497,)
    """

    method_class: ClassVar[type[Method]] = SENetMethod

    _: KW_ONLY
    width: int = 256
    depth: int = 3
    gamma: float = 200.0
    l1_ratio: float = 0.9
    n_keys: int = 1000
    n_coefficients: int = 1000
    n_steps: int = 5000
