"""A representation of samples by its settings: plain values that a run can store."""

from __future__ import annotations

from dataclasses import dataclass

from dsclust.checks import integer
from dsclust.features.backbones import parse_size


@dataclass(frozen=True)
class FeatureConfig:
    """Name a representation of samples, in plain values. Raises ValueError or TypeError naming the setting.

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
        integer("features", "pca", self.pca, least=1, optional=True)

    @property
    def changes_nothing(self) -> bool:
        """Whether samples go through as they are, images as images."""
        return self == FeatureConfig()


def as_config(features: str | FeatureConfig | None) -> FeatureConfig:
    """Return a representation, that of a name, or for None that of samples as they are."""
    if isinstance(features, FeatureConfig):
        return features
    if features is not None and not isinstance(features, str):
        raise TypeError(f"features: expected a name or a FeatureConfig, got {features!r}")
    return FeatureConfig() if features is None else FeatureConfig(features)
