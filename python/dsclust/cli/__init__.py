"""The command line: `dsclust fit`, `dsclust predict`, `dsclust methods`, `dsclust presets`, `dsclust experiment`,
`dsclust --version`.

A module a command (the two lists share one), the options they share in `options`, what they say in `console` and
`progress`. Exit codes: 0 done, 2 wrong input (one line, no traceback), 130 stopped by Ctrl-C or SIGTERM (with the
command that resumes). Heavy modules load when a command runs, so that --help is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

import dsclust
from dsclust.cli import experiment, fit, lists, predict

app = typer.Typer(
    name="dsclust",
    help="Deep subspace clustering of images and features.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (fit.fit, predict.predict, experiment.experiment, lists.methods, lists.presets):
    app.command()(command)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"dsc-ext {dsclust.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deep subspace clustering of images and features."""


def main() -> None:
    """Run the console script `dsclust`."""
    app()
