"""The engine's process: from the fork to its end. `engine_process.py` is the other side."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, NoReturn

from asr_service.core.commands import Event
from asr_service.core.errors import SettingsError
from asr_service.core.model import StreamingModel
from asr_service.engine.engine import Engine, EngineState
from asr_service.engine.ipc import CommandPipe, Message, frame, pack_event, write_all

log = logging.getLogger(__name__)

SHOW_STACKS = signal.SIGUSR1
"""Has the process print to stderr what its threads do."""
_PR_SET_PDEATHSIG = 1


def live(
    load: Callable[[], StreamingModel],
    *,
    max_batch: int,
    tick_s: float,
    probe: bool,
    finalize_silence_ms: int,
    commands: int,
    events: int,
    parent: int,
) -> NoReturn:
    """Runs an engine in the process that was just forked, and ends the process with it.

    Args:
        load, max_batch, tick_s, probe, finalize_silence_ms: see `Engine`.
        commands: descriptor to read commands from.
        events: descriptor to write events to.
        parent: process id of the event loop's process.
    """
    code = 1
    try:
        _come_up(parent)
        teller = _Teller(events)
        engine = Engine(
            load, inbox=CommandPipe(commands, _end_at_once), max_batch=max_batch, tick_s=tick_s, deliver=teller.deliver,
            metrics=teller, probe=probe, finalize_silence_ms=finalize_silence_ms,
        )  # fmt: skip
        teller.speak_for(engine)
        engine.run()
        code = 0
    except BaseException:
        log.critical("the engine's process has failed", exc_info=True)
    finally:
        logging.shutdown()
        os._exit(code)


class _Teller:
    """In the engine's process: tells the event loop what the engine does. Writing waits where the pipe is full."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._engine: Engine
        self._steps: list[tuple[float, float, tuple[float, ...], int]] = []
        self._last: tuple[Any, ...] = ()

    def speak_for(self, engine: Engine) -> None:
        """The engine whose teller this is."""
        self._engine = engine
        engine.on_state(self._state)

    def _state(self, state: EngineState) -> None:
        engine, failure = self._engine, self._engine.failure
        if failure is not None and not isinstance(failure, SettingsError):
            failure = RuntimeError(f"{type(failure).__name__}: {failure}")  # some types cannot be pickled
        self._tell(Message.STATE, pickle.dumps((state, engine.info, engine.measured, failure)))
        self.weighed()

    def step_begins(self, at: float) -> None:
        """See `EngineMetrics`."""
        self._tell(Message.BEGUN, at)

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        """See `EngineMetrics`."""
        self._steps.append((seconds, audio_s, tuple(waits_s), 0))

    def step_failed(self, streams: int) -> None:
        """See `EngineMetrics`."""
        self._steps.append((0.0, 0.0, (), streams))

    def weighed(self) -> None:
        """See `EngineMetrics`."""
        r = self._engine.readings
        report = (*self._report(), (r.stages, r.memory_used, r.memory_total))
        if report != self._last:
            self._last = report
            self._tell(Message.REPORT, *report)

    def deliver(self, events: Sequence[Event]) -> None:
        """A turn's events, with the steps that made them."""
        steps, self._steps = self._steps, []
        self._tell(Message.TURN, *self._report(), steps, [pack_event(event) for event in events])

    def _report(self) -> tuple[float, tuple[int, ...]]:
        return self._engine.load, astuple(self._engine.books())

    def _tell(self, kind: Message, *values: object) -> None:
        try:
            write_all(self._pipe, frame((int(kind), *values)))
        except OSError:
            _end_at_once()


def _come_up(parent: int) -> None:
    """Makes the forked process one that nobody but its parent ends, and that ends with it."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # Ctrl-C goes to all processes of a terminal; the drain is not ours
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(SHOW_STACKS, file=sys.stderr)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked to be told
        _end_at_once()


def _end_at_once() -> NoReturn:
    os._exit(1)
