"""Calls in processes of their own, a fresh one each: nothing is left of one for the next, and one that dies is named.

`multiprocessing.Pool` waits for ever on a call whose process died, and `ProcessPoolExecutor` has a fresh process for
every call only from Python 3.11 on, so this is a process and a pipe for each.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _ChildTraceback(Exception):
    """Tell where in its process a call failed; the cause of the error that reaches the caller."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def each_in_its_process(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Generator[R, None, None]:
    """Yield function(item) of every item as it is finished, `jobs` processes at a time.

    The function, the items and what it returns are pickled; the function has to be importable in a new interpreter.
    Raises what a call raises, and ChildProcessError naming the item where a process ends without an answer (killed for
    memory, or with a function it cannot import). Whenever it is left, by an error or by closing it, no process stays.
    """
    left = iter(items)
    running: dict[Any, tuple[Any, T]] = {}
    try:
        while True:
            for item in left:
                receiver, process = _start_process(function, item)
                running[receiver] = (process, item)
                if len(running) == jobs:
                    break
            if not running:
                return
            ready: Any
            for ready in wait(list(running)):
                process, item = running[ready]
                try:
                    result, error = ready.recv()
                except (EOFError, OSError):  # at once, or within an answer
                    process.join()
                    raise ChildProcessError(f"{item}: its process {_describe_end(process.exitcode)}") from None
                del running[ready]
                ready.close()
                process.join()
                if error is not None:
                    raise error[0] from _ChildTraceback(error[1])
                yield result
    finally:
        for receiver, (process, _) in running.items():
            process.terminate()
            process.join()
            receiver.close()


def _start_process(function: Callable[[T], R], item: T) -> tuple[Any, Any]:
    """Start a process on the item; return the end of the pipe that its answer comes out of, and the process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, item))
    # A child inherits what is blocked: Ctrl-C is for the parent, which ends its children.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    sender.close()  # the only one left is the child's, so that the end of the process is the end of the pipe
    return receiver, process


def _answer(sender: Connection, function: Callable[[T], R], item: T) -> None:
    try:
        result = function(item)
    except Exception as error:
        sender.send((None, (error, traceback.format_exc())))
    else:
        sender.send((result, None))


def _describe_end(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode} and no result; its messages are above"
    name = signal.Signals(-exitcode).name
    hint = ", as a system does that is out of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
