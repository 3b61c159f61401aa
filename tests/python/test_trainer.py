"""The trainer: seeding, order, stopping, checkpoints; on tiny data, with the plainest settings."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from dsclust.data import load
from dsclust.methods.bdsc import BDSCMethod
from dsclust.methods.dscnet import DSCNetMethod
from dsclust.parts.consistency import CONSISTENCIES
from dsclust.parts.order import IndexOrder
from dsclust.presets import LossWeights, automatic
from dsclust.training.config import PretrainConfig, TrainConfig
from dsclust.training.interrupt import DivergedError, TrainingInterrupted
from dsclust.training.pretraining import has_plateaued, pretrain
from dsclust.training.trainer import fit
from hypothesis import given
from hypothesis import strategies as st

N, K = 30, 3
PRETRAINING = PretrainConfig(batch_size=8, draws=2, trial_steps=8, min_steps=24, max_steps=80)


def dataset():
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)
    return load(images, pixel_range=(0, 255))


def config(**changes) -> TrainConfig:
    preset = replace(automatic((1, 8, 8)), channels=(3,), epochs=6, pixel_range=(0.0, 255.0))
    own = {name: changes.pop(name) for name in ("gradient", "bank", "zero_diagonal", "consistency") if name in changes}
    settings = {"preset": preset, "n_clusters": K, "batch_size": 8, "pretraining": PRETRAINING, **changes}
    return TrainConfig(**{"method": BDSCMethod(**own), **settings})


def same(first, second) -> None:
    assert torch.equal(first.coefficients, second.coefficients)
    assert first.history == second.history
    assert first.pretraining == second.pretraining
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


class StopAt:
    """A callback that interrupts after an epoch of a phase."""

    def __init__(self, phase: str, epoch: int) -> None:
        self.when = (phase, epoch)

    def __call__(self, progress) -> None:
        if (progress.phase, progress.epoch) == self.when:
            raise KeyboardInterrupt


def test_same_seed_same_run_and_no_trace_in_the_global_generator():
    before = torch.get_rng_state()
    first, second = fit(dataset(), config()), fit(dataset(), config())
    same(first, second)
    other = fit(dataset(), config(seed=1))
    assert not torch.equal(first.coefficients, other.coefficients)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [None, 8, 7])
def test_loss_falls_and_terms_add_up(batch_size):
    result = fit(dataset(), config(batch_size=batch_size, epochs=30))
    assert result.coefficients.shape == (N, N)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    for row in result.history:
        parts = row["reconstruction"] + row["self_expression"] + row["coefficients"]
        assert row["loss"] == pytest.approx(parts, rel=1e-12)
        assert row["drift"] >= 0
    assert [row["epoch"] for row in result.history] == list(range(1, 31))


@pytest.mark.parametrize("gradient", ["splice", "detach", "detach+ae"])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_every_row_moves_once_an_epoch_the_last_short_batch_included(gradient, batch_size):
    result = fit(dataset(), config(gradient=gradient, batch_size=batch_size, epochs=3))
    state = result.model.self_expression.Coefficient
    assert state.shape == (N, N)
    # Adam's first steps have length lr: all rows have travelled, none further than 3 steps.
    travelled = result.coefficients.abs().amax(dim=1)
    assert (travelled > 0.5e-3).all() and (travelled < 3.5e-3).all()


def test_fifo_is_index_replacement_without_shuffling_bit_by_bit(monkeypatch):
    fifo = fit(dataset(), config(bank="fifo"))
    monkeypatch.setattr(IndexOrder, "shuffles", False)
    index = fit(dataset(), config())
    assert torch.equal(index.coefficients, fifo.coefficients)
    assert torch.equal(index.model.bank.features, fifo.model.bank.features)
    assert index.history == fifo.history


@pytest.mark.parametrize("stop", [("pretrain", 5), ("train", 1), ("train", 4), ("train", 6)])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_interrupted_and_resumed_is_equal_bit_by_bit(tmp_path, stop, batch_size):
    run = config(batch_size=batch_size)
    path = tmp_path / "state" / "checkpoint.safetensors"
    with pytest.raises(TrainingInterrupted, match=r"checkpoint\.safetensors.*resume"):
        fit(dataset(), run, checkpoint=path, callback=StopAt(*stop))
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary left behind
    resumed = fit(dataset(), run, checkpoint=path, resume=True)
    same(resumed, fit(dataset(), run))
    # Resuming a finished run gives its result again.
    same(fit(dataset(), run, checkpoint=path, resume=True), resumed)


@pytest.mark.parametrize("consistency", [c for c in CONSISTENCIES if c != "lr"])
def test_every_way_to_consistency_resumes_bit_by_bit(tmp_path, consistency):
    run, path = config(consistency=consistency), tmp_path / "checkpoint"
    with pytest.raises(TrainingInterrupted):
        fit(dataset(), run, checkpoint=path, callback=StopAt("train", 3))
    whole = fit(dataset(), run)
    same(fit(dataset(), run, checkpoint=path, resume=True), whole)
    assert all(row["drift"] >= 0 for row in whole.history)
    assert (whole.history[-1]["drift"] < 1e-6) == (consistency == "fresh")


def test_exact_gradients_give_the_full_batch_whatever_the_chunk():
    whole = fit(dataset(), config(batch_size=None, dtype="float64"))
    for method in (BDSCMethod(consistency="exact"), DSCNetMethod()):
        chunked = fit(dataset(), config(method=method, dtype="float64"))
        torch.testing.assert_close(chunked.coefficients, whole.coefficients, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(chunked.latent, whole.latent, rtol=1e-8, atol=1e-10)
        assert chunked.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-9)


def test_what_training_alone_needed_is_let_go():
    model = fit(dataset(), config(consistency="fresh")).model
    assert sum(t.numel() == N * N for t in model.state_dict().values()) == 1  # C without its moments
    assert not model.self_expression.Coefficient.requires_grad
    x = torch.from_numpy(dataset().X)[:5]
    assert model.self_expression(model.encoder(torch.from_numpy(dataset().X))).shape == (N, model.encoder(x).shape[1])


def test_ctrl_c_finishes_the_epoch_then_saves(tmp_path):
    path, seen = tmp_path / "checkpoint.safetensors", []

    def press(progress) -> None:
        seen.append((progress.phase, progress.epoch))
        if seen[-1] == ("train", 2):
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="2 of training"):
        fit(dataset(), config(), checkpoint=path, callback=press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert seen[-1] == ("train", 2)
    same(fit(dataset(), config(), checkpoint=path, resume=True), fit(dataset(), config()))


def test_interrupt_without_a_checkpoint_is_a_plain_keyboard_interrupt():
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(dataset(), config(), callback=StopAt("train", 1))
    assert not isinstance(stop.value, TrainingInterrupted)


def test_resume_without_a_file_starts_from_the_beginning(tmp_path):
    same(fit(dataset(), config(), checkpoint=tmp_path / "new", resume=True), fit(dataset(), config()))
    with pytest.raises(ValueError, match="resume"):
        fit(dataset(), config(), resume=True)


def test_checkpoint_of_another_run_is_refused_and_says_why(tmp_path):
    path = tmp_path / "checkpoint"
    fit(dataset(), config(), checkpoint=path)
    with pytest.raises(ValueError, match=r"config\.seed was 0, now 1"):
        fit(dataset(), config(seed=1), checkpoint=path, resume=True)
    other = replace(dataset(), samples=dataset().X[:, :, ::-1].copy())
    with pytest.raises(ValueError, match=r"another run.*data"):
        fit(other, config(), checkpoint=path, resume=True)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint"):
        fit(dataset(), config(), checkpoint=path, resume=True)


def test_pretraining_can_be_shared_between_runs():
    autoencoder, history = pretrain(dataset(), config())
    given_one = fit(dataset(), config(), autoencoder=autoencoder)
    assert torch.equal(given_one.coefficients, fit(dataset(), config()).coefficients)
    assert history and given_one.pretraining == []


def test_training_goes_on_from_finished_pretraining(tmp_path):
    path = tmp_path / "checkpoint"
    autoencoder, history = pretrain(dataset(), config(), checkpoint=path)
    again, same_history = pretrain(dataset(), config(), checkpoint=path, resume=True)
    assert history == same_history
    for p, q in zip(autoencoder.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    same(fit(dataset(), config(), checkpoint=path, resume=True), fit(dataset(), config()))
    with pytest.raises(ValueError, match="gone on to training"):
        pretrain(dataset(), config(), checkpoint=path, resume=True)


def test_resuming_with_another_given_autoencoder_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    first, _ = pretrain(dataset(), config())
    other, _ = pretrain(dataset(), config(seed=1))
    with pytest.raises(TrainingInterrupted):
        fit(dataset(), config(), autoencoder=copy.deepcopy(first), checkpoint=path, callback=StopAt("train", 2))
    with pytest.raises(ValueError, match=r"another run.*autoencoder"):
        fit(dataset(), config(), autoencoder=other, checkpoint=path, resume=True)
    resumed = fit(dataset(), config(), autoencoder=first, checkpoint=path, resume=True)
    assert torch.equal(resumed.coefficients, fit(dataset(), config()).coefficients)


def test_pretraining_reports_the_error_it_reached():
    data = dataset()
    autoencoder, history = pretrain(data, config())
    x = torch.from_numpy(data.X)
    with torch.no_grad():
        rmse = float((autoencoder(x) - x).square().mean().sqrt()) / 255
    assert rmse == pytest.approx(history[-1]["rmse"], rel=0.05)
    assert history[-1]["rmse"] < history[0]["rmse"]


def test_pretraining_keeps_the_best_draw():
    first = pretrain(dataset(), config(pretraining=replace(PRETRAINING, draws=1)))[1]
    best = pretrain(dataset(), config(pretraining=replace(PRETRAINING, draws=6)))[1]
    assert best[1]["rmse"] <= first[1]["rmse"]


def test_pretraining_does_not_depend_on_the_unit_of_pixels():
    data = dataset()
    unit = replace(data, samples=data.X / np.float32(255), pixel_range=(0.0, 1.0))
    preset = replace(config().preset, pixel_range=(0.0, 1.0))
    errors = [row["rmse"] for row in pretrain(data, config())[1]]
    again = [row["rmse"] for row in pretrain(unit, config(preset=preset))[1]]
    assert errors == pytest.approx(again, rel=1e-3)


@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_small_batches_run_on_one_thread_and_the_setting_comes_back(outcome):
    before, seen = torch.get_num_threads(), set()

    def look(progress) -> None:
        seen.add((progress.phase, torch.get_num_threads()))
        if outcome == "failed":
            raise RuntimeError("no more")

    torch.set_num_threads(3)
    try:
        if outcome == "failed":
            with pytest.raises(RuntimeError, match="no more"):
                fit(dataset(), config(), callback=look)
            assert seen == {("pretrain", 1)}
        else:
            fit(dataset(), config(), callback=look)
            assert seen == {("pretrain", 1), ("train", 3)}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@given(st.integers(30, 400))
def test_plateau_rule(n):
    falling = [1.0 / (t + 1) for t in range(n)]
    flat = [1.0] * n
    assert not has_plateaued(falling, 0.03)
    assert has_plateaued(flat, 0.03)
    noisy = [1.0 + 0.2 * (-1) ** t for t in range(n)]
    assert has_plateaued(noisy, 0.03)
    assert not has_plateaued([1.0], 0.03)


def test_scale_free_weights_do_not_see_the_unit():
    # The same data in other units: the same objective, hence nearly the same coefficients.
    data, preset = dataset(), replace(config().preset, epochs=20)
    results = []
    for top in (1.0, 255.0):
        run = config(preset=replace(preset, pixel_range=(0.0, top), lr=1e-3), dtype="float64", batch_size=None)
        results.append(fit(data, run))
    first, second = (r.weights for r in results)
    assert first.self_expression == pytest.approx(second.self_expression * 255**2, rel=1e-6)
    assert first.coefficients == second.coefficients == N / K
    assert results[0].history[0]["loss"] == pytest.approx(results[1].history[0]["loss"], rel=1e-6)


def test_divergence_is_an_error_not_a_result():
    with pytest.raises(DivergedError, match="epoch"):
        preset = replace(config().preset, weights=LossWeights(1e38, 1.0, 1e38))
        fit(dataset(), config(preset=preset))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"n_clusters": 0}, "n_clusters"),
        ({"gradient": "both"}, "gradient.*'both'"),
        ({"bank": "lifo"}, "bank.*'lifo'"),
        ({"dtype": "float16"}, "dtype.*'float16'"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_features_need_a_fully_connected_preset_and_images_a_convolutional_one():
    features = load(np.random.default_rng(0).normal(size=(N, 5)))
    with pytest.raises(ValueError, match="expected images"):
        fit(features, replace(config(), preset=replace(config().preset, pixel_range=None)))
    result = fit(features, replace(config(), preset=replace(automatic((5,)), epochs=3)))
    assert result.coefficients.shape == (N, N)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_gpu_agrees_with_the_cpu_and_resumes(tmp_path, batch_size):
    run = config(batch_size=batch_size, dtype="float64")
    on_gpu = replace(run, device="cuda")
    expected = fit(dataset(), run)
    result = fit(dataset(), on_gpu)
    assert result.coefficients.device.type == "cpu"
    assert torch.allclose(result.coefficients, expected.coefficients, atol=1e-6)
    path = tmp_path / "checkpoint"
    with pytest.raises(TrainingInterrupted):
        fit(dataset(), on_gpu, checkpoint=path, callback=StopAt("train", 3))
    resumed = fit(dataset(), on_gpu, checkpoint=path, resume=True)
    assert torch.allclose(resumed.coefficients, result.coefficients, atol=1e-6)
