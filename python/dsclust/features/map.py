"""Features: what stands between samples and a method. Images or rows in, rows out, the same for new samples.

Owns the map that was fitted (`FeatureMap`: a network without training, then centering, principal components, unit
length, in this order) and what is kept of a data set's rows. Networks come from `backbones`, scattering from
`scattering`, components from `components`.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsclust.data import Dataset
from dsclust.features.backbones import build_backbone
from dsclust.features.cache import cache_key, load_or_compute, writable_folder
from dsclust.features.components import BLOCK, IN_MEMORY, WaitingRows, parts, principal_components
from dsclust.features.config import FeatureConfig, as_config
from dsclust.features.scattering import Scattering
from dsclust.progress import Callback, Progress
from dsclust.samples import ArraySamples, Samples, as_samples, extremes

# Samples at a time, when fitting and after: products of as many rows give the same bits.
_CHUNK = 128


class FeatureMap(nn.Module):
    """Map samples (n, *sample_shape), with values as in the data it was fitted to, to rows (n, dim) in float32.

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
        """Return rows of the samples, 128 at a time; on the device of the map, whatever that of x."""
        return torch.cat([self._finished(self._embedded(part)) for part in x.split(_CHUNK)])

    def transform(self, X: Samples | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return rows (n, dim) of samples, which may be none. ValueError for another shape or scale.

        For all the samples it was fitted to they are, bit by bit on a CPU, the rows that fitting gave; for a part of
        them those up to rounding.
        """
        samples = as_samples(X)
        self._check(samples)
        rows = np.empty((samples.n, self.dim), np.float32)
        for part in parts(samples.n, _CHUNK):
            rows[part] = self(_tensor(samples.read(part.start, part.stop))).cpu().numpy()
        return rows

    def _check(self, samples: Samples) -> None:
        shape = samples.shape[1:] if samples.shape else ()
        if not samples.shape or shape != self.sample_shape:
            raise ValueError(f"features: expected samples of shape {self.sample_shape}, got {shape}")
        if self.pixel_range is None or self.config.kind in ("raw", "scattering") or samples.n == 0:
            return
        low, high = extremes(samples)
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
        """Raise ValueError where so many samples are too few to be fitted to."""
        pca = self.config.pca
        if pca is not None and pca > min(n_samples, self.width):
            raise ValueError(
                f"features: pca: expected at most {min(n_samples, self.width)}, the smaller of {n_samples} samples and "
                f"{self.width} features, got {pca}"
            )

    def required_bytes(self, n_samples: int) -> int:
        """Return the bytes of fitting to so many samples, beside theirs: rows that wait, and those that come out or,
        for the components, the smaller Gram matrix and its eigenvectors.
        """
        rows, waiting = 4 * n_samples * self.dim, min(IN_MEMORY, 4 * n_samples * self.width)
        learning = 0
        if self.config.pca is not None:
            side = min(n_samples, self.width)
            vectors = self.config.pca * (side + 2 * self.width)
            learning = 8 * (side * side + vectors + 2 * min(BLOCK, n_samples * self.width))
        return waiting + max(rows, learning)

    @torch.no_grad()
    def fit(
        self, X: Samples | npt.NDArray[Any], *, scratch: Path | None = None, callback: Callback | None = None
    ) -> npt.NDArray[np.float32]:
        """Learn what there is to learn from samples (n, *sample_shape), and return their rows (n, dim).

        scratch: folder of the temporary file, the system's by default. One pass of the network, reported to `callback`
        as phase "features"; components cost O(n f min(n, f)) and f² or n² numbers. Components beyond the rank of the
        rows are zero; of each, the largest entry is positive. Raises as :meth:`transform`, and ValueError for more
        components than samples or features, or where the network's output is not finite.
        """
        samples = as_samples(X)
        self._check(samples)
        n = samples.n
        self.check_count(n)
        with WaitingRows(self.width, scratch) as waiting:
            total, peaks = np.zeros(self.width), np.zeros(self.width, np.float32)
            for part in parts(n, _CHUNK):
                embedded = self._embedded(_tensor(samples.read(part.start, part.stop))).cpu().numpy()
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
                found = principal_components(shifted, n, self.width, self.components.shape[1], subtracted)
                self.components.copy_(torch.from_numpy(found))
            rows = np.empty((n, self.dim), np.float32)
            for part in parts(n, _CHUNK):
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
    """Return rows (n, f) float32 of a data set, with its labels, files and name, and the map that gives those of new
    samples.

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
    found = FeatureMap(config, data.sample_shape, data.pixel_range).to(device)
    if config.changes_nothing:
        return data, found
    return fit_map(found, data, cache=cache, callback=callback), found


def fit_map(
    features: FeatureMap,
    data: Dataset,
    *,
    cache: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
) -> Dataset:
    """Return what :func:`fit_features` does, for a map that is there already and learns from the data in place."""
    plain = features.config.kind == "raw" and features.config.pca is None
    folder = None if plain else writable_folder(cache)
    learned = _learned(features)

    shown = None if plain else callback  # samples as they are take no time

    def compute() -> dict[str, Tensor]:
        return {"rows": torch.from_numpy(features.fit(data.samples, scratch=folder, callback=shown)), **learned}

    if folder is None:
        rows = compute()["rows"]
    else:
        settings = {
            "config": {**asdict(features.config), "weights": ""},
            "shape": data.samples.shape,
            "pixel_range": data.pixel_range,
        }
        name = cache_key(settings, [*features.network.state_dict().values(), _tensor(data.X)])
        shapes = {"rows": (data.n_samples, features.dim), **{each: tuple(t.shape) for each, t in learned.items()}}
        found = load_or_compute(folder, name, shapes, compute)
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
    """Return rows of unit length, scaled by the largest value first: squares of small ones would be zero, and of
    large ones infinite.
    """
    peak = rows.abs().amax(dim=1, keepdim=True)
    scaled = rows / torch.where(peak > 0, peak, 1.0)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1.0)
