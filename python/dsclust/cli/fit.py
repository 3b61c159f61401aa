"""`dsclust fit`: a data set in, a directory of results and a comparison with the baselines out.

Owns the order of the steps; all work is done by `dsclust.pipeline`, the baselines and the report.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from dsclust.cli import options
from dsclust.cli.console import comparison, guarded, one_line_warnings, say, typed_command
from dsclust.cli.progress import Display, display_for
from dsclust.cli.runs import CHECKPOINT, choose_directory, describe_run, write_results
from dsclust.names import AUTO

if TYPE_CHECKING:
    from dsclust.data import Dataset
    from dsclust.metrics import Record
    from dsclust.pipeline import FitResult


def fit(
    context: typer.Context,
    data: options.Data,
    n_clusters: options.Clusters = None,
    method: options.MethodName = AUTO,
    settings: options.Settings = None,
    features: options.Features = None,
    feature_size: options.FeatureSize = "auto",
    pca: options.Components = None,
    center: options.Center = False,
    unit: options.Unit = False,
    preset: options.Preset = None,
    batch_size: options.BatchSize = None,
    epochs: options.Epochs = None,
    lr: options.LearningRate = None,
    pretrain_steps: options.PretrainSteps = None,
    affinity: options.Affinity = None,
    threshold: options.Threshold = None,
    subspace_dim: options.SubspaceDim = None,
    power: options.Power = None,
    unit_diagonal: options.UnitDiagonal = None,
    assign_labels: options.AssignLabels = None,
    image_shape: options.ImageShape = None,
    pixel_range: options.PixelRange = None,
    resize: options.Resize = None,
    color: options.Color = "auto",
    seed: options.Seed = 0,
    baselines: options.Baselines = True,
    out: options.Out = None,
    resume: options.Resume = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Cluster a data set; write labels, matrices, metrics and plots to a directory."""
    messages = Console(stderr=True)
    begun: list[Path] = []  # the directory, once there may be a checkpoint in it

    with guarded(messages, lambda: _resume_command(context, begun)), one_line_warnings(messages) as warned:
        from dsclust.features.cache import default_cache
        from dsclust.metrics import make_record
        from dsclust.pipeline import cluster
        from dsclust.report import is_complete

        asked_method = options.parse_method(method, settings or [])
        asked_features = options.parse_features(features, feature_size, pca, center, unit)
        scale = options.parse_pixel_range(pixel_range)
        dataset = options.load_data(data, image_shape=image_shape, resize=resize, color=color, pixel_range=scale)
        count = options.count_clusters(dataset, n_clusters)
        directory = choose_directory(out, resume, dataset.name)
        if resume and is_complete(directory):
            say(messages, f"{directory} is complete, nothing to resume")
            return
        begun.append(directory)
        shape = " x ".join(str(s) for s in dataset.sample_shape)
        say(messages, f"{dataset.name}: {dataset.n_samples} samples of {shape}, {count} clusters")
        asked: dict[str, Any] = dict(
            preset=preset, batch_size=batch_size, epochs=epochs, lr=lr, pretrain_steps=pretrain_steps,
            affinity=affinity, threshold=threshold, subspace_dim=subspace_dim, power=power,
            unit_diagonal=unit_diagonal, assign_labels=assign_labels, seed=seed, device=device,
            checkpoint=directory / CHECKPOINT, resume=resume, feature_cache=default_cache(),
        )  # fmt: skip
        with display_for(messages) as show, options.limit_threads(threads):
            result = cluster(dataset, count, asked_method, features=asked_features, callback=show.tell, **asked)
            config = describe_run(dataset, data, seed, result, list(warned))  # no warnings of the baselines
            seconds = sum(result.seconds.values())
            record = make_record(result.choice.method.title, result.labels, dataset.labels, seconds)
            others = _run_baselines(result, dataset, count, seed, show) if baselines else []
            show.step("writing results")
            write_results(directory, dataset, result, record, others, config)
        (directory / CHECKPOINT).unlink(missing_ok=True)
        _print_results(dataset, count, result, [record, *others], directory)


def _resume_command(context: typer.Context, begun: list[Path]) -> str | None:
    """Return the command that goes on with a run, or None where nothing was saved."""
    if not begun or not (begun[0] / CHECKPOINT).is_file():
        return None
    return shlex.join([*typed_command(context, leave_out=("out", "resume")), "--out", str(begun[0]), "--resume"])


def _run_baselines(result: FitResult, data: Dataset, n_clusters: int, seed: int, show: Display) -> list[Record]:
    """Run the baselines on what the method was given; a method that is one of them is not run again."""
    from dsclust.baselines import BASELINES, run_baselines

    show.step("baselines on the same input")
    others = {name: one for name, one in BASELINES.items() if name != result.choice.method.name}
    return run_baselines(result.data.X, n_clusters, seed, data.labels, baselines=others)


def _print_results(data: Dataset, n_clusters: int, result: FitResult, records: list[Record], directory: Path) -> None:
    """Print the comparison, what the clustering says of itself without true labels, and where the files are."""
    results = Console()
    title = f"{data.name}, {data.n_samples} samples, {n_clusters} clusters"
    if data.labels is None:
        title += " (no true labels: nothing to compare with)"
    results.print(comparison(records, title))
    stability = f"stability {result.spectral.stability:.2f} of 1"
    say(results, f"{stability}: how far the labels agree with those from fewer eigenvectors")
    say(results, f"results in {directory}")
