"""Autoencoders: what turns samples into latent rows and back.

Owns the convolutional autoencoders of DSC-Net (Ji et al., NIPS 2017) and a fully connected one for
plain feature vectors. Touches torch only; knows no loss, no coefficient matrix and no data set.

Convolutions have stride 2 and TensorFlow's SAME padding (output size ceil(n / 2); where the padding
is odd, the extra pixel lies right and below), ReLU follows every layer including the last of each
half, weights are Xavier uniform and biases zero: so the published TensorFlow code of DSC-Net builds
its networks, and its loss weights were chosen on them. The decoder mirrors the encoder layer by
layer and restores its sizes exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from dsclust.presets import Preset

STRIDE = 2


def same_padding(size: int, kernel: int) -> tuple[int, int, int]:
    """TensorFlow's SAME rule for stride 2: ``(output size, pixels before, pixels after)``."""
    out = -(-size // STRIDE)
    total = max((out - 1) * STRIDE + kernel - size, 0)
    before = total // 2
    return out, before, total - before


def _filters(in_channels: int, out_channels: int, kernel: int, generator: torch.Generator) -> nn.Parameter:
    # Xavier's bound depends on fan_in + fan_out only, so one layout serves both directions.
    weight = torch.empty(out_channels, in_channels, kernel, kernel)
    nn.init.xavier_uniform_(weight, generator=generator)
    return nn.Parameter(weight)


class SameConv2d(nn.Module):
    """Convolution, stride 2, SAME padding, ReLU: (n, c, h, w) to (n, c', ceil(h/2), ceil(w/2))."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.weight = _filters(in_channels, out_channels, kernel, generator)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        height, top, bottom = same_padding(size[0], kernel)
        width, left, right = same_padding(size[1], kernel)
        self.output_size = (height, width)
        self._padding = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(F.pad(x, self._padding), self.weight, self.bias, stride=STRIDE))


class SameConvTranspose2d(nn.Module):
    """The transpose of :class:`SameConv2d` with input size `size`, then ReLU: it restores `size`.

    The full transposed convolution is cropped by the pixels that SAME padding would have added, so
    where that number is odd the right and lower edges lose one more.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.weight = _filters(out_channels, in_channels, kernel, generator)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        small = [same_padding(length, kernel) for length in size]
        self._size = size
        self._crop = [before for _, before, _ in small]
        # A kernel smaller than the stride stops short of the last row and column of an even size.
        self._extend = [
            max(length - ((out - 1) * STRIDE + kernel - 2 * before), 0)
            for length, (out, before, _) in zip(size, small, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        full = F.conv_transpose2d(x, self.weight, self.bias, STRIDE, padding=self._crop, output_padding=self._extend)
        return F.relu(full[..., : self._size[0], : self._size[1]])


class Autoencoder(nn.Module):
    """An encoder to flat latent rows and a decoder back.

    ``encoder`` maps (n, *sample_shape) to (n, latent_dim), ``decoder`` the reverse.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, sample_shape: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.sample_shape = sample_shape
        self.latent_dim = latent_dim

    def forward(self, x: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction

    @torch.no_grad()
    def rescale_(self, scale: float) -> None:
        """Makes f into ``x -> scale * f(x / scale)``, the same network in other units of x.

        Exact: ReLU networks are positively homogeneous in input and biases, so a layer's bias is
        what carries the unit. Raises ValueError unless `scale` is positive.
        """
        if not scale > 0:
            raise ValueError(f"rescale_: scale: expected a positive number, got {scale}")
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(scale)


def convolutional_autoencoder(
    sample_shape: tuple[int, int, int],
    channels: Sequence[int],
    kernels: Sequence[int],
    *,
    generator: torch.Generator,
) -> Autoencoder:
    """DSC-Net's autoencoder for images (c, h, w), non-negative in and out.

    `channels` and `kernels` list the encoder's layers, first to last; the decoder mirrors them.
    All weights are drawn from `generator`, in layer order; the global generator is left alone.
    Raises ValueError where the two lists differ in length, are empty, or hold a number below 1.
    """
    if len(sample_shape) != 3 or min(sample_shape) < 1:
        raise ValueError(f"sample_shape: expected (channels, height, width), got {sample_shape}")
    if not channels or len(channels) != len(kernels) or min(*channels, *kernels) < 1:
        raise ValueError(
            "channels, kernels: expected two lists of equal, positive length with positive "
            f"entries, got {tuple(channels)} and {tuple(kernels)}"
        )
    widths = [sample_shape[0], *channels]
    size = (sample_shape[1], sample_shape[2])
    sizes = [size]
    encoder: list[nn.Module] = []
    for (c_in, c_out), kernel in zip(pairwise(widths), kernels, strict=True):
        layer = SameConv2d(c_in, c_out, kernel, sizes[-1], generator)
        sizes.append(layer.output_size)
        encoder.append(layer)
    latent_shape = (widths[-1], *sizes[-1])
    decoder: list[nn.Module] = [nn.Unflatten(1, latent_shape)]
    for i in reversed(range(len(kernels))):
        decoder.append(SameConvTranspose2d(widths[i + 1], widths[i], kernels[i], sizes[i], generator))
    return Autoencoder(
        nn.Sequential(*encoder, nn.Flatten()),
        nn.Sequential(*decoder),
        sample_shape,
        latent_shape[0] * latent_shape[1] * latent_shape[2],
    )


class _Dense(nn.Module):
    def __init__(self, n_in: int, n_out: int, relu: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_out, n_in), generator=generator))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.relu(y) if self._relu else y


def dense_layers(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Fully connected layers from sizes[0] numbers to sizes[-1], ReLU in between, drawn from `generator` in order."""
    last = len(sizes) - 2
    return nn.Sequential(*(_Dense(a, b, i < last, generator) for i, (a, b) in enumerate(pairwise(sizes))))


def dense_autoencoder(n_features: int, widths: Sequence[int], *, generator: torch.Generator) -> Autoencoder:
    """A fully connected autoencoder for feature vectors (n, n_features).

    `widths` lists the encoder's layers and ends in the latent size; the decoder mirrors them. ReLU
    between layers only: features and latent rows may have either sign. Seeding as in
    :func:`convolutional_autoencoder`. Raises ValueError for a size below 1 or no layer.
    """
    sizes = [n_features, *widths]
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"n_features, widths: expected positive sizes and one layer at least, got {sizes}")
    return Autoencoder(dense_layers(sizes, generator), dense_layers(sizes[::-1], generator), (n_features,), sizes[-1])


def build_autoencoder(preset: Preset, sample_shape: tuple[int, ...], generator: torch.Generator) -> Autoencoder:
    """The preset's network for samples of this shape (see `dsclust.scale.prepare`), freshly drawn."""
    if preset.channels:
        channels, height, width = sample_shape
        return convolutional_autoencoder(
            (channels, height, width), preset.channels, preset.kernels, generator=generator
        )
    return dense_autoencoder(sample_shape[0], preset.widths, generator=generator)
