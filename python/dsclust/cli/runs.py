"""The directory of a run: which one a command may use, and what it leaves there.

Owns the names of the checkpoint and the model, and what config.json says; the other files are those of
`dsclust.report`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsclust.data import Dataset
    from dsclust.metrics import Record
    from dsclust.pipeline import FitResult

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"


def choose_directory(out: Path | None, resume: bool, name: str) -> Path:
    """Return the directory asked for, or a new one in runs/; refuse one that holds something else."""
    from dsclust.report import is_complete

    if out is None:
        if resume:
            raise ValueError("--resume: expected --out with the directory of the run to go on with")
        stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        suffixes = ("", *(f"-{i}" for i in range(2, 100)))
        candidates = (stem.with_name(stem.name + suffix) for suffix in suffixes)
        return next(path for path in candidates if not path.exists())
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a directory, got the file {out}")
    if resume:
        if not is_complete(out) and not (out / CHECKPOINT).is_file():
            raise ValueError(f"--resume: {out} holds no unfinished run")
    elif out.is_dir() and any(out.iterdir()):
        if (out / CHECKPOINT).is_file() and not is_complete(out):
            raise ValueError(f"--out: {out} holds an unfinished run; add --resume to go on with it")
        raise ValueError(f"--out: {out} is not empty; name another directory")
    return out


def write_results(
    directory: Path,
    data: Dataset,
    result: FitResult,
    record: Record,
    baselines: list[Record],
    config: dict[str, Any],
) -> None:
    """Write the model and everything of `dsclust.report.write_run`; images are shown where they can be."""
    from dsclust.report import write_run

    directory.mkdir(parents=True, exist_ok=True)
    result.predictor.save(directory / MODEL)
    shows_images = data.image_shape is not None and data.image_shape[0] in (1, 3)
    write_run(
        directory,
        labels=result.labels,
        coefficients=result.coefficients,
        affinity=result.affinity,
        method=record,
        baselines=baselines,
        config=config,
        diagnostics={"stability": result.spectral.stability, "normalized_cut": result.spectral.normalized_cut},
        pretraining=result.training.pretraining,
        history=result.training.history,
        images=data.X if shows_images else None,
    )


def describe_run(data: Dataset, source: str, seed: int, result: FitResult, warnings: list[str]) -> dict[str, Any]:
    """Return every setting a run was made with, as plain values for config.json."""
    import torch

    config = result.train_config
    weights = result.training.weights
    return {
        "data": {
            "source": source,
            "name": data.name,
            "n_samples": data.n_samples,
            "sample_shape": list(data.sample_shape),
            "pixel_range": data.pixel_range,
            "labels_known": data.labels is not None,
        },
        "features": asdict(result.feature_config),
        "n_clusters": config.n_clusters,
        "seed": seed,
        "preset": config.preset.name,
        "training": {**asdict(config), "method": config.method.settings()},
        "loss_weights": None if weights is None else asdict(weights),
        "labels": result.label_config.settings(),
        "seconds": result.seconds,
        "threads": torch.get_num_threads(),
        "choice": {"normalized_cuts": result.choice.cuts},
        "warnings": warnings,
    }
