"""Features: what stands between samples and a method. `config` names a representation, `map` is it fitted."""

from dsclust.features.config import FeatureConfig, as_config
from dsclust.features.map import FeatureMap, fit_features

__all__ = ["FeatureConfig", "FeatureMap", "as_config", "fit_features"]
