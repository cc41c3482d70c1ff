"""Processes that help with compiling do not keep the one that they help."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from asr_service.model.cpu_encoder import precompile
from asr_service.model.cpu_encoder.compiling import Call


@dataclass
class Hangs:
    """Stands for a function whose compilation takes its lock and does not end, as where a thread that is gone had one.

    Attributes:
        pipe: says that it has the lock.
        lock: of the function.
    """

    pipe: int
    lock: Path

    def compile(self, *, wait: bool) -> None:
        """Hangs."""
        with self.lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(self.pipe, b".")
            signal.pause()


@pytest.fixture
def hanging(tmp_path: Path) -> Any:
    """A function as above, and what tells that a helper is at it."""
    read, write = os.pipe()
    yield Hangs(write, tmp_path / "lock"), read
    os.close(read)
    os.close(write)


def test_one_that_hangs_is_ended_with_the_work(hanging: tuple[Hangs, int]) -> None:
    function, read = hanging
    with precompile.helping_processes(2, cast(list[Call], [function])) as helpers:
        assert os.read(read, 1) == b"."
    for helper in helpers:
        with pytest.raises(ProcessLookupError):
            os.kill(helper, 0)
    with function.lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_one_that_hangs_is_not_waited_for_in_the_work(
    hanging: tuple[Hangs, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompile, "HELP_S", 0.2)
    function, read = hanging
    with precompile.helping_processes(1, cast(list[Call], [function])):
        assert os.read(read, 1) == b"."
        # What the work waits for where it needs the same function.
        with function.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_how_far_the_compiling_is_is_told_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompile, "TELL_S", 0.01)
    said: queue.Queue[str] = queue.Queue()
    done, more = Compiled(True), Compiled(False)
    with precompile.telling(cast(list[Call], [done, more]), said.put):
        assert said.get(timeout=60).startswith("compiled 1 of 2 functions in ")
        more.there = True
        while not said.get(timeout=60).startswith("compiled 2 of 2 functions in "):
            pass
    assert "telling" not in {thread.name for thread in threading.enumerate()}


@dataclass
class Compiled:
    """Stands for a function that may have been compiled."""

    there: bool

    def is_compiled(self) -> bool:
        """Whether it was."""
        return self.there
