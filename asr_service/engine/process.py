"""The engine's process, from the fork to its end; `client.py` is the other side."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, NoReturn

from asr_common.child_process import end_with_parent
from asr_service.core.commands import Event
from asr_service.core.errors import ModelUnavailable, SettingsError
from asr_service.core.model import StreamingModel
from asr_service.engine.contract import EngineSettings, EngineState
from asr_service.engine.engine import Engine
from asr_service.engine.ipc import CommandPipe, MessageKind, pack_event, pack_message, write_all

log = logging.getLogger(__name__)

SHOW_STACKS = signal.SIGUSR1
"""The signal that makes the process print to stderr what its threads do."""


def run_process(
    make_model: Callable[[], StreamingModel],
    settings: EngineSettings,
    *,
    commands: int,
    events: int,
    parent: int,
) -> NoReturn:
    """Runs an engine in the process that was just forked, and ends the process with it.

    Args:
        make_model, settings: see `Engine`.
        commands: descriptor to read commands from.
        events: descriptor to write events to.
        parent: process id of the front end.
    """
    code = 1
    try:
        _bind_to_parent(parent)
        reporter = Reporter(events)
        inbox = CommandPipe(commands, _end_at_once)
        engine = Engine(make_model, settings, inbox=inbox, deliver=reporter.deliver, metrics=reporter)
        reporter.attach(engine)
        engine.run()
        code = 0
    except BaseException:
        log.critical("the engine's process has failed", exc_info=True)
    finally:
        logging.shutdown()
        os._exit(code)


class Reporter:
    """Reports to the front end what the engine does. Writing waits while the pipe is full."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._engine: Engine
        # Of this turn: a step's duration, its seconds of audio, its streams' waits, and how many streams it has ended
        # by failing.
        self._steps: list[tuple[float, float, tuple[float, ...], int]] = []
        self._last_report: tuple[Any, ...] = ()

    def attach(self, engine: Engine) -> None:
        """Takes the engine that is reported on. To be called once, before the engine runs."""
        self._engine = engine
        engine.on_state(self._on_state)

    def _on_state(self, state: EngineState) -> None:
        engine, failure = self._engine, self._engine.failure
        # Some types of errors cannot be pickled.
        if failure is not None and not isinstance(failure, SettingsError | ModelUnavailable):
            failure = RuntimeError(f"{type(failure).__name__}: {failure}")
        self._send(MessageKind.STATE, pickle.dumps((state, engine.info, engine.capacity, failure)))
        self.load_measured()

    def step_begins(self, at: float) -> None:
        """See `EngineMetrics`."""
        self._send(MessageKind.STEP_BEGINS, at)

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        """See `EngineMetrics`."""
        self._steps.append((seconds, audio_s, tuple(waits_s), 0))

    def step_failed(self, streams: int) -> None:
        """See `EngineMetrics`."""
        self._steps.append((0.0, 0.0, (), streams))

    def probe_over(self) -> None:
        """See `EngineMetrics`."""
        self._send(MessageKind.STEP_BEGINS, None)

    def load_measured(self) -> None:
        """See `EngineMetrics`."""
        readings, capacity = self._engine.readings, self._engine.capacity
        packed = (readings.stages, readings.memory_used, readings.memory_total)
        held = capacity and (capacity.streams, capacity.timings, capacity.enough)
        report = (*self._load_and_counts(), packed, held)
        if report != self._last_report:
            self._last_report = report
            self._send(MessageKind.REPORT, *report)

    def deliver(self, events: Sequence[Event]) -> None:
        """Sends a turn's events, with the steps that made them."""
        steps, self._steps = self._steps, []
        self._send(MessageKind.TURN, *self._load_and_counts(), steps, [pack_event(event) for event in events])

    def _load_and_counts(self) -> tuple[float, tuple[int, ...]]:
        return self._engine.load, astuple(self._engine.slot_counts())

    def _send(self, kind: MessageKind, *values: object) -> None:
        try:
            write_all(self._pipe, pack_message((int(kind), *values)))
        except OSError:
            _end_at_once()


def _bind_to_parent(parent: int) -> None:
    """Lets nobody but its parent end the forked process, and has it end with its parent."""
    # Ctrl-C goes to all processes of a terminal; the drain is the parent's.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(SHOW_STACKS, file=sys.stderr)
    end_with_parent(parent)


def _end_at_once() -> NoReturn:
    os._exit(1)
