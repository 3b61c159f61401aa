"""Features: what stands between samples and a method. `map` holds the representation and the map that was fitted."""

from dsclust.features.map import FeatureConfig, FeatureMap, as_config, fit_features

__all__ = ["FeatureConfig", "FeatureMap", "as_config", "fit_features"]
