"""CLBDSC: its loss and gradients against the formula, its start, views, collapse, and labels of new samples.

Images go through a tiny network in place of a pre-trained one.
"""

from __future__ import annotations

import json
import sys
import warnings

import dsclust.cli as cli
import numpy as np
import pytest
import torch
from dsclust import CLBDSC, Predictor, cluster
from dsclust.data import load
from dsclust.features.backbones import ImageBackbone, PrecomputedFeatures
from dsclust.methods import clbdsc
from dsclust.methods.clbdsc import CLBDSCMethod
from dsclust.metrics import clustering_accuracy
from dsclust.parts.collapse import CollapseWarning
from dsclust.parts.method import Problem, Start
from dsclust.presets import automatic
from dsclust.ridge import ridge_coefficients, unit_rows
from dsclust.training.interrupt import TrainingInterrupted
from safetensors import safe_open
from scipy.sparse import load_npz
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return load_digits().images[:300]


@pytest.fixture
def tiny_backbone(monkeypatch):
    """A random network of two layers where the pre-trained one would be."""

    def make(name, sample_shape, *, pixel_range, image_views, pretrained, **_):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5 if pretrained else 6)
            net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        scale = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
        return ImageBackbone(net, 8 * 25, pixel_range=pixel_range, size=(12, 12), views=image_views, **scale)

    monkeypatch.setattr(clbdsc, "build_backbone", make)


def prepared_model(n=24, features=10, n_clusters=3, seed=1, **settings):
    """A model in float64 on random rows, one epoch into its life, and its samples."""
    method = CLBDSCMethod(**{"views": 2, "embedding_dim": 6, **settings})
    problem = Problem(automatic((features,), n / n_clusters), (features,), n, n_clusters, n)
    model = method.model(problem, None, generator(seed)).double()
    x = torch.randn(n, features, dtype=torch.float64, generator=generator(7))
    with torch.no_grad():
        model.start(x, Start(10))
    model.begin_epoch(x, 0, generator(2))
    return model, x


@pytest.mark.parametrize("anchor", ["z", "z_hat"])
@pytest.mark.parametrize("mask", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_the_formula(anchor, mask):
    model, x = prepared_model(anchor=anchor, mask_negatives=mask, self_expression=0.7, temperature=0.3)
    n, K, weight = 24, 3, 0.7
    rows = torch.tensor([3, 17, 8, 0, 21])
    # Neither the bank nor C nor the head are where they started.
    nn.init.normal_(model.encoder.head.layers[1].weight, std=0.5, generator=generator(5))
    model.bank.fill(F.normalize(torch.randn(n, 6, dtype=torch.float64, generator=generator(3)), dim=1))
    with torch.no_grad():
        model.self_expression.Coefficient.add_(0.2 * torch.randn(n, n, dtype=torch.float64, generator=generator(4)))
    C = model.self_expression.Coefficient
    bank = model.bank.features.clone()

    head, backbone = model.encoder.head, model.encoder.backbone
    parameters = list(head.parameters())

    def unit(feature_rows):
        centered = F.normalize(F.normalize(feature_rows, dim=1) - head.mean, dim=1)
        a, b = head.layers
        hidden = torch.relu(centered * 10**0.5 @ a.weight.T + a.bias)
        y = centered @ head.directions + (hidden @ b.weight.T + b.bias) / 6**0.5
        return y / y.norm(dim=1, keepdim=True)

    z, positive = unit(x[rows]), unit(model.view_features[model._drawn[rows], rows])
    off_diagonal = C * (1 - torch.eye(n, dtype=C.dtype))
    live = bank.clone()
    live[rows] = z
    expressed = off_diagonal[rows] @ live
    held = live.detach()
    contrastive = 0.0
    for b, i in enumerate(rows.tolist()):
        a = z[b] if anchor == "z" else expressed[b] / expressed[b].norm()
        strength = off_diagonal[i].detach().abs().clone()
        strength[i] = -1
        masked = set(strength.argsort(descending=True)[: round(mask * n / K)].tolist())
        others = [j for j in range(n) if j != i and j not in masked]
        scores = torch.cat([(a @ positive[b])[None], held[others] @ a]) / 0.3
        contrastive = contrastive - scores[0] + scores.logsumexp(0)
    error = (z - expressed).square().sum()
    expected = contrastive + weight * error

    loss = model.batch_loss(x[rows], rows)
    torch.testing.assert_close(loss.objective, expected)
    wanted = {"contrastive": contrastive.detach(), "self_expression": weight * error.detach()}
    assert loss.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(loss.terms[name], value)
    torch.testing.assert_close(model.bank.features, held)
    torch.testing.assert_close(loss.measures["self_expression_error"], error.detach())
    torch.testing.assert_close(loss.measures["expressed_norm"], expressed.detach().norm(dim=1).sum())
    assert torch.equal(backbone(x), x)

    before = C.detach().clone()
    *others, of_c = torch.autograd.grad(expected, [*parameters, C])
    for one, other in zip(torch.autograd.grad(loss.objective, parameters), others, strict=True):
        torch.testing.assert_close(one, other)
    # The backward pass has stepped C: a first moment of Adam is a tenth of the gradient, the penalty's among it.
    moment = torch.zeros_like(C).index_copy(0, rows, (of_c + 2 * weight * n / K * before)[rows]) / 10
    torch.testing.assert_close(model.self_expression.exp_avg, moment)


def test_gradient_reaches_c_through_the_anchor_alone_and_the_bank_never():
    for anchor in ("z", "z_hat"):
        model, x = prepared_model(anchor=anchor, self_expression=0.0)
        rows = torch.arange(8)
        model.batch_loss(x[rows], rows).objective.backward()
        assert bool(model.self_expression.exp_avg.any()) == (anchor == "z_hat")
        assert not model.bank.features.requires_grad
        assert not model.features.requires_grad


def test_the_penalty_of_c_is_the_weight_decay_of_its_optimizer():
    model, _ = prepared_model(self_expression=0.7)
    (adam,) = model.optimizers(1e-3, 4)
    assert [group["lr"] for group in adam.param_groups] == [1e-3 / 4]
    assert model.self_expression.fused_adam.weight_decay == pytest.approx(2 * 0.7 * 24 / 3)
    assert model.self_expression.lr == 1e-3


def test_c_starts_at_the_closed_form_on_the_features():
    model, x = prepared_model()
    Z, n = unit_rows(x)[0].numpy(), len(x)
    expected = np.zeros((n, n))
    for i in range(n):
        others = np.delete(np.arange(n), i)
        gram = Z[others] @ Z[others].T + n / 3 * np.eye(n - 1)
        expected[i, others] = np.linalg.solve(gram, Z[others] @ Z[i])
    np.testing.assert_allclose(model.self_expression.Coefficient.detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(ridge_coefficients(torch.from_numpy(Z.T), 2.0)[0, 0], 0.0)
    torch.testing.assert_close(model.bank.features, model.encoder(x))
    torch.testing.assert_close(model.encoder.head.mean, (x / x.norm(dim=1, keepdim=True)).mean(0))


@pytest.mark.parametrize("shape", [(30, 12), (8, 12)])
def test_training_sets_out_from_the_rows_that_the_closed_form_sees(shape):
    X = 1.0 + torch.randn(*shape, generator=generator()).double()
    rows, _ = unit_rows(X)
    head = clbdsc.ContrastiveHead(12, 12, generator(1)).double()
    head.fit(X)
    torch.testing.assert_close(head(X) @ head(X).T, rows @ rows.T)  # nothing is lost
    small = clbdsc.ContrastiveHead(12, 3, generator(1)).double()
    small.fit(X)
    values, vectors = np.linalg.eigh(rows.numpy() @ rows.numpy().T)
    principal = torch.from_numpy(vectors[:, -3:] * values[-3:] ** 0.5)
    torch.testing.assert_close(small.unnormalized(X) @ small.unnormalized(X).T, principal @ principal.T)
    peaks = small.directions.gather(0, small.directions.abs().argmax(dim=0, keepdim=True))
    assert (peaks > 0).all()


def test_kept_views_are_fixed_by_the_seed_and_computed_once(monkeypatch):
    passes = []
    forward = PrecomputedFeatures.forward

    def counted(self, x, views=None):
        passes.append(len(x))
        return forward(self, x, views)

    monkeypatch.setattr(PrecomputedFeatures, "forward", counted)
    model, x = prepared_model()
    assert sum(passes) == 24 * 3  # the samples, and two views of each
    assert (model.view_features[0] != model.view_features[1]).any()
    same, _ = prepared_model()
    other, _ = prepared_model(seed=2)
    assert torch.equal(model.view_features, same.view_features)
    assert (model.view_features != other.view_features).any()
    passes.clear()
    drawn = model._drawn
    model.batch_loss(x)
    model.begin_epoch(x, 1, generator(3))
    assert (model._drawn != drawn).any()
    model.latent(x, 10)
    assert not passes


def test_features_of_views_are_found_again(tiny_backbone, digits, tmp_path, monkeypatch):
    data = load(digits[:40], pixel_range=(0, 16))
    passes = []
    forward = clbdsc.ImageBackbone.forward
    monkeypatch.setattr(
        clbdsc.ImageBackbone, "forward", lambda self, x, views=None: passes.append(len(x)) or forward(self, x, views)
    )

    def fitted(**settings):
        passes.clear()
        result = cluster(data, 4, CLBDSCMethod(**settings), epochs=1, feature_cache=tmp_path, seed=1)
        return result.training.model.view_features, sum(passes)

    first, count = fitted()
    assert count == 40 * 7  # the samples and six views
    for settings in ({}, {"anchor": "z_hat", "temperature": 0.5}):
        again, count = fitted(**settings)
        assert count == 0
        assert torch.equal(again, first)
    assert fitted(jitter=0.1)[1] == 40 * 6


def test_a_frozen_backbone_stays_and_a_tuned_one_moves(tiny_backbone, digits):
    data = load(digits[:60], pixel_range=(0, 16))
    before = clbdsc.build_backbone("", (1, 8, 8), pixel_range=(0.0, 1.0), image_views=None, pretrained=True)
    for tune in (False, True):
        result = cluster(data, 4, CLBDSCMethod(tune=tune), batch_size=20, epochs=2)
        backbone = result.training.model.encoder.backbone
        weight = backbone.net[0].weight
        assert torch.equal(weight, before.net[0].weight) == (not tune)
        # Statistics of batches enter neither way.
        assert not backbone.net[1].running_mean.any()
        assert weight.requires_grad == tune
        assert len(result.training.model.features) == (0 if tune else 60)
    optimizer = result.training.model.optimizers(1e-3, 3)[0]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3 / 3, 1e-4 / 3])


def test_features_of_views_are_reported_and_a_stop_ends_them(tiny_backbone, digits):
    data, seen = load(digits[:60], pixel_range=(0, 16)), []
    cluster(data, 4, CLBDSCMethod(views=2), batch_size=40, epochs=1, callback=seen.append)
    progress = [(p.epoch, p.epochs) for p in seen if p.phase == "views"]
    assert progress == [(40, 180), (60, 180), (120, 180), (180, 180)]

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster(data, 4, CLBDSCMethod(views=2), epochs=1, callback=stop)


def test_tuning_draws_views_anew_in_every_epoch(tiny_backbone):
    method = CLBDSCMethod(tune=True)
    problem = Problem(method.adapt_preset(automatic((1, 8, 8))), (1, 8, 8), 6, 2, 6)
    model = method.model(problem, None, generator())
    x = torch.rand(6, 1, 8, 8)
    drawn = []
    for epoch in (0, 1, 0):
        model.begin_epoch(x, epoch, generator(epoch))
        drawn.append(model._drawn)
    assert torch.equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).any()


def test_effective_rank_and_mean_cosine():
    assert clbdsc.effective_rank(torch.eye(7)) == pytest.approx(7)
    assert clbdsc.effective_rank(torch.ones(9, 4)) == pytest.approx(1)
    assert clbdsc.effective_rank(torch.zeros(3, 4)) == 0.0
    assert clbdsc.effective_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(2 * 2**0.5)
    assert clbdsc.mean_cosine(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 0.0
    Z = F.normalize(torch.randn(20, 5, generator=generator()), dim=1)
    assert clbdsc.mean_cosine(Z) == pytest.approx(float((Z @ Z.T).mean()))


def test_collapse_is_reported_and_health_is_not(digits):
    y = load_digits().target[:300]
    X = load_digits().data[:300]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        model = CLBDSC(10, epochs=5, random_state=0).fit(X)
    assert clustering_accuracy(y, model.labels_) > 0.8
    last = model.history_[-1]
    assert {"contrastive", "self_expression", "coefficients", "latent_norm", "expressed_norm"} <= set(last)
    assert last["effective_rank"] > 20
    # Nearly the same sample over and over, and no contrast to spread them: one direction is left.
    rng = np.random.default_rng(0)
    alike = np.ones((60, 20)) + np.r_[np.zeros((59, 20)), rng.normal(size=(1, 20))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CLBDSC(10, epochs=1, random_state=0).fit(alike)
    texts = [str(warning.message) for warning in caught if warning.category is CollapseWarning]
    assert "effective directions for 10 clusters, fewer than 4.5" in texts[0]
    assert "the mean cosine of its rows is 0.9" in texts[1]
    # Without a start and without a term that moves it, C says nothing.
    model, x = prepared_model()
    with torch.no_grad():
        model.self_expression.Coefficient.zero_()
    with pytest.warns(CollapseWarning, match="express next to nothing: the relative self-expression error is 1.00"):
        model.coefficients(model.latent(x, 10))


def test_new_images_are_labeled_and_a_saved_model_holds_the_backbone(tiny_backbone, digits, tmp_path):
    model = CLBDSC(4, pixel_range=(0, 16), epochs=2, random_state=0).fit(digits[:100])
    labels = model.predict(digits)
    assert (labels[:100] == model.labels_).mean() > 0.95
    assert model.transform(digits).shape == (300, 128)
    np.testing.assert_allclose(np.linalg.norm(model.transform(digits), axis=1), 1.0, rtol=1e-5)
    assert model.affinity_matrix_.nnz <= 2 * 5 * 100
    path = tmp_path / "model.safetensors"
    model.predictor_.save(path)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["dsclust"])["method"]["backbone"] == "auto"
        assert "encoder.backbone.net.0.weight" in file.keys()
    # The network that loading makes has other weights of its own; the stored ones replace them.
    loaded = Predictor.load(path)
    X = np.asarray(digits, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(loaded.predict(X), labels)
    np.testing.assert_array_equal(loaded.transform(X), model.transform(digits))


@pytest.mark.parametrize("tune", [False, True])
def test_interrupted_and_resumed_is_equal_bit_by_bit(tiny_backbone, digits, tmp_path, tune):
    def interrupt(progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    data = load(digits[:90], pixel_range=(0, 16))
    settings = {"method": CLBDSCMethod(tune=tune, anchor="z_hat"), "batch_size": 30, "epochs": 4}
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingInterrupted):
        cluster(data, 4, checkpoint=path, callback=interrupt, **settings)
    resumed = cluster(data, 4, checkpoint=path, resume=True, **settings)
    whole = cluster(data, 4, **settings)
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
    assert torch.equal(resumed.training.latent, whole.training.latent)
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    assert resumed.training.history == whole.training.history


def test_settings_of_the_estimator_reach_the_method():
    model = CLBDSC(3, backbone="none", weights=None, resize=(96, 64), anchor="z_hat", views=2, crop=0.5, flip=False)
    assert model._method() == CLBDSCMethod("none", resize="96x64", anchor="z_hat", views=2, crop=0.5, flip=False)
    assert CLBDSC(resize=2)._method().resize == "2"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"anchor": "x"}, "CLBDSC: anchor: expected one of z, z_hat, got 'x'"),
        ({"mask_negatives": -1.0}, "CLBDSC: mask_negatives: expected a finite number >= 0, got -1.0"),
        ({"temperature": 0.0}, "CLBDSC: temperature: expected a finite number > 0, got 0.0"),
        ({"views": 0}, "CLBDSC: views: expected at least 1, got 0"),
        ({"crop": 2.0}, "crop: expected a share"),
        ({"resize": "big"}, "resize: expected 'auto', a whole factor or HxW"),
        ({"tune": True}, "CLBDSC: tune: expected False, for the backbone 'none' has nothing to tune"),
        ({"backbone": "resnet"}, "backbone: expected 'auto', 'none'"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, text):
    with pytest.raises(ValueError, match=text):
        CLBDSC(2, **settings).fit(load_digits().data[:20])


def test_images_of_unknown_scale_are_refused(digits):
    with pytest.raises(ValueError, match=r"expected pixels on the scale \(0.0, 1.0\)"):
        CLBDSC(2).fit(digits[:20])


def test_on_the_command_line(tmp_path, monkeypatch):
    X = np.ones((60, 20))
    X[-1] = np.arange(20)
    np.save(tmp_path / "alike.npy", X)
    out = tmp_path / "run"
    arguments = ["fit", "--method", "clbdsc", "--data", str(tmp_path / "alike.npy"), "-k", "4", "--epochs", "1"]
    arguments += ["--no-baselines", "--out"]
    ran = CliRunner().invoke(cli.app, [*arguments, str(out), "--set", "anchor=z_hat", "--set", "views=2"])
    assert ran.exit_code == 0, ran.output
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["method"]["anchor"] == "z_hat"
    assert config["labels"]["affinity"] == "sparse"
    assert config["labels"]["assign_labels"] == "kmeans"
    # What was warned of on the screen stands in the file.
    shown = " ".join(ran.stderr.split())
    assert any("collapsed" in text for text in config["warnings"])
    assert all(text in shown for text in config["warnings"])
    np.testing.assert_array_equal(load_npz(out / "affinity.npz").shape, (60, 60))
    history = json.loads((out / "history.json").read_text())["training"]
    assert {"effective_rank", "mean_cosine", "self_expression_error"} <= set(history[0])

    predicted = CliRunner().invoke(
        cli.app, ["predict", str(out), str(tmp_path / "alike.npy"), "--out", str(tmp_path / "labels.csv")]
    )
    assert predicted.exit_code == 0, predicted.output

    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    images = ["fit", "--method", "clbdsc", "--data", "digits", "--out", str(tmp_path / "other")]
    refused = CliRunner().invoke(cli.app, images)
    assert refused.exit_code == 2
    assert "error: backbone 'efficientnet-lite0' needs the package efficientnet_lite_pytorch" in refused.stderr
    assert not (tmp_path / "other").exists()
