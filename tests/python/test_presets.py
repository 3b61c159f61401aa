"""Presets: published constants, the factors of one half between sources, and pixel scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dsclust.parts.networks import build_autoencoder
from dsclust.presets import PRESETS, LossWeights, automatic, get_preset, settling_epochs
from dsclust.scale import prepare
from dsclust.training.config import TrainConfig
from hypothesis import given
from hypothesis import strategies as st

K = {"orl": 40, "coil20": 20, "coil100": 100, "eyaleb": 38, "mnist": 10, "digits": 10}

# XifengGuo/DSC-Net, main.py and yaleb.py: weights of ||X-X̂||², ||C||², ||Z-CZ||², with no factor one half
# for ORL, COIL20 and COIL100; its Yale loss has the halves of the original.
PORT = {"orl": (1.0, 2.0, 0.2), "coil20": (1.0, 1.0, 75.0), "coil100": (1.0, 1.0, 15.0)}


@pytest.mark.parametrize("name", PORT)
def test_both_published_sources_agree_once_the_halves_are_counted(name):
    weights = get_preset(name, K[name]).weights.normal_form()
    ours = (weights.reconstruction, weights.coefficients, weights.self_expression)
    assert ours == pytest.approx(PORT[name], rel=1e-12)


@given(st.floats(1e-3, 1e3))
def test_normal_form_forgets_a_common_factor(factor):
    w = LossWeights(0.5, 1.0, 0.1)
    scaled = LossWeights(factor * 0.5, factor * 1.0, factor * 0.1)
    assert scaled.normal_form().coefficients == pytest.approx(w.normal_form().coefficients)
    assert scaled.normal_form().self_expression == pytest.approx(w.normal_form().self_expression)


@pytest.mark.parametrize(
    ("n_clusters", "threshold", "epochs"),
    [(10, 0.4, 300), (15, 0.3, 425), (20, 0.3, 550), (25, 0.2, 675), (30, 0.2, 800), (35, 0.1, 925), (38, 0.1, 1000)],
)
def test_eyaleb_thresholds_divide_as_python_2_does(n_clusters, threshold, epochs):
    preset = get_preset("eyaleb", n_clusters)
    assert preset.graph.threshold == pytest.approx(threshold, rel=1e-12)
    assert preset.epochs == epochs


def test_eyaleb_weights_grow_with_the_number_of_subjects():
    normal = get_preset("eyaleb", 38).weights.normal_form()
    assert normal.self_expression == pytest.approx(10**0.8, rel=1e-12)
    assert normal.coefficients == 2.0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("orl", 504), ("coil20", 286), ("coil100", 2551), ("eyaleb", 14991), ("mnist", 14991), ("digits", 286)],
)
def test_networks_have_the_published_size(name, parameters):
    preset = get_preset(name, K[name])
    net = build_autoencoder(preset, preset.image_shape, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_every_preset_is_known_by_its_name():
    assert [get_preset(name, K[name]).name for name in PRESETS] == list(PRESETS)
    with pytest.raises(ValueError, match="orl, coil20, coil100, eyaleb, mnist, digits, got 'ORL'"):
        get_preset("ORL", 40)
    with pytest.raises(ValueError, match="n_clusters"):
        get_preset("orl", 0)


@pytest.mark.parametrize(
    ("shape", "latent"),
    [((1, 8, 8), 240), ((1, 28, 28), 980), ((3, 32, 32), 480), ((1, 5, 40), 900), ((7,), 7), ((64,), 32)],
)
def test_the_automatic_preset_fits_any_shape(shape, latent):
    net = build_autoencoder(automatic(shape), shape, torch.Generator().manual_seed(0))
    x = torch.rand(2, *shape)
    assert net.encoder(x).shape == (2, latent) and net(x).shape == x.shape
    assert automatic(shape).graph.affinity == ("post" if len(shape) == 3 else "plain")


def test_the_automatic_preset_refuses_other_shapes():
    with pytest.raises(ValueError, match="sample_shape"):
        automatic((8, 8))


def images(top: float) -> np.ndarray:
    return (np.random.default_rng(0).random((4, 1, 32, 32)) * top).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "given_range", "factor"),
    [("orl", (0, 255), 1.0), ("orl", (0, 1), 255.0), ("coil20", (0, 255), 1 / 255), ("coil20", (0, 1), 1.0)],
)
def test_pixels_are_brought_to_the_scale_of_the_weights(name, given_range, factor):
    X = images(given_range[1])
    np.testing.assert_allclose(prepare(X, given_range, get_preset(name, 20)), X * factor, rtol=1e-6)


def test_pixels_of_an_unknown_scale_are_refused():
    with pytest.raises(ValueError, match=r"expected pixels on the scale \(0\.0, 255\.0\).*pixel_range="):
        prepare(images(90.0), None, get_preset("orl", 40))
    with pytest.raises(ValueError, match=r"pixel_range: got \(0, 1\), but values reach"):
        prepare(images(90.0), (0, 1), get_preset("orl", 40))


def test_samples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 32, 32\), got \(1, 8, 8\)"):
        prepare(np.ones((4, 1, 8, 8), np.float32), (0, 1), get_preset("orl", 40))
    with pytest.raises(ValueError, match="expected images"):
        prepare(np.ones((4, 8), np.float32), None, automatic((1, 8, 8)))
    with pytest.raises(ValueError, match="expected feature vectors"):
        prepare(np.ones((4, 1, 8, 8), np.float32), None, automatic((8,)))


def test_the_automatic_preset_divides_by_the_range():
    X = np.array([[-4.0, 2.0], [1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(prepare(X, None, automatic((2,))), X / 4)
    np.testing.assert_array_equal(prepare(0 * X, None, automatic((2,))), 0 * X)
    with pytest.raises(ValueError, match="must not be negative"):
        prepare(images(1.0) - 0.5, None, automatic((1, 32, 32)))


def test_epochs_suffice_for_adam_to_carry_c_to_its_solution():
    assert settling_epochs(1797, 10, 1e-3) == get_preset("digits", 10).epochs == 75
    assert settling_epochs(400, 40, 1e-3) == 317
    assert settling_epochs(10**6, 2, 1e-3) == 50
    assert automatic((5,)).epochs is None
    config = TrainConfig(automatic((5,)), 40)
    problem = config.problem(400, (5,))
    assert config.n_epochs(problem) == 317
    assert replace(config, epochs=3).n_epochs(problem) == 3


def test_scale_free_weights_balance_the_ideal_partition():
    # For K equal clusters C = cluster means has ||C||² = K; its penalty equals the error of C = 0.
    n, clusters = 12, 3
    means = np.kron(np.eye(clusters), np.full((4, 4), 1 / 4))
    w = LossWeights.scale_free(5.0, 7.0, n / clusters)
    assert w.coefficients * (means**2).sum() == pytest.approx(w.self_expression * 7.0 * n)
    assert w.reconstruction * 5.0 * n == pytest.approx(n)


def test_small_clusters_take_the_post_processing_published_for_small_clusters():
    few, many = automatic((1, 32, 32), 10).graph, automatic((1, 32, 32), 72).graph
    orl = get_preset("orl", 40).graph
    assert (few.threshold, few.subspace_dim, few.power) == (orl.threshold, orl.subspace_dim, orl.power) == (0.2, 3, 1.0)
    assert many == automatic((1, 32, 32)).graph and many.subspace_dim == 9
