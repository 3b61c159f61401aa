"""Autoencoders: sizes, parameter counts and SAME padding, checked against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dsclust.parts.networks import (
    SameConv2d,
    SameConvTranspose2d,
    convolutional_autoencoder,
    dense_autoencoder,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_convolution(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The definition, one output pixel at a time: its window starts at 2*i - floor(padding / 2)."""
    n, _, height, width = x.shape
    c_out, _, k, _ = weight.shape
    size = [-(-height // 2), -(-width // 2)]
    start = [max((out - 1) * 2 + k - length, 0) // 2 for out, length in zip(size, (height, width), strict=True)]
    y = np.zeros((n, c_out, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            for a in range(k):
                for b in range(k):
                    row, col = 2 * i - start[0] + a, 2 * j - start[1] + b
                    if 0 <= row < height and 0 <= col < width:
                        y[:, :, i, j] += x[:, :, row, col] @ weight[:, :, a, b].T
    return y


sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


@given(size=sizes, kernel=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_convolution_is_tensorflows_same_padding(size, kernel):
    layer = SameConv2d(2, 3, kernel, size, generator()).double()
    x = torch.rand(2, 2, *size, dtype=torch.float64, generator=generator(1))
    expected = np.maximum(same_convolution(x.numpy(), layer.weight.detach().numpy()), 0)
    assert layer(x).shape[-2:] == layer.output_size
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)


@given(size=sizes, kernel=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_transposed_convolution_is_the_adjoint_and_restores_the_size(size, kernel):
    # <conv(x), y> = <x, transpose(y)> for every x, with the ReLUs out of play: all is positive.
    forward = SameConv2d(2, 3, kernel, size, generator()).double()
    back = SameConvTranspose2d(3, 2, kernel, size, generator()).double()
    with torch.no_grad():
        forward.weight.abs_()
        back.weight.copy_(forward.weight)
    x = torch.rand(1, 2, *size, dtype=torch.float64, generator=generator(1))
    y = torch.rand(1, 3, *forward.output_size, dtype=torch.float64, generator=generator(2))
    assert back(y).shape == x.shape
    assert torch.allclose((forward(x) * y).sum(), (x * back(y)).sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "channels", "kernels", "latent", "parameters"),
    [
        pytest.param((1, 32, 32), (3, 3, 5), (3, 3, 3), 80, 504, id="orl"),
        pytest.param((1, 32, 32), (15,), (3,), 3840, 286, id="coil20"),
        pytest.param((1, 32, 32), (50,), (5,), 12800, 2551, id="coil100"),
        pytest.param((1, 48, 42), (10, 20, 30), (5, 3, 3), 1080, 14991, id="eyaleb"),
    ],
)
def test_published_networks(shape, channels, kernels, latent, parameters):
    net = convolutional_autoencoder(shape, channels, kernels, generator=generator())
    x = torch.rand(2, *shape)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.encoder(x).shape == (2, latent) == (2, net.latent_dim)
    assert net(x).shape == x.shape


def test_eyaleb_decoder_grows_through_the_published_sizes():
    net = convolutional_autoencoder((1, 48, 42), (10, 20, 30), (5, 3, 3), generator=generator())
    y, seen = net.encoder(torch.rand(1, 1, 48, 42)), []
    for layer in net.decoder:
        y = layer(y)
        seen.append(tuple(y.shape[-2:]))
    assert seen == [(6, 6), (12, 11), (24, 21), (48, 42)]


def test_every_layer_ends_in_relu():
    net = convolutional_autoencoder((1, 8, 8), (4, 4), (3, 3), generator=generator(3))
    x = torch.randn(16, 1, 8, 8, generator=generator(1))
    for y in (net.encoder(x), net(x)):
        assert y.min() == 0 and y.max() > 0


def test_dense_autoencoder_keeps_signs():
    net = dense_autoencoder(6, (5, 3), generator=generator())
    x = torch.randn(32, 6, generator=generator(1))
    assert net.encoder(x).shape == (32, 3) and net(x).shape == (32, 6)
    assert net.encoder(x).min() < 0 and net(x).min() < 0


@pytest.mark.parametrize("build", [
    lambda g: convolutional_autoencoder((1, 8, 8), (2,), (3,), generator=g),
    lambda g: dense_autoencoder(6, (5, 3), generator=g),
], ids=["convolutional", "dense"])  # fmt: skip
def test_weights_come_from_the_generator_alone(build):
    before = torch.get_rng_state()
    first, again, other = build(generator(1)), build(generator(1)), build(generator(2))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, p), q, r in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r) == name.endswith("bias") and (p.count_nonzero() == 0) == (name.endswith("bias"))


@pytest.mark.parametrize("scale", [255.0, 0.5])
def test_rescaling_changes_the_unit_and_nothing_else(scale):
    for build, x in (
        (lambda g: convolutional_autoencoder((1, 8, 8), (3, 4), (3, 3), generator=g),
         torch.rand(5, 1, 8, 8, dtype=torch.float64, generator=generator(1))),
        (lambda g: dense_autoencoder(6, (5, 3), generator=g),
         torch.randn(5, 6, dtype=torch.float64, generator=generator(1))),
    ):  # fmt: skip
        net = build(generator()).double()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)  # biases that are not zero
        z, y = net.encoder(x), net(x)
        net.rescale_(scale)
        assert torch.allclose(net.encoder(scale * x), scale * z, rtol=1e-12)
        assert torch.allclose(net(scale * x), scale * y, rtol=1e-12)
    with pytest.raises(ValueError, match="scale"):
        net.rescale_(0.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: convolutional_autoencoder((8, 8), (2,), (3,), generator=generator()),
        lambda: convolutional_autoencoder((1, 8, 8), (), (), generator=generator()),
        lambda: convolutional_autoencoder((1, 8, 8), (2, 3), (3,), generator=generator()),
        lambda: convolutional_autoencoder((1, 8, 8), (2,), (0,), generator=generator()),
        lambda: dense_autoencoder(6, (), generator=generator()),
        lambda: dense_autoencoder(0, (3,), generator=generator()),
    ],
)
def test_impossible_networks_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
