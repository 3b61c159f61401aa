"""`dsclust predict`: labels for new samples by the model of a finished run, as a CSV file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dsclust.cli import options
from dsclust.cli.console import comparison, guarded, one_line_warnings, say
from dsclust.cli.runs import MODEL


def predict(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    data: options.NewData,
    out: Annotated[Path, typer.Option(help="New CSV file for the labels.")],
    image_shape: options.ImageShape = None,
    resize: options.Resize = None,
    color: options.Color = "auto",
) -> None:
    """Label new samples with the model of a run; write index,label lines to a CSV file."""
    messages = Console(stderr=True)
    with guarded(messages, lambda: None), one_line_warnings(messages):
        from dsclust.metrics import make_record
        from dsclust.predictor import Predictor
        from dsclust.report import write_labels

        if out.exists():
            raise ValueError(f"--out: {out} exists already; name another file")
        if not (run / MODEL).is_file():
            raise ValueError(f"RUN: {run} holds no {MODEL}: it is not a finished run of dsclust fit")
        predictor = Predictor.load(run / MODEL)
        dataset = options.load_data(
            data, image_shape=image_shape, resize=resize, color=color, pixel_range=predictor.pixel_range
        )
        start = time.perf_counter()
        labels = predictor.predict(dataset.X)
        seconds = time.perf_counter() - start
        write_labels(out, labels)
        results = Console()
        if dataset.labels is not None:
            record = make_record(predictor.method.title, labels, dataset.labels, seconds)
            results.print(comparison([record], f"{dataset.name}, {dataset.n_samples} samples"))
        say(results, f"{len(labels)} labels in {out}")
