"""Features: what stands between samples and a method. Images or rows in, rows out, the same for new samples.

Owns the choice of a representation (`FeatureConfig`), the map that was fitted (`FeatureMap`: a network without
training, then centering, principal components, unit length, in this order) and the cache of what it made of a data set.
Networks come from `dsclust.features.backbones`, scattering from `dsclust.features.scattering`.

Principal components are exact: the leading eigenvectors of the Gram matrix of the smaller side, in float64. Rows
wait in a temporary file until they are known, so that memory grows by the rows asked for, not by the network's.
"""

from __future__ import annotations

import math
import numbers
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor, nn

from dsclust.data import Dataset
from dsclust.features.backbones import build_backbone, parse_size
from dsclust.features.cache import key, recalled, usable
from dsclust.features.scattering import Scattering
from dsclust.progress import Callback, Progress
from dsclust.samples import ArraySamples

# Samples at a time, when fitting and after: products of as many rows give the same bits.
_CHUNK = 128
_IN_MEMORY = 2**28  # bytes of rows that wait in memory; more of them wait in a file
_BLOCK = 2**23  # numbers in a block of rows on the way to a Gram matrix


@dataclass(frozen=True)
class FeatureConfig:
    """A representation of samples, in plain values. Raises ValueError or TypeError naming the setting.

    kind: "raw", the values themselves; "scattering" (:mod:`dsclust.features.scattering`, needs the extra [scattering]);
    "efficientnet-lite0" or "timm:NAME", a frozen pre-trained network (:mod:`dsclust.features.backbones`). All but "raw"
    take images. resize: size that images are resampled to, see `dsclust.features.scattering.scattering_size` and
    `dsclust.features.backbones.input_size`. weights: a file with those of the network, instead of the published ones.
    per_image: divide the paths of scattering by their peak in each image, as published, instead of over the data.
    center: subtract the mean of the rows. pca: keep that many principal components, of the rows as they are unless
    centered. unit: scale the rows, in the end, to unit length; zero rows stay zero.
    """

    kind: str = "raw"
    resize: str = "auto"
    weights: str = ""
    per_image: bool = False
    pca: int | None = None
    center: bool = False
    unit: bool = False

    def __post_init__(self) -> None:
        named = self.kind.startswith("timm:") and len(self.kind) > len("timm:")
        if self.kind not in ("raw", "scattering", "efficientnet-lite0") and not named:
            raise ValueError(
                f"features: expected 'raw', 'scattering', 'efficientnet-lite0' or 'timm:NAME', got {self.kind!r}"
            )
        parse_size(self.resize)
        if self.kind == "raw" and self.resize != "auto":
            raise ValueError(
                f"features: resize: expected 'auto', for raw samples stay as they are, got {self.resize!r}"
            )
        if self.kind in ("raw", "scattering") and self.weights:
            raise ValueError(f"features: weights: {self.kind!r} has none, got {self.weights!r}")
        if self.kind != "scattering" and self.per_image:
            raise ValueError(f"features: per_image: expected False, for {self.kind!r} has no paths")
        if self.pca is not None:
            if isinstance(self.pca, bool) or not isinstance(self.pca, numbers.Integral):
                raise TypeError(f"features: pca: expected an integer or None, got {self.pca!r}")
            if self.pca < 1:
                raise ValueError(f"features: pca: expected at least 1, got {self.pca}")

    @property
    def changes_nothing(self) -> bool:
        """Whether samples go through as they are, images as images."""
        return self == FeatureConfig()


def as_config(features: str | FeatureConfig | None) -> FeatureConfig:
    """A representation, that of a name, or for None that of samples as they are."""
    if isinstance(features, FeatureConfig):
        return features
    if features is not None and not isinstance(features, str):
        raise TypeError(f"features: expected a name or a FeatureConfig, got {features!r}")
    return FeatureConfig() if features is None else FeatureConfig(features)


class FeatureMap(nn.Module):
    """Samples (n, *sample_shape), with values as in the data it was fitted to, to rows (n, dim) in float32.

    Its state is what was learned from the data, of the network's f numbers `gain` (f,), `mean` (f,) and `components`
    (f, pca), and the network's own. pixel_range: the scale of images' values, which a pre-trained network has to know.
    pretrained: False leaves the network's weights to be loaded by the caller.

    Raises ValueError where samples of this shape cannot have these features, MissingExtraError where a package is
    missing, and what :func:`dsclust.features.backbones.build_backbone` raises.
    """

    gain: Tensor | None
    mean: Tensor | None
    components: Tensor | None

    def __init__(
        self,
        config: FeatureConfig,
        sample_shape: tuple[int, ...],
        pixel_range: tuple[float, float] | None,
        *,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.sample_shape = sample_shape
        self.pixel_range = pixel_range
        self.network: nn.Module
        if config.kind == "raw":
            self.network, self.width = nn.Flatten(), math.prod(sample_shape)
        elif len(sample_shape) != 3:
            raise ValueError(
                f"features {config.kind!r}: expected images, got samples of shape {sample_shape}; pass image_shape=, "
                "or features='raw' for feature vectors"
            )
        elif config.kind == "scattering":
            scattering = Scattering(sample_shape, config.resize, config.per_image)
            self.network, self.width = scattering, scattering.dim
        else:
            if pixel_range is None:
                raise ValueError(
                    f"features {config.kind!r}: pixel_range: the network has to know the scale of the values, which "
                    "theirs leave open; pass one, such as (0, 255)"
                )
            backbone = build_backbone(
                config.kind,
                sample_shape,
                pixel_range=pixel_range,
                resize=config.resize,
                weights=config.weights,
                pretrained=pretrained,
            )
            self.network, self.width = backbone, backbone.dim
        self.dim = config.pca or self.width
        scaled = isinstance(self.network, Scattering) and not config.per_image
        self.register_buffer("gain", torch.zeros(self.width) if scaled else None)
        self.register_buffer("mean", torch.zeros(self.width) if config.center else None)
        self.register_buffer("components", torch.zeros(self.width, config.pca) if config.pca else None)
        self.requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Rows of the samples, 128 at a time; on the device of the map, whatever that of x."""
        return torch.cat([self._finished(self._embedded(part)) for part in x.split(_CHUNK)])

    def transform(self, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rows (n, dim) of samples, which may be none. All those it was fitted to give again, bit by bit on a CPU, the
        rows that fitting gave; of a part of them, those up to rounding. ValueError for another shape or scale.
        """
        self._check(X)
        rows = np.empty((len(X), self.dim), np.float32)
        for part in _parts(len(X), _CHUNK):
            rows[part] = self(_tensor(X[part])).cpu().numpy()
        return rows

    def _check(self, X: npt.NDArray[np.float32]) -> None:
        if X.ndim == 0 or tuple(X.shape[1:]) != self.sample_shape:
            raise ValueError(f"features: expected samples of shape {self.sample_shape}, got {tuple(X.shape[1:])}")
        if self.pixel_range is None or self.config.kind in ("raw", "scattering") or X.size == 0:
            return
        low, high = float(X.min()), float(X.max())
        if low < self.pixel_range[0] or high > self.pixel_range[1]:
            raise ValueError(
                f"features: pixel_range: got {self.pixel_range}, but values reach from {low:g} to {high:g}"
            )

    def _embedded(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.network(x.to(self._device()))
        return embedded

    def _finished(self, embedded: Tensor) -> Tensor:
        rows = self._shifted(embedded)
        if self.components is not None:
            rows = rows @ self.components
        return _unit_length(rows) if self.config.unit else rows

    def _shifted(self, embedded: Tensor) -> Tensor:
        rows = embedded if self.gain is None else embedded * self.gain
        return rows if self.mean is None else rows - self.mean

    def check_count(self, n_samples: int) -> None:
        """Raises ValueError where so many samples are too few to be fitted to."""
        pca = self.config.pca
        if pca is not None and pca > min(n_samples, self.width):
            raise ValueError(
                f"features: pca: expected at most {min(n_samples, self.width)}, the smaller of {n_samples} samples and "
                f"{self.width} features, got {pca}"
            )

    def required_bytes(self, n_samples: int) -> int:
        """Memory of fitting to so many samples, beside theirs: rows that wait, and those that come out or, for the
        components, the smaller Gram matrix and its eigenvectors.
        """
        rows, waiting = 4 * n_samples * self.dim, min(_IN_MEMORY, 4 * n_samples * self.width)
        learning = 0
        if self.config.pca is not None:
            side = min(n_samples, self.width)
            vectors = self.config.pca * (side + 2 * self.width)
            learning = 8 * (side * side + vectors + 2 * min(_BLOCK, n_samples * self.width))
        return waiting + max(rows, learning)

    @torch.no_grad()
    def fit(
        self, X: npt.NDArray[np.float32], *, scratch: Path | None = None, callback: Callback | None = None
    ) -> npt.NDArray[np.float32]:
        """Learns what there is to learn from samples (n, *sample_shape) and returns their rows (n, dim).

        scratch: folder of the temporary file, the system's by default. One pass of the network, reported to `callback`
        as phase "features"; components cost O(n f min(n, f)) and f² or n² numbers. Components beyond the rank of the
        rows are zero; of each, the largest entry is positive. Raises as :meth:`transform`, and ValueError for more
        components than samples or features, or where the network's output is not finite.
        """
        self._check(X)
        n = len(X)
        self.check_count(n)
        with _Waiting(self.width, scratch) as waiting:
            total, peaks = np.zeros(self.width), np.zeros(self.width, np.float32)
            for part in _parts(n, _CHUNK):
                embedded = self._embedded(_tensor(X[part])).cpu().numpy()
                if not np.isfinite(embedded).all():
                    raise ValueError(
                        f"features {self.config.kind!r}: not finite, of samples {part.start} to {part.stop}"
                    )
                total += embedded.sum(axis=0, dtype=np.float64)
                np.maximum(peaks, np.abs(embedded).max(axis=0), out=peaks)
                waiting.append(embedded)
                if callback is not None:
                    callback(Progress("features", part.stop, n, {}))
            if self.gain is not None and isinstance(self.network, Scattering):
                self.gain.copy_(self.network.gain(torch.from_numpy(peaks)))
                total *= self.gain.cpu().numpy()
            if self.mean is not None:
                self.mean.copy_(torch.from_numpy(total / n))
            if self.components is not None:

                def shifted(part: slice) -> npt.NDArray[np.float64]:
                    rows = torch.from_numpy(waiting.read(part)).to(self._device())
                    return self._shifted(rows).double().cpu().numpy()

                subtracted = 0.0 if self.mean is None else n * float(self.mean.double().square().sum())
                found = _components(shifted, n, self.width, self.components.shape[1], subtracted)
                self.components.copy_(torch.from_numpy(found))
            rows = np.empty((n, self.dim), np.float32)
            for part in _parts(n, _CHUNK):
                rows[part] = self._finished(torch.from_numpy(waiting.read(part)).to(self._device())).cpu().numpy()
        return rows

    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))


def fit_features(
    data: Dataset,
    features: str | FeatureConfig | None,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    callback: Callback | None = None,
) -> tuple[Dataset, FeatureMap]:
    """Rows (n, f) float32 of a data set, with its labels, files and name, and the map that gives those of new samples.

    cache
        A folder in which rows and what was learned are kept, and found again by the samples, the settings and the
        network's weights. A file that is broken is made anew, with a warning; one that cannot be written costs no more
        than a warning. Nothing is kept of raw samples without components.
    device
        Where the network runs, and where the map stays.
    callback
        Called as by :func:`dsclust.training.trainer.fit`, with phase "features" and samples for epochs. What it raises,
        and Ctrl-C, leave nothing behind.

    With the samples as they are wanted ("raw" and nothing else) the data set itself comes back, images as images.
    Raises as :class:`FeatureMap` and :meth:`FeatureMap.fit`. Deterministic on a CPU for a number of threads.
    """
    config = as_config(features)
    found = FeatureMap(config, tuple(data.X.shape[1:]), data.pixel_range).to(device)
    if config.changes_nothing:
        return data, found
    return fitted(found, data, cache=cache, callback=callback), found


def fitted(
    features: FeatureMap,
    data: Dataset,
    *,
    cache: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
) -> Dataset:
    """As :func:`fit_features`, for a map that is there already and learns from the data in place."""
    plain = features.config.kind == "raw" and features.config.pca is None
    folder = None if plain else usable(cache)
    learned = _learned(features)

    shown = None if plain else callback  # samples as they are take no time

    def compute() -> dict[str, Tensor]:
        return {"rows": torch.from_numpy(features.fit(data.X, scratch=folder, callback=shown)), **learned}

    if folder is None:
        rows = compute()["rows"]
    else:
        settings = {
            "config": {**asdict(features.config), "weights": ""},
            "shape": data.X.shape,
            "pixel_range": data.pixel_range,
        }
        name = key(settings, [*features.network.state_dict().values(), _tensor(data.X)])
        shapes = {"rows": (data.n_samples, features.dim), **{each: tuple(t.shape) for each, t in learned.items()}}
        found = recalled(folder, name, shapes, compute)
        for each, tensor in learned.items():
            tensor.copy_(found[each])
        rows = found["rows"]
    return Dataset(ArraySamples(rows.numpy()), data.labels, data.name, None, data.files)


def _learned(features: FeatureMap) -> dict[str, Tensor]:
    pairs = {"gain": features.gain, "mean": features.mean, "components": features.components}
    return {name: tensor for name, tensor in pairs.items() if tensor is not None}


def _tensor(X: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(X, np.float32))


def _unit_length(rows: Tensor) -> Tensor:
    """By the largest value first: squares of small ones would be zero, and of large ones infinite."""
    peak = rows.abs().amax(dim=1, keepdim=True)
    scaled = rows / torch.where(peak > 0, peak, 1.0)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1.0)


def _parts(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class _Waiting:
    """Rows in float32 that wait for what has to be learned from all of them: in memory, or many in a file."""

    def __init__(self, width: int, scratch: Path | None) -> None:
        self.width = width
        self.file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=None if scratch is None else str(scratch))

    def __enter__(self) -> _Waiting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def append(self, rows: npt.NDArray[np.float32]) -> None:
        self.file.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def read(self, part: slice) -> npt.NDArray[np.float32]:
        row = 4 * self.width
        self.file.seek(part.start * row)
        content = bytearray(self.file.read((part.stop - part.start) * row))
        return np.frombuffer(content, np.float32).reshape(-1, self.width)


def _components(
    block: Callable[[slice], npt.NDArray[np.float64]], n: int, f: int, count: int, subtracted: float
) -> npt.NDArray[np.float64]:
    """The leading right singular vectors (f, count) of rows (n, f), which come in blocks.

    subtracted: what centering took from the sum of their squares.
    """
    blocks = list(_parts(n, max(1, _BLOCK // f)))
    if f <= n:
        # Half of a product, and in place: the transposed block is in Fortran's order, as BLAS wants it.
        gram = np.zeros((f, f), order="F")
        for part in blocks:
            gram = scipy.linalg.blas.dsyrk(1.0, block(part).T, beta=1.0, c=gram, overwrite_c=True, lower=True)
    else:
        gram = np.empty((n, n), order="F")
        for i, part in enumerate(blocks):
            rows = block(part)
            for other in blocks[: i + 1]:
                gram[part, other] = rows @ block(other).T
    side, energy = len(gram), np.trace(gram) + subtracted
    values, vectors = scipy.linalg.eigh(
        gram, lower=True, overwrite_a=True, check_finite=False, subset_by_index=(side - count, side - 1)
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    # Rows and their mean were rounded to float32: a value up to the energy of those errors belongs to them.
    zero = values <= energy * np.finfo(np.float32).eps ** 2
    if f > n:
        weights, vectors = vectors, np.zeros((f, count))
        for part in blocks:
            vectors += block(part).T @ weights[part]
        vectors /= np.where(zero, 1.0, np.linalg.norm(vectors, axis=0))
    peak = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    found: npt.NDArray[np.float64] = np.where(zero, 0.0, np.where(peak < 0, -vectors, vectors))
    return found
