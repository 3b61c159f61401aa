"""`dsclust experiment`: runs what a file of `dsclust.experiments` declares and writes the page of results."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dsclust.cli.console import guarded, say, typed_command
from dsclust.names import ExperimentName, words


def experiment(
    context: typer.Context,
    name: Annotated[ExperimentName, typer.Argument(help="What to measure: a file in dsclust/experiments each.")],
    data: Annotated[Path, typer.Option(envvar="DSCLUST_DATA", help="Folder that holds the data sets.")],
    out: Annotated[Path, typer.Option(help="Folder for results.md and results/NAME.json and .png.")] = Path("docs"),
    seeds: Annotated[int | None, typer.Option(min=1, help="Default: the experiment's.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a run.")] = 1,
) -> None:
    """Measure what an experiment asks and write the page of results; runs that are there are not repeated."""
    messages = Console(stderr=True)
    with guarded(messages, lambda: shlex.join(typed_command(context))):
        from dsclust.experiments import get_experiment
        from dsclust.experiments.results import write_page
        from dsclust.experiments.runner import run_experiment

        def show(done: int, count: int, record: dict[str, Any]) -> None:
            acc = f"  ACC {record['scores']['acc']:.4f}" if "scores" in record else ""
            title = f"{record['data']}, {record['label']}, seed {record['seed']}"
            say(messages, f"{done}/{count}  {title}{acc}  {record['seconds']:.0f} s")

        run_experiment(
            get_experiment(name),
            data,
            out / "results" / f"{name}.json",
            cache=out / "results" / ".pretrained",
            seeds=seeds,
            jobs=jobs,
            threads=threads,
            show=show,
        )
        write_page(map(get_experiment, words(ExperimentName)), out / "results.md", out / "results")
        say(messages, f"results in {out / 'results.md'}")
