"""The engine: one thread that owns the model, its slots and every stream.

Two hand-overs connect it with the event loop, both of plain frozen values: commands come in through its inbox, a turn's
events go out through `deliver` in one call. Pipes lie between, since it has a process of its own (`engine_process.py`
is the event loop's side, `engine_child.py` the engine's).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from enum import Enum
from queue import Empty
from typing import Protocol

from asr_service.core.commands import (
    Audio,
    Cancel,
    Command,
    Ended,
    Event,
    Finalize,
    HalfClose,
    Open,
    TimedCommand,
)
from asr_service.core.errors import (
    AsrError,
    AtCapacity,
    ClientError,
    InternalError,
    SettingsError,
    Unavailable,
)
from asr_service.core.model import Instrumented, ModelInfo, OutOfMemory, Readings, StreamingModel
from asr_service.core.values import Result
from asr_service.engine.capacity import Load, Probe, probe_model
from asr_service.engine.scheduler import Scheduler
from asr_service.engine.slots import Books, Slots
from asr_service.recognition.stream import Stream, Work
from asr_service.recognition.transcript import Vocabulary

log = logging.getLogger(__name__)

_PAUSE_S = 0.002  # between turns without a step: waking up costs more than taking a command
_GATHER_PAUSE_S = 0.005  # the same while a batch is being gathered, which a stream joins now or then
_IDLE_TURN_S = 1.0  # longest sleep: the load and the model's readings follow while nothing happens, too
_WEIGH_S = 0.25  # how often the load is worked out
_UPLOAD_SHARE = 0.5  # of a chunk's duration: how long a step with uploads in it should take at most


class EngineState(Enum):
    """Where the engine is in its life."""

    LOADING = "loading"
    WARMING = "warming"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"


class EngineMetrics(Protocol):
    """What the engine tells about its work, in its thread; calls must be quick and must not raise."""

    def step_begins(self, at: float) -> None:
        """A step begins at this monotonic time; it is over once `step` or `step_failed` is called."""
        ...

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        """A step was made.

        Args:
            seconds: that the model took.
            audio_s: seconds of audio in it, over all its streams.
            waits_s: for each stream, seconds from when its chunk was due until the step began; 0 for uploads.
        """
        ...

    def step_failed(self, streams: int) -> None:
        """A step raised; so many streams were ended."""
        ...

    def weighed(self) -> None:
        """The engine's `load` and `readings` are those of now: four times a second, once while it is idle."""
        ...


class Inbox(Protocol):
    """Where the engine takes commands from; a queue of `TimedCommand`."""

    def qsize(self) -> int:
        """Commands that are there."""
        ...

    def get_nowait(self) -> TimedCommand:
        """The next one; only called while `qsize` said that it is there."""
        ...

    def get(self, *, timeout: float) -> TimedCommand:
        """The next one. Raises queue.Empty if there is none for so many seconds."""
        ...


class Engine:
    """Steps all streams through one model, in the thread that calls `run`.

    Args:
        load: makes the model; called by `run`, as all else is.
        inbox: where commands come from; None as a command ends all streams with Unavailable, and the engine.
        max_batch: most streams in a step.
        tick_s: for how long ready streams are gathered; see `Scheduler`.
        deliver: takes a turn's events.
        metrics: told about each step.
        probe: whether to measure, once warm, how many streams the machine sustains.
        finalize_silence_ms: see `Stream`.

    Attributes:
        state: where the engine is in its life.
        failure: what ended the engine, None unless its state is FAILED.
        info: of the model, None until it is loaded.
        load: moving p95 of the time that live chunks take, over their duration; see `capacity.Load`.
        measured: what the probe found, None before or without it.
        readings: what the model measures of itself, if it does.
    """

    def __init__(
        self,
        load: Callable[[], StreamingModel],
        *,
        inbox: Inbox,
        max_batch: int,
        tick_s: float,
        deliver: Callable[[tuple[Event, ...]], None],
        metrics: EngineMetrics | None = None,
        probe: bool = False,
        finalize_silence_ms: int = 0,
    ) -> None:
        self._load = load
        self._probe = probe
        self._finalize_silence_ms = finalize_silence_ms
        self._max_batch = max_batch
        self._tick_s = tick_s
        self._deliver = deliver
        self._metrics = metrics
        # None with a tick of 0: steps as soon as one is ready.
        self._pause_s, self._gather_pause_s = min(_PAUSE_S, tick_s), min(_GATHER_PAUSE_S, tick_s)
        self._inbox = inbox
        self.state = EngineState.LOADING
        self._watchers: list[Callable[[EngineState], None]] = []
        self.failure: BaseException | None = None
        self.info: ModelInfo | None = None
        self.load = 0.0
        self.measured: Probe | None = None
        self.readings = Readings()
        self._model: StreamingModel
        self._vocabulary: Vocabulary
        self._scheduler: Scheduler
        self._slots = Slots(0)
        self._streams: dict[int, Stream] = {}
        self._events: list[Event] = []
        self._stopping = False
        self._meter = Load()
        self._weighed = 0.0  # when the load was last worked out
        self._turned = 0.0  # when the last turn began

    def on_state(self, callback: Callable[[EngineState], None]) -> None:
        """Calls back, in the engine's thread, at each change of state. To be set before `run`."""
        self._watchers.append(callback)

    def books(self) -> Books:
        """A snapshot for metrics."""
        states = [stream.work for stream in list(self._streams.values())]
        fresh, running = states.count(Work.FRESH), states.count(Work.RUNNING)
        ready = len(self._scheduler) if self.info else 0
        leased, free = len(self._slots.leased), len(self._slots.free)
        return Books(self._slots.count, leased, free, fresh, running, ready, self._max_batch)

    def run(self) -> None:
        """The engine's life, from loading to its end; to be called once."""
        try:
            self._model = model = self._load()
            self._slots = Slots(model.slots)
            self._vocabulary = Vocabulary(model.info.pieces)
            budget_s = _UPLOAD_SHARE * model.info.chunk_ms / 1000
            self._scheduler = Scheduler(
                max_batch=self._max_batch, tick_s=self._tick_s, upload_budget_s=budget_s
            )
            self.info = model.info
            self._enter(EngineState.WARMING)
            self._warm_up()
            if self._probe:
                self.measured = probe_model(model, self._max_batch)
            self._enter(EngineState.RUNNING)
            while not self._stopping:
                self._wait()
                self._turn()
            self._end_all()
            self._enter(EngineState.STOPPED)
        except BaseException as failure:
            self.failure = failure
            if not isinstance(failure, SettingsError):  # those are told to the person, without a traceback
                log.critical("the engine has failed", exc_info=failure)
            self._enter(EngineState.FAILED)

    def _warm_up(self) -> None:
        """Warms the model up for the largest batches that fit into memory."""
        while True:
            try:
                return self._model.warm_up(self._max_batch, log.info)
            except (OutOfMemory, MemoryError):
                if self._max_batch == 1:
                    raise
                self._smaller_batches(self._max_batch)

    def _smaller_batches(self, rows: int) -> None:
        """A batch of so many streams did not fit into memory: batches are half as large from now on."""
        self._max_batch = self._scheduler.max_batch = max(1, rows // 2)
        log.warning("a batch of %d did not fit into memory: at most %d from now on", rows, self._max_batch)

    def _wait(self) -> None:
        """Sleeps until a command comes, a gathered batch is due, or a second is over; a moment at least."""
        now = time.monotonic()
        due_s = self._scheduler.wait(now)
        if due_s == 0:
            return
        until = now + (_IDLE_TURN_S if due_s is None else min(due_s, _IDLE_TURN_S))
        # A batch that is more than half full may be full, and due, any moment.
        gathering = due_s is not None and 2 * len(self._scheduler) < self._max_batch
        pause_s = self._gather_pause_s if gathering else self._pause_s
        pause_s = min(self._turned + pause_s, until) - now
        if pause_s > 0:
            time.sleep(pause_s)
        try:
            self._take(*self._inbox.get(timeout=max(0.0, until - time.monotonic())))
        except Empty:
            pass

    def _turn(self) -> None:
        """One turn: take in what came, decide, step, give out."""
        self._turned = now = time.monotonic()
        for _ in range(self._inbox.qsize()):  # what comes meanwhile waits a turn: steps are not starved
            self._take(*self._inbox.get_nowait())
        batch = [self._streams[stream] for stream in self._scheduler.take(now)]
        if batch:
            self._step(batch, now)
        if now - self._weighed > _WEIGH_S:
            self._weighed, self.load = now, self._meter.value(now)
            if isinstance(self._model, Instrumented):
                self.readings = self._model.readings()
            if self._metrics:
                self._metrics.weighed()
        if self._events:
            if not self._streams:
                self._slots.check()
            events, self._events = tuple(self._events), []
            self._deliver(events)

    def _take(self, now: float, command: Command | None) -> None:
        """Carries out a command that came now. Streams that are gone are ignored: it was on its way when they ended."""
        if command is None:
            self._stopping = True
            return
        if isinstance(command, Open):
            self._open(command, now)
            return
        stream = self._streams.get(command.stream)
        if stream is None:
            return
        waiting = stream.ready_at is None
        try:
            results: list[Result] = []
            match command:
                case Audio(data=data):
                    stream.audio(data, now)
                case Finalize(tag=tag):
                    results = stream.finalize(tag, now, _unix_ms())
                case HalfClose():
                    results = stream.half_close(now, _unix_ms())
                case Cancel():
                    stream.cancel()
            self._follow(stream, results, was_waiting=waiting)
        except ClientError as error:
            self._end(stream, error)
        except Exception as error:
            self._fail([stream], error)

    def _open(self, command: Open, now: float) -> None:
        slot = self._slots.lease()
        if slot is None:
            self._events.append(Ended(command.stream, AtCapacity("all streams are taken", retry_after_s=1.0)))
            return
        try:
            stream = Stream(
                command.stream, command.config, self._model.info, self._vocabulary, slot, now,
                self._finalize_silence_ms,
            )  # fmt: skip
        except Exception as error:
            self._slots.give_back(slot)
            self._events.append(Ended(command.stream, _our_fault(error, 1)))
            return
        self._streams[command.stream] = stream
        self._events.append(stream.take_consumed())

    def _step(self, batch: list[Stream], now: float) -> None:
        """Steps a batch. A step that raises ends its streams and no others."""
        requests = [stream.request() for stream in batch]
        waits_s = [max(0.0, now - (stream.ready_at or now)) for stream in batch]
        self._events += [stream.take_consumed() for stream in batch]
        started = time.monotonic()
        if self._metrics:
            self._metrics.step_begins(started)
        try:
            answers = self._model.step(requests)
            if len(answers) != len(batch):
                raise RuntimeError(f"the model answered {len(answers)} of {len(batch)} requests")
        except Exception as error:
            if isinstance(error, OutOfMemory | MemoryError):
                self._smaller_batches(len(batch))
            self._fail(batch, error)
            if self._metrics:
                self._metrics.step_failed(len(batch))
            return
        ended = time.monotonic()
        seconds = ended - started
        live = [now - stream.ready_at for stream in batch if stream.ready_at and stream.ready_at <= now]
        if live:
            self._meter.add(ended, 1000 * (max(live) + seconds) / self._model.info.chunk_ms)
        self._scheduler.stepped(len(batch), seconds)
        unix_ms = _unix_ms()
        broken = [stream for stream, answer in zip(batch, answers, strict=True) if answer.broken]
        if broken:
            self._fail(broken, FloatingPointError("the model's output is not finite"))
        for stream, answer in zip(batch, answers, strict=True):
            if answer.broken:
                continue
            try:
                self._follow(stream, stream.answer(answer, ended, unix_ms), was_waiting=True)
            except Exception as error:
                self._fail([stream], error)
        if self._metrics:
            samples = sum(len(request.samples) for request in requests)
            self._metrics.step(
                seconds=seconds, audio_s=samples / self._model.info.sample_rate, waits_s=waits_s
            )

    def _follow(self, stream: Stream, results: list[Result], *, was_waiting: bool) -> None:
        """What a command or a step did to a stream: results to tell, a chunk to schedule, or the end."""
        self._events += results
        if stream.work is Work.ENDED:
            self._end(stream, None)
        elif was_waiting and stream.ready_at is not None:
            self._scheduler.add(stream.id, stream.ready_at)

    def _fail(self, streams: list[Stream], error: Exception) -> None:
        """Ends these streams by our own fault."""
        told = _our_fault(error, len(streams))
        for stream in streams:
            self._end(stream, InternalError(request_id=told.request_id))

    def _end(self, stream: Stream, error: AsrError | None) -> None:
        """Gives the slot back and tells so; after this the id means nothing."""
        self._scheduler.remove(stream.id)
        del self._streams[stream.id]
        self._slots.give_back(stream.slot)
        self._events.append(Ended(stream.id, error))

    def _end_all(self) -> None:
        for stream in list(self._streams.values()):
            self._end(stream, Unavailable("the server is shutting down", retry_after_s=1.0))
        self._deliver(tuple(self._events))

    def _enter(self, state: EngineState) -> None:
        self.state = state
        for watcher in self._watchers:
            watcher(state)


def _our_fault(error: Exception, streams: int) -> InternalError:
    """What clients are told of a bug: a request id, which the log has with the traceback."""
    told = InternalError()
    log.error("request %s: %d streams ended by an internal error", told.request_id, streams, exc_info=error)
    return told


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
