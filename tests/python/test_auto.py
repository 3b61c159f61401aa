"""The choice nobody made: which candidates there are, that the cut decides, and that labels are never read."""

import dsclust.auto as auto
import numpy as np
import pytest
from dsclust.auto import choose, choose_method
from dsclust.data import Dataset, load
from dsclust.features import FeatureConfig
from dsclust.methods.ridge import RidgeMethod
from dsclust.methods.ssc import SSCMethod


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    base = rng.random((4, 1, 16, 16))
    X = np.concatenate([base[[c]] * rng.uniform(0.5, 1.0, (30, 1, 1, 1)) for c in range(4)])
    return load(X + 0.2 * rng.random(X.shape) * 0.1, pixel_range=(0, 1))


def without_packages(monkeypatch, *missing):
    real = auto.find_spec
    monkeypatch.setattr(auto, "find_spec", lambda name: None if name.startswith(missing) else real(name))


def test_rows_and_images_without_extras_stay_as_they_are(monkeypatch, images):
    without_packages(monkeypatch, "kymatio", "efficientnet")
    rows = load(np.random.default_rng(0).standard_normal((50, 7)))
    for data, extras in ((rows, ()), (images, ("scattering", "efficientnet"))):
        choice = choose(data, 4)
        assert (choice.features, choice.cuts, choice.missing) == (FeatureConfig(), {}, extras)
        assert ("pip install 'dsc-ext[scattering,efficientnet]'" in choice.reasons()) == bool(extras)
        assert isinstance(choice.method, RidgeMethod)


def test_the_smallest_cut_is_taken(monkeypatch, images):
    candidates = [FeatureConfig(), FeatureConfig(pca=5), FeatureConfig(unit=True)]
    monkeypatch.setattr(auto, "_candidates", lambda data: (candidates, ()))
    monkeypatch.setattr(FeatureConfig, "kind", property(lambda self: f"{self.pca}{self.unit}"), raising=False)
    cuts = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(auto, "fit_features", lambda data, config, **_: (data, None))
    monkeypatch.setattr(auto, "_cut", lambda data, n_clusters, seed: next(cuts))
    choice = choose(images, 4)
    assert choice.features == candidates[1]
    assert list(choice.cuts.values()) == [0.75, 0.25, 0.5]


def test_given_features_are_kept(images):
    given = FeatureConfig(pca=3)
    assert choose(images, 4, features=given).features is given


def test_noise_is_cut_worse_than_structure(images):
    rng = np.random.default_rng(1)
    noise = load(rng.random(images.X.shape), pixel_range=(0, 1))
    assert auto._cut(images, 4, 0) < 0.5 * auto._cut(noise, 4, 0)


def test_labels_are_never_read(monkeypatch, images):
    without_packages(monkeypatch, "efficientnet")
    other = Dataset(images.X, np.arange(len(images.X)), images.name, images.pixel_range)
    assert choose(images, 4) == choose(other, 4)


def test_a_part_of_the_samples_decides(monkeypatch):
    monkeypatch.setattr(auto, "_COMPARED", 60)
    monkeypatch.setattr(auto, "_COMPARED_PER_CLUSTER", 5)
    data = load("digits")
    part = auto._draw(data, 60, 3)
    assert (part.n_samples, part.labels) == (60, None)
    np.testing.assert_array_equal(part.X, auto._draw(data, 60, 3).X)
    assert auto._draw(data, 5000, 3) is data


def test_the_method_follows_the_size():
    assert isinstance(choose_method(1000), RidgeMethod)
    assert isinstance(choose_method(10**6), SSCMethod)
