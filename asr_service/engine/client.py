"""Starts an engine's process, sends it commands and receives its events: the front end's side of an engine.

In one process the two would take turns at the interpreter: a step is hundreds of short operations, each of which would
wait while a packet is handled, and the packets behind it would wait for the step. Apart, they are connected by two
pipes (`ipc.py`). A process of its own also confines what goes wrong in native code: a crash is found and reported like
an engine that fails.

The engine's process is forked before anything else runs, so that it has the settings and the log as they are; it alone
imports torch. It takes no signals from a terminal and never outlives the process of the front end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asr_service.core.commands import Command, Event
from asr_service.core.model import ModelInfo, Readings, StreamingModel
from asr_service.engine.capacity import Capacity
from asr_service.engine.contract import EngineSettings, EngineState
from asr_service.engine.ipc import (
    MessageKind,
    MessageReader,
    new_pipe,
    pack_command,
    pack_message,
    read_some,
    unpack_event,
)
from asr_service.engine.process import SHOW_STACKS, run_process
from asr_service.engine.slots import SlotCounts

log = logging.getLogger(__name__)

# Commands go out together: a system call for each packet of many streams is felt.
_GATHER_S = 0.001
_OVER = (EngineState.FAILED, EngineState.STOPPED)


class StepMetrics(Protocol):
    """Takes what an engine reports of its work, on the event loop; as in `EngineMetrics`."""

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        """See `EngineMetrics.step`."""
        ...

    def step_failed(self, streams: int) -> None:
        """See `EngineMetrics.step_failed`."""
        ...


class EngineClient:
    """Starts an engine's process, sends it commands and delivers its events.

    Its methods are for the event loop's thread; its attributes may be read from any.

    Args:
        make_model: makes the model; called in the engine's process.
        settings: how the engine steps its streams.

    Attributes:
        pid: of the process.
        forked_at: monotonic time at which it was started.
        state: of the engine.
        failure: what ended the engine, None unless its state is FAILED.
        info: of the model, None until it is made.
        busy_since: monotonic time at which the step now running began, None between steps.
        load, capacity, readings: see `Engine`; at most a second old.
        slot_counts: see `Engine.slot_counts`; at most a second old too.
    """

    def __init__(
        self,
        make_model: Callable[[], StreamingModel],
        settings: EngineSettings,
    ) -> None:
        self._deliver: Callable[[Sequence[Event]], None]
        self._metrics: StepMetrics
        self._state_callbacks: list[Callable[[EngineState], None]] = []
        self._capacity_callback: Callable[[Capacity], None] | None = None
        self.state = EngineState.MAKING_MODEL
        self.failure: BaseException | None = None
        self.info: ModelInfo | None = None
        self.busy_since: float | None = None
        self.load = 0.0
        self.capacity: Capacity | None = None
        self.readings = Readings()
        self.slot_counts = SlotCounts(0, 0, 0, 0, 0, 0, settings.max_batch)
        self._loop: asyncio.AbstractEventLoop
        self._gather_s = min(_GATHER_S, settings.tick_s)
        self._messages = MessageReader()
        # Commands that are being gathered, and bytes that the pipe had no room for.
        self._packed: list[tuple[Any, ...]] = []
        self._unsent = bytearray()
        # Whether the process has been waited for; the pid may be another process's from then on.
        self._reaped = False
        commands_out, self._commands = new_pipe()
        self._events, events_in = new_pipe()
        # Both processes would write what is still in the buffers.
        for output in (sys.stdout, sys.stderr):
            output.flush()
        parent = os.getpid()
        self.forked_at = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._commands)
            os.close(self._events)
            run_process(make_model, settings, commands=commands_out, events=events_in, parent=parent)
        os.close(commands_out)
        os.close(events_in)

    def connect(self, deliver: Callable[[Sequence[Event]], None], metrics: StepMetrics) -> None:
        """Says who takes what the engine reports. To be called before `start`.

        Args:
            deliver: takes a turn's events; called on the event loop.
            metrics: counts the steps, on the event loop.
        """
        self._deliver, self._metrics = deliver, metrics

    # ---------------------------------------------------------------------------------------------- to the engine

    def start(self) -> None:
        """Begins to exchange messages with the process; the event loop has to run."""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(self._events, False)
        os.set_blocking(self._commands, False)
        self._loop.add_reader(self._events, self._read)

    def on_state(self, callback: Callable[[EngineState], None]) -> None:
        """Calls back, on the event loop, at each change of state. To be set before `start`."""
        self._state_callbacks.append(callback)

    def on_capacity(self, callback: Callable[[Capacity], None]) -> None:
        """Calls back, on the event loop, each time that `capacity` changes while the engine runs.

        To be set before `start`.
        """
        self._capacity_callback = callback

    def submit(self, command: Command) -> None:
        """Hands a command over; never blocks. Ignored once the engine has failed or stopped."""
        if self.state in _OVER:
            return
        if not self._packed:
            self._loop.call_later(self._gather_s, self._send)
        self._packed.append(pack_command(time.monotonic(), command))

    def _send(self) -> None:
        """Sends the commands that were gathered."""
        data, self._packed = pack_message(self._packed), []
        if self._unsent:
            self._unsent += data
            return
        sent = self._write(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._commands, self._send_rest)

    def _send_rest(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._commands)

    def _write(self, data: bytes | bytearray) -> int:
        """Writes to the pipe and returns how many bytes it took.

        All count as taken if nobody reads any more, which `_read` finds too.
        """
        try:
            return os.write(self._commands, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)

    def show_stacks(self) -> None:
        """Makes the process print to stderr what its threads do."""
        if not self._reaped:
            os.kill(self.pid, SHOW_STACKS)

    def stop(self, timeout_s: float) -> None:
        """Stops the engine after its current step, and ends its process in so many seconds at the latest.

        An engine that is still making its model has nothing to finish and is ended at once.
        """
        if self.state is EngineState.RUNNING:
            self._unsent += pack_message([*self._packed, pack_command(time.monotonic(), None)])
            until = time.monotonic() + timeout_s
            os.set_blocking(self._events, True)
            while (left := until - time.monotonic()) > 0:
                del self._unsent[: self._write(self._unsent)]
                ready, _, _ = select.select(
                    [self._events], [self._commands] if self._unsent else [], [], left
                )
                if ready and not read_some(self._events):
                    break
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()
        if self.state not in _OVER:
            self.state = EngineState.STOPPED

    # -------------------------------------------------------------------------------------------- from the engine

    def _read(self) -> None:
        """Reads what has come from the engine.

        Each message is handled in a callback of its own: one that raises does not hold up the next.
        """
        try:
            data = read_some(self._events)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._events)
            self._loop.call_soon(self._on_pipe_closed)
            return
        for kind, *values in self._messages.feed(data):
            self._loop.call_soon(self._on_message, kind, values)

    def _on_message(self, kind: int, values: list[Any]) -> None:
        if kind == MessageKind.STEP_BEGINS:
            self.busy_since = values[0]
            return
        if kind == MessageKind.STATE:
            state, self.info, self.capacity, self.failure = pickle.loads(values[0])
            self._set_state(state)
            return
        self.load, counts, *rest = values
        self.slot_counts = SlotCounts(*counts)
        if kind == MessageKind.REPORT:
            readings, capacity = rest
            self.readings = Readings(*readings)
            self._take_capacity(capacity and Capacity(*capacity))
        else:
            self.busy_since = None
            steps, events = rest
            for seconds, audio_s, waits_s, failed in steps:
                if failed:
                    self._metrics.step_failed(failed)
                else:
                    self._metrics.step(seconds=seconds, audio_s=audio_s, waits_s=waits_s)
            self._deliver([unpack_event(event) for event in events])

    def _take_capacity(self, capacity: Capacity | None) -> None:
        if capacity != self.capacity:
            self.capacity = capacity
            if capacity and self._capacity_callback:
                self._capacity_callback(capacity)

    def _on_pipe_closed(self) -> None:
        """Finds out how the process ended; one that was to end has sent its last state before."""
        code = self._reap()
        if self.state in _OVER:
            return
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        self.failure = RuntimeError(f"the engine's process has ended {how}")
        log.critical("%s", self.failure)
        self._set_state(EngineState.FAILED)

    def _reap(self) -> int:
        """Waits for the process's end; returns its exit code, or minus the number of the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self._reaped = True
        return os.waitstatus_to_exitcode(status)

    def _set_state(self, state: EngineState) -> None:
        self.state = state
        if state in _OVER:
            self.busy_since = None
        for callback in self._state_callbacks:
            callback(state)
