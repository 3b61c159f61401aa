"""A trained model that labels new samples, and its file.

Owns what prediction needs of a run: the features, the encoder, the classifier behind it, and the scale of the data they
were fitted to. One safetensors file holds it all, the settings as JSON in its header; nothing is unpickled.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dsclust.data import Dataset
from dsclust.features import FeatureConfig, FeatureMap
from dsclust.features.backbones import MissingExtraError
from dsclust.files import read_tensors, write_tensors
from dsclust.methods import METHODS
from dsclust.parts.method import Method
from dsclust.presets import GraphConfig, LossWeights, Preset
from dsclust.samples import extremes

if TYPE_CHECKING:
    from dsclust.training.config import TrainConfig, TrainResult

FORMAT = 5


@dataclass(frozen=True)
class Predictor:
    """Label samples like those a model was fitted to, and give their latent rows; see `dsclust.pipeline.FitResult`.

    encoder: samples, or the rows that `features` makes of them, to latent rows; classifier: those to scores (n,
    n_clusters). sample_shape, pixel_range: of samples. magnitude: the largest of what the encoder was fitted to, by
    which new ones are divided where the preset has no scale.
    """

    encoder: nn.Module
    classifier: nn.Module
    method: Method
    preset: Preset
    sample_shape: tuple[int, ...]
    pixel_range: tuple[float, float] | None
    magnitude: float
    n_clusters: int
    features: FeatureMap | None = None

    @classmethod
    def learn(
        cls,
        data: Dataset,
        config: TrainConfig,
        training: TrainResult,
        labels: npt.NDArray[np.int64],
        generator: torch.Generator,
    ) -> Predictor:
        """Return that of a training run whose samples were clustered into `labels` (N,)."""
        device = torch.device(config.device)
        classifier = training.model.classifier(
            training.latent.to(device), torch.from_numpy(labels).to(device), config.n_clusters, generator
        )
        return cls(
            training.model.encoder,
            classifier,
            config.method,
            config.preset,
            data.sample_shape,
            data.pixel_range,
            _magnitude(data),
            config.n_clusters,
        )

    def with_features(self, features: FeatureMap) -> Predictor:
        """Return the same for the samples whose rows under this map it was fitted to."""
        return replace(self, features=features, sample_shape=features.sample_shape, pixel_range=features.pixel_range)

    def predict(self, X: npt.NDArray[np.float32], batch_size: int = 1000) -> npt.NDArray[np.int64]:
        """Return labels (n,) int64 in 0 .. n_clusters - 1 of samples (n, *sample_shape), with values as in the fitted
        data.

        Raises ValueError for samples of another shape or outside the scale. Deterministic on a CPU.
        """
        found = [self.classifier(z).argmax(dim=1) for z in self._latent(X, batch_size)]
        return torch.cat(found).cpu().numpy()

    def transform(self, X: npt.NDArray[np.float32], batch_size: int = 1000) -> npt.NDArray[np.float32]:
        """Return latent rows (n, h) float32; as :meth:`predict`."""
        return torch.cat(self._latent(X, batch_size)).float().cpu().numpy()

    @torch.no_grad()
    def _latent(self, X: npt.NDArray[np.float32], batch_size: int) -> list[Tensor]:
        if X.ndim == 0 or tuple(X.shape[1:]) != self.sample_shape:
            raise ValueError(f"predict: X: expected samples of shape {self.sample_shape}, got {tuple(X.shape[1:])}")
        # An encoder may have no parameters: then the classifier says where and in what type.
        tensors = (*self.encoder.state_dict().values(), *self.classifier.state_dict().values())
        like = next(tensor for tensor in tensors if tensor.is_floating_point())
        inputs = X if self.features is None else self.features.transform(X)
        scale = self.pixel_range if self.features is None else None
        prepared = torch.from_numpy(self.method.prepare(inputs, scale, self.preset, self.magnitude))
        return [self.encoder(x.to(like)) for x in prepared.split(batch_size)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file."""
        path = Path(path)
        settings = {
            "format": FORMAT,
            "method": self.method.settings(),
            "preset": asdict(self.preset),
            "sample_shape": self.sample_shape,
            "pixel_range": self.pixel_range,
            "magnitude": self.magnitude,
            "n_clusters": self.n_clusters,
            "features": None if self.features is None else asdict(self.features.config),
        }
        modules = {"encoder": self.encoder, "classifier": self.classifier}
        if self.features is not None:
            modules["features"] = self.features
        tensors = {
            f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()
        }
        write_tensors(path, tensors, settings)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictor:
        """Read what :meth:`save` wrote, onto the CPU. Raises FileNotFoundError, MissingExtraError where
        its features need a package that is not there, and ValueError for another file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"Predictor.load: no model at {path}")
        tensors, settings = read_tensors(path, FORMAT, "model")
        try:
            return cls._restored(settings, tensors)
        except MissingExtraError:
            raise
        except Exception as error:
            raise ValueError(f"Predictor.load: {path} is not a model of dsclust ({error})") from error

    @classmethod
    def _restored(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Predictor:
        def part(name: str) -> dict[str, Tensor]:
            return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}

        def tuples(value: Any) -> Any:
            return tuple(value) if isinstance(value, list) else value

        stored = {name: tuples(value) for name, value in settings["preset"].items()}
        weights = stored["weights"]
        stored["weights"] = None if weights is None else LossWeights(**weights)
        preset = Preset(**{**stored, "graph": GraphConfig(**stored["graph"])})
        method = METHODS[settings["method"].pop("name")](**settings["method"])
        shape, scale = tuple(settings["sample_shape"]), tuples(settings["pixel_range"])
        features = None
        if settings["features"] is not None:
            features = FeatureMap(FeatureConfig(**settings["features"]), shape, scale, pretrained=False)
            features.load_state_dict(part("features"))
        encoder = method.encoder(preset, shape if features is None else (features.dim,))
        encoder.load_state_dict(part("encoder"))
        return cls(
            encoder,
            method.restore_classifier(part("classifier"), preset, settings["n_clusters"]),
            method,
            preset,
            shape,
            scale,
            settings["magnitude"],
            settings["n_clusters"],
            features,
        )


def _magnitude(data: Dataset) -> float:
    """Return the largest magnitude of all samples, 1 where all are zero."""
    return max(map(abs, extremes(data.samples))) or 1.0
