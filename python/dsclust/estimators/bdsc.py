"""The estimator of BDSC."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from dsclust.estimators.base import AutoencoderClustering
from dsclust.methods.bdsc import BDSCMethod
from dsclust.names import Gradient
from dsclust.parts.consistency import Consistency
from dsclust.parts.method import Method
from dsclust.parts.order import BankOrder
from dsclust.parts.penalty import Penalty


@dataclass(eq=False, repr=False)
class BDSC(AutoencoderClustering):
    """Deep subspace clustering by mini-batch against a memory bank.

    An autoencoder turns each sample into a latent row, each latent row is written as a linear
    combination of the others, ``Z ~ C Z``, and spectral clustering of the graph of ``|C|`` gives
    the clusters. Use it for data near a union of low-dimensional subspaces (faces under changing
    light, objects on a turntable, handwriting) with up to about 10,000 samples; for round blobs
    k-means is right and cheaper. Compare with :func:`dsclust.baselines.run_baselines` on your data.

    Parameters
    ----------
    n_clusters : int, default=8
    image_shape : (h, w) or (c, h, w), optional
        Read rows of X as images of this shape and use a convolutional autoencoder; without it rows
        are feature vectors and the autoencoder is fully connected. An X of three or four
        dimensions, (n, h, w) or (n, c, h, w), is always taken for images.
    pixel_range : (low, high), optional
        Scale of X, needed by presets of data sets; told from the values where they leave no doubt.
    features : str or FeatureConfig, optional
        What the method is given instead of X: "scattering" (needs ``pip install 'dsc-ext[scattering]'``),
        "efficientnet-lite0" or "timm:NAME" for rows that these make of images, or a :class:`dsclust.FeatureConfig`,
        which can also center, keep principal components and scale to unit length. Kept between runs, see
        :func:`dsclust.features.cache.default_cache`. New samples go the same way.
    preset : {"orl", "coil20", "coil100", "eyaleb", "digits"} or Preset, optional
        Network, loss weights, epochs and post-processing of a published data set. By default they
        follow from the shape of a sample.
    batch_size : int, optional
        Samples a step; default all. One batch with gradient "splice" is :class:`DSCNet`.
    gradient : {"splice", "detach", "detach+ae"}, default="splice"
        What of the bank carries gradient: the batch's own rows; nothing; nothing, with a plain
        autoencoder loss added.
    bank : {"index", "fifo"}, default="index"
        How latent rows enter the bank. "fifo" visits the samples in a fixed order.
    consistency : {"lr", "momentum", "ema", "refresh", "fresh", "exact", "none"} or Consistency, default="lr"
        What keeps the bank in step with the encoder, where k batches make an epoch. "lr": the
        networks get lr / k. The others leave them lr: "momentum" writes the bank by an encoder that
        follows the trained one, with momentum 1 - 1/k; "ema" mixes a row with its old self;
        "refresh" encodes all samples anew before every epoch, "fresh" before every step;
        "none" does nothing. "exact" uses no bank: one step an epoch with the gradient of the full
        batch, for which the networks see `batch_size` samples at a time, twice. Settings of a rule follow its name,
        "refresh:every=2" or "ema:momentum=0.3" (the share of an old row that stays); or pass an object of
        :mod:`dsclust.parts.consistency`, where a rule of your own can stand.
    network_rate : float, default=1.0
        The networks' learning rate at full batch as a multiple of C's.
    penalty : {"l2", "l1"}, default="l2"
        Of the coefficients; "l1" needs zero_diagonal.
    epochs : int, optional
        Passes over the data after pre-training; default the preset's.
    lr : float, optional
        Adam's at full batch; default the preset's, 1e-3.
    pretrain_steps : int, optional
        Most steps of autoencoder pre-training, which stops earlier once its error stops falling.
    zero_diagonal : bool, default=False
        Keep a sample out of its own combination.
    affinity : {"post", "plain", "sparse", "neighbors"}, optional
        DSC-Net's post-processing, ``(|C| + |C|.T)/2`` as it is, the five largest entries a row of ``C + C.T``, or the 3
        nearest rows of C of each; default the preset's. Without a preset images take the first and feature vectors the
        second.
    threshold, subspace_dim, power, unit_diagonal : optional
        Knobs of "post", see :func:`dsclust.graph.affinity.post_affinity`; default the preset's.
    n_eigenvectors : int, optional
        Eigenvectors of the spectral step; default n_clusters (others need assign_labels="kmeans").
    assign_labels : {"discretize", "kmeans", "cluster_qr"}, optional
        Last step of spectral clustering; default "discretize".
    random_state : int, RandomState or None, default=None
        Seeds everything; an int makes runs repeat bit by bit on one machine and thread count.
    device : str, optional
        Where to train: "cpu" or "cuda"; default "cuda" where there is one.
    verbose : int, default=0
        Print about `verbose` times ten lines of progress.

    Attributes
    ----------
    labels_ : (n,) int64 ndarray
    affinity_matrix_ : (n, n) ndarray, symmetric, non-negative; a csr_array if "sparse"
    coefficients_ : (n, n) float32 ndarray
        C; row i holds the coefficients of sample i.
    subspace_bases_ : list of (d, h) float32 ndarray
        Of each cluster, an orthonormal basis of its latent rows, strongest direction first.
    predictor_ : dsclust.predictor.Predictor
        What labels new samples; ``predictor_.save(path)`` and ``Predictor.load(path)`` keep it.
    n_features_in_ : int
    n_iter_ : int
        Epochs run.
    history_ : list of dict
        One entry an epoch: epoch, loss, its weighted terms, drift of the bank.

    Notes
    -----
    Time: each epoch costs O(N² d) for latent dimension d plus two passes of the networks; the
    post-processing O(N³). Memory: 12 N² bytes in training, 4 B N more where a batch is not all
    samples, and about 32 N² for a moment on the way to labels; a fit that cannot have that raises
    MemoryError first. C is indexed by sample; new ones are labeled by the vote of the fitted ones.

    References
    ----------
    Ji, Zhang, Li, Salzmann, Reid: Deep Subspace Clustering Networks. NIPS 2017.
    arXiv 2507.19917: mini-batch deep subspace clustering with a memory bank (BDSC).

    Examples
    --------
    >>> from dsclust import BDSC
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images[:300]
    >>> labels = BDSC(n_clusters=10, batch_size=100, epochs=5, random_state=0).fit_predict(X)
    >>> labels.shape
    (300,)
    """

    method_class: ClassVar[type[Method]] = BDSCMethod

    _: KW_ONLY
    gradient: Gradient = "splice"
    bank: str | BankOrder = "index"
    consistency: str | Consistency = "lr"
    network_rate: float = 1.0
    penalty: str | Penalty = "l2"
    zero_diagonal: bool = False
