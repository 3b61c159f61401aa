"""Calls in processes of their own: every answer arrives, a dead process is an error, and none is left."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from functools import partial

import pytest
from dsclust.experiments.processes import each_in_its_process

# Children of a spawn import only what the package and the library hold, so the calls are of builtins.


def none_left():
    return multiprocessing.active_children() == []


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_every_item_has_its_answer(jobs):
    assert sorted(each_in_its_process(math.factorial, range(4), jobs)) == [1, 1, 2, 6]
    assert none_left()


def test_an_answer_comes_when_it_is_there_and_the_rest_is_not_started():
    started = iter((0.0, 60.0, 60.0, 60.0))
    answers = each_in_its_process(time.sleep, started, 2)
    assert next(answers) is None
    assert next(started) == 60.0  # the third: one was done, one runs
    answers.close()
    assert none_left()
    assert next(started) == 60.0


def test_ctrl_c_reaches_the_parent_alone():
    """Whatever handler a call installs: what is blocked is not delivered."""
    (blocked,) = each_in_its_process(partial(signal.pthread_sigmask, signal.SIG_BLOCK), [set()], 1)
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_what_a_call_raises_reaches_the_caller_with_its_place():
    with pytest.raises(ValueError, match="factorial") as raised:
        list(each_in_its_process(math.factorial, [-1], 1))
    assert "result = function(item)" in str(raised.value.__cause__)
    assert none_left()


def test_a_process_that_dies_is_named_and_nothing_waits_for_it():
    with pytest.raises(ChildProcessError, match=r"^7: its process ended with exit code 7 and no result"):
        list(each_in_its_process(os._exit, [7], 1))
    with pytest.raises(ChildProcessError, match=r"^9: its process was killed by SIGKILL, as a system does"):
        list(each_in_its_process(signal.raise_signal, [int(signal.SIGKILL), int(signal.SIGKILL)], 2))
    assert none_left()


def test_a_function_that_the_process_cannot_import_is_an_error(monkeypatch, capfd):
    module = type(sys)("only_here")
    exec("def call(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ChildProcessError, match="exit code 1"):
        list(each_in_its_process(module.call, [1], 1))
    assert "only_here" in capfd.readouterr().err
    assert none_left()
