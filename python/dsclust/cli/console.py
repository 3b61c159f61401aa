"""What a command says: lines, one-line warnings and errors with exit codes, the table of a comparison.

Owns which errors a user can cause, and the command to type again after Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dsclust.metrics import Record


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is: no markup, no colors of its own, no line breaks to fit the terminal."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def one_line_warnings(console: Console) -> Iterator[list[str]]:
    """Print warnings as `warning: text`, without file and line; the list that is yielded gets every text."""
    texts: list[str] = []
    with warnings.catch_warnings():

        def show(message: Warning | str, *_: object, **__: object) -> None:
            texts.append(str(message))
            say(console, f"warning: {message}", style="yellow")

        warnings.showwarning = show
        yield texts


@contextmanager
def guarded(console: Console, resume_command: Callable[[], str | None]) -> Iterator[None]:
    """Turn what a user can cause into one line and an exit code; a bug keeps its traceback."""
    from dsclust.features.backbones import MissingExtraError
    from dsclust.training.interrupt import DivergedError

    if owns_signals := threading.current_thread() is threading.main_thread():
        # What a scheduler sends before it kills: as Ctrl-C, so that a checkpoint is left and no child.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        command = resume_command()
        say(console, "stopped" + (f"; go on with:\n  {command}" if command else "; nothing was saved"))
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, MemoryError, DivergedError, MissingExtraError) as error:
        say(console, f"error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(2) from None
    finally:
        if owns_signals:
            signal.signal(signal.SIGTERM, before)


def typed_command(context: typer.Context, leave_out: Iterable[str] = ()) -> list[str]:
    """Return the command as it was typed, without the parameters named in `leave_out`."""
    typed = ["dsclust", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in leave_out or not str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            continue
        option, value = parameter.opts[0], context.params[name]
        if not option.startswith("-"):
            typed.append(str(value))
        elif isinstance(value, bool):
            typed.append(option if value else option.replace("--", "--no-", 1))
        else:
            for each in value if isinstance(value, (list, tuple)) else [value]:
                typed += [option, str(each)]
    return typed


def comparison(records: list[Record], title: str) -> Table:
    """Lay out a table of methods, a record a row, with their figures and seconds."""
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("ACC", "NMI", "ARI", "seconds"):
        table.add_column(heading, justify="right")
    for record in records:
        figures = [record["acc"], record["nmi"], record["ari"]]
        table.add_row(
            record["method"],
            *("-" if figure is None else f"{figure:.4f}" for figure in figures),
            f"{record['seconds']:.1f}",
        )
    return table
