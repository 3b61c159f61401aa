"""Run what an experiment declares, each run in a process of its own, and keep every record as soon as it is there.

Owns the order of runs, the shared pre-training, and the file of records: a run that is in it with the same settings is
not repeated, so an experiment that was stopped goes on where it was. Has no numerics of its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dsclust.baselines import BASELINES, Baseline, run_baselines
from dsclust.data import Dataset
from dsclust.experiments.experiment import Arm, Data, Experiment
from dsclust.experiments.processes import each_in_its_process
from dsclust.experiments.records import Record, read_records, write_records
from dsclust.features import FeatureConfig, fit_features
from dsclust.features.cache import default_cache
from dsclust.files import write_json
from dsclust.methods.ridge import RidgeMethod
from dsclust.metrics import evaluate
from dsclust.names import AUTO
from dsclust.parts.method import AutoencoderMethod
from dsclust.parts.networks import Autoencoder
from dsclust.pipeline import FitResult, cluster
from dsclust.predictor import Predictor
from dsclust.presets import choose_preset
from dsclust.report import versions
from dsclust.training.config import TrainConfig
from dsclust.training.pretraining import pretrain


def run_experiment(
    experiment: Experiment,
    folder: Path,
    results: Path,
    *,
    cache: Path,
    seeds: int | None = None,
    jobs: int = 1,
    threads: int = 1,
    show: Callable[[int, int, Record], None] = lambda done, count, record: None,
) -> list[Record]:
    """Run every arm with every seed, and the baselines on the same input; return all records.

    folder: where the data sets are. results: the JSON file of records; replaced atomically after every run. cache:
    folder for pre-trained autoencoders, one for each data set, preset and seed, which all arms start from. jobs: runs
    at a time, each on `threads` threads. show: called after each run with the number of finished runs, of all, and the
    record.

    Raises FileNotFoundError where a data set is missing, ValueError for a file of other results, ChildProcessError for
    a run whose process was killed, and whatever a run raises. Records of finished runs stay; Ctrl-C and errors lose
    the runs in flight. Deterministic for a number of threads on one machine.
    """
    records = read_records(results, experiment.name)
    finished = {_identity(record) for record in records}
    wanted = list(_runs(experiment, experiment.seeds if seeds is None else seeds))
    missing = [run for run in wanted if _identity(run.settings()) not in finished]
    done = len(wanted) - len(missing)
    for source in {run.data for run in missing}:
        source.read(folder)  # complain before the first run, not after an hour
    execute = partial(_execute, folder=folder, cache=cache, threads=threads)
    for batch in _pretraining_first(missing):
        # A fresh process a run, so that its peak memory is the run's own.
        with closing(each_in_its_process(execute, batch, jobs)) as finishing:
            for record in finishing:
                records.append(record)
                write_records(results, experiment.name, records)
                done += 1
                show(done, len(wanted), record)
    return records


@dataclass(frozen=True)
class _Run:
    """Name one run: an arm and a seed, or without an arm the baselines of a data set."""

    arm: Arm | None
    data: Data
    seed: int
    baseline_features: FeatureConfig | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.data.name}, {self.arm.label if self.arm else 'baselines'}, seed {self.seed}"

    def settings(self) -> Record:
        """Return what identifies the run, as it stands in its record."""
        if self.arm is None:
            return {"label": "baselines", "data": self.data.name, "seed": self.seed}
        return {**self.arm.settings(), "seed": self.seed}


def _runs(experiment: Experiment, seeds: int) -> Iterator[_Run]:
    for seed in range(seeds):
        for arm in experiment.arms:
            yield _Run(arm, arm.data, seed)
    for source in experiment.data:
        has_ridge = any(arm.data == source and arm.method == RidgeMethod() for arm in experiment.arms)
        asked = {name: one for name, one in BASELINES.items() if name != "ridge" or not has_ridge}
        if source == experiment.data[0]:
            asked |= experiment.peers
        for seed in range(min(experiment.baseline_seeds, seeds)):
            yield _Run(None, source, seed, experiment.baseline_features, asked)


def _identity(settings: Record) -> str:
    keys = ("label", "data", "method", "batches", "options", "seed")
    return json.dumps({key: settings[key] for key in keys if key in settings}, sort_keys=True)


def _pretraining_first(runs: list[_Run]) -> tuple[list[_Run], list[_Run]]:
    """Split runs: one for each autoencoder that several share, then the others, so that no two train the same one."""
    first: dict[tuple[Data, Any, int], _Run] = {}
    for run in runs:
        if run.arm is not None and isinstance(run.arm.method, AutoencoderMethod) and run.data.features.changes_nothing:
            first.setdefault((run.data, run.arm.options.get("preset"), run.seed), run)
    chosen = list(first.values())
    return chosen, [run for run in runs if run not in chosen]


def _execute(run: _Run, folder: Path, cache: Path, threads: int) -> Record:
    """Do one run, in its own process, and return its record."""
    torch.set_num_threads(threads)
    data, held_out = run.data.read(folder)
    n_clusters = run.data.n_clusters
    record = {**run.settings(), "threads": threads, "commit": versions()["commit"]}
    arm = run.arm
    if arm is None:
        rows, _ = fit_features(data, run.baseline_features or run.data.features, cache=default_cache())
        found = run_baselines(rows.X, n_clusters, run.seed, data.labels, baselines=run.baselines)
        return {**record, "baselines": found, "seconds": sum(one["seconds"] for one in found)}
    autoencoder = None
    if isinstance(arm.method, AutoencoderMethod) and run.data.features.changes_nothing:
        autoencoder, record["pretraining"] = _pretrained(arm, data, n_clusters, run.seed, cache)
    start, processed = time.perf_counter(), time.process_time()
    result = _cluster(arm, run, data, autoencoder)
    if arm.method is None:
        choice = result.choice
        record["chosen"] = {"method": choice.method.name, "features": choice.features.kind, "cuts": choice.cuts}
    record["seconds"] = round(time.perf_counter() - start, 2)
    record["cpu_seconds"] = round(time.process_time() - processed, 2)
    record["peak_bytes"] = _peak_bytes()
    assert data.labels is not None
    record["scores"] = evaluate(data.labels, result.labels)
    record["spectral_scores"] = evaluate(data.labels, result.spectral.labels)
    if held_out is not None:
        record["held_out"] = _score_held_out(result.predictor, held_out)
    record["epochs"] = len(result.training.history)
    record["last_epoch"] = result.training.history[-1] if result.training.history else {}
    record["stages"] = {stage: round(seconds, 2) for stage, seconds in result.seconds.items()}
    record["stability"] = round(result.spectral.stability, 4)
    record["normalized_cut"] = round(result.spectral.normalized_cut, 5)
    modules = (result.training.model, result.predictor.classifier)
    record["parameters"] = sum(p.numel() for module in modules for p in module.parameters())
    return record


def _cluster(arm: Arm, run: _Run, data: Dataset, autoencoder: Autoencoder | None) -> FitResult:
    """Fit what the arm declares: the one place that calls the pipeline."""
    features: FeatureConfig | None = run.data.features
    batch_size = None
    if arm.method is None:
        features = None  # left to the choice
    elif "batch_size" in arm.method.training_options and arm.batches is not None:
        batch_size = -(-data.n_samples // arm.batches)
    return cluster(
        data,
        run.data.n_clusters,
        arm.method or AUTO,
        features=features,
        feature_cache=default_cache(),
        batch_size=batch_size,
        seed=run.seed,
        device="cpu",
        autoencoder=autoencoder,
        **arm.options,
    )


def _score_held_out(predictor: Predictor, held_out: Dataset) -> Record:
    """Label samples that were not fitted; return the scores and the time of each, that of features left out."""
    assert held_out.labels is not None
    unseen = held_out.X
    if predictor.features is not None:
        unseen = predictor.features.transform(unseen)
        predictor = replace(predictor, features=None, sample_shape=unseen.shape[1:], pixel_range=None)
    start = time.perf_counter()
    labels = predictor.predict(unseen)
    seconds = time.perf_counter() - start
    per_sample = round(seconds / held_out.n_samples * 1e6, 2)
    return {**evaluate(held_out.labels, labels), "microseconds_per_sample": per_sample}


def _peak_bytes() -> int:
    """Return the most bytes of memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss of a child begins at what its parent held
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _pretrained(arm: Arm, data: Dataset, n_clusters: int, seed: int, cache: Path) -> tuple[Autoencoder, Record]:
    """Return the autoencoder that all arms of this data set, preset and seed share, from the cache if it is there."""
    preset = choose_preset(arm.options.get("preset"), data.sample_shape, data.n_samples, n_clusters)
    path = cache / f"{data.name}-{preset.name}-{seed}.safetensors"
    note = path.with_suffix(".json")
    start = time.perf_counter()
    # The method plays no part in pre-training: with the same one, the checkpoint is that of every arm.
    config = TrainConfig(preset, n_clusters, seed=seed)
    autoencoder, history = pretrain(data, config, checkpoint=path, resume=True)
    if not note.is_file():
        seconds = round(time.perf_counter() - start, 2)
        write_json(note, {"epochs": len(history), "rmse": history[-1]["rmse"], "seconds": seconds})
    return autoencoder, json.loads(note.read_text())
