"""The engine: one thread that owns a model, its slots and every stream that it steps.

Commands come in through its inbox and a turn's events go out through `deliver` in one call, all of them plain frozen
values. The engine has a process of its own (`process.py`), connected by pipes with the front end's side (`client.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from queue import Empty

from asr_service.core.commands import Command, Event, Open
from asr_service.core.errors import ModelUnavailable, SettingsError, Unavailable
from asr_service.core.model import DeviceLost, Instrumented, ModelInfo, OutOfMemory, Readings, StreamingModel
from asr_service.engine.capacity import Capacity
from asr_service.engine.contract import EngineMetrics, EngineSettings, EngineState, Inbox
from asr_service.engine.meter import Meter
from asr_service.engine.pacing import Pace
from asr_service.engine.scheduler import Scheduler
from asr_service.engine.slots import SlotCounts, Slots
from asr_service.engine.streams import Streams
from asr_service.recognition.states import Work
from asr_service.recognition.stream import Stream

log = logging.getLogger(__name__)

# How long a step with uploads in it should take at most, over a chunk's duration.
_UPLOAD_SHARE = 0.5


class Engine:
    """Steps all streams through one model, in the thread that calls `run`.

    Args:
        make_model: makes the model; called in the engine's thread, as the other callbacks are.
        settings: how streams are stepped.
        inbox: where commands come from; None as a command ends all streams with Unavailable, and the engine.
        deliver: takes a turn's events.
        metrics: counts the steps.

    Attributes:
        state: of the engine.
        failure: what ended the engine, None unless its state is FAILED.
        info: of the model, None until it is made.
        readings: what the model has measured of its own work; empty if it does not.
    """

    def __init__(
        self,
        make_model: Callable[[], StreamingModel],
        settings: EngineSettings,
        *,
        inbox: Inbox,
        deliver: Callable[[tuple[Event, ...]], None],
        metrics: EngineMetrics | None = None,
    ) -> None:
        self._make_model = make_model
        self._settings = settings
        # Is made smaller than the setting when memory runs out.
        self._max_batch = settings.max_batch
        self._deliver = deliver
        self._metrics = metrics
        self._pace = Pace(settings.tick_s)
        self._inbox = inbox
        self.state = EngineState.MAKING_MODEL
        self._state_callbacks: list[Callable[[EngineState], None]] = []
        self.failure: BaseException | None = None
        self.info: ModelInfo | None = None
        self.readings = Readings()
        self._model: StreamingModel
        self._scheduler: Scheduler
        self._meter: Meter
        self._slots = Slots(0)
        self._streams: Streams
        self._stopping = False

    @property
    def load(self) -> float:
        """How long live chunks take, over their duration; see `load.Load`."""
        return self._meter.load if self.info else 0.0

    @property
    def capacity(self) -> Capacity | None:
        """What the machine sustains; None before or without a probe."""
        return self._meter.capacity if self.info else None

    def on_state(self, callback: Callable[[EngineState], None]) -> None:
        """Calls back, in the engine's thread, at each change of state. To be set before `run`."""
        self._state_callbacks.append(callback)

    def slot_counts(self) -> SlotCounts:
        """Counts slots and streams as they are now, for metrics."""
        if self.info is None:
            return SlotCounts(self._slots.count, 0, self._slots.count, 0, 0, 0, self._max_batch)
        fresh, running = self._streams.count(Work.FRESH), self._streams.count(Work.RUNNING)
        leased, free, ready = len(self._slots.leased), len(self._slots.free), len(self._scheduler)
        return SlotCounts(self._slots.count, leased, free, fresh, running, ready, self._max_batch)

    def run(self) -> None:
        """Makes the model and steps streams until the engine is stopped or fails; to be called once."""
        try:
            self._model = model = self._make_model()
            self._slots = Slots(model.slots)
            budget_s = _UPLOAD_SHARE * model.info.chunk_ms / 1000
            self._scheduler = Scheduler(
                max_batch=self._max_batch, tick_s=self._settings.tick_s, upload_budget_s=budget_s
            )
            self._streams = Streams(
                model.info, self._slots, self._scheduler, self._settings.finalize_silence_ms
            )
            self._meter = Meter(model, self._slots, self._max_batch, probe=self._settings.probe)
            self.info = model.info
            self._set_state(EngineState.WARMING)
            self._warm_up()
            self._meter.start()
            self._set_state(EngineState.RUNNING)
            while not self._stopping:
                self._wait()
                self._turn()
            self._streams.end_all(Unavailable("the server is shutting down", retry_after_s=1.0))
            self._deliver(self._streams.take_events())
            self._set_state(EngineState.STOPPED)
        except BaseException as failure:
            self.failure = failure
            # The front end reports these in a sentence to the person who can act on them, without a traceback.
            if not isinstance(failure, SettingsError | ModelUnavailable):
                log.critical("the engine has failed", exc_info=failure)
            self._set_state(EngineState.FAILED)

    def _warm_up(self) -> None:
        """Warms the model up for the largest batches that fit into memory."""
        while True:
            try:
                return self._model.warm_up(self._max_batch, log.info)
            except (OutOfMemory, MemoryError):
                if self._max_batch == 1:
                    raise
                self._halve_batches(self._max_batch)

    def _halve_batches(self, rows: int) -> None:
        """Makes batches half as large from now on, since one of so many streams did not fit into memory."""
        self._max_batch = self._scheduler.max_batch = max(1, rows // 2)
        self._meter.limit_batches(self._max_batch)
        log.warning("a batch of %d did not fit into memory: at most %d from now on", rows, self._max_batch)

    def _wait(self) -> None:
        """Sleeps until a command comes, a batch or a probe is due or a second is over.

        It sleeps at least for the pause between turns, but not at all if a batch is due now.
        """
        now = time.monotonic()
        due_s = self._scheduler.wait(now)
        if due_s == 0:
            return
        # A batch that is more than half full may be full, and due, any moment.
        gathering = due_s is not None and 2 * len(self._scheduler) < self._max_batch
        if due_s is None and (due_s := self._meter.probe_wait(now, len(self._streams))) == 0:
            return
        pause_s, until = self._pace.wait(now, due_s, gathering=gathering)
        if pause_s > 0:
            time.sleep(pause_s)
        try:
            self._execute(*self._inbox.get(timeout=max(0.0, until - time.monotonic())))
        except Empty:
            pass

    def _turn(self) -> None:
        """Makes one turn: executes the commands that have come, makes a step if one is due, delivers the events."""
        now = time.monotonic()
        self._pace.turn_begins(now)
        # Commands that come meanwhile wait for the next turn, so that steps are not starved.
        for _ in range(self._inbox.qsize()):
            self._execute(*self._inbox.get_nowait())
        batch = [self._streams[stream] for stream in self._scheduler.take_batch(now)]
        if batch:
            self._step(batch, now)
        elif not len(self._scheduler) and self._meter.probe_wait(now, len(self._streams)) == 0:
            self._probe(now)
        if self._meter.measure(now):
            if isinstance(self._model, Instrumented):
                self.readings = self._model.readings()
            if self._metrics:
                self._metrics.load_measured()
        if events := self._streams.take_events():
            if not len(self._streams):
                self._slots.check()
            self._deliver(events)

    def _execute(self, now: float, command: Command | None) -> None:
        """Executes a command that came at `now`."""
        if command is None:
            self._stopping = True
            return
        if isinstance(command, Open):
            self._meter.stream_comes()
        self._streams.execute(now, command)

    def _step(self, batch: list[Stream], now: float) -> None:
        """Steps a batch. A step that raises ends its streams and no others; one that has lost its device raises."""
        requests = [stream.request() for stream in batch]
        waits_s = [max(0.0, now - (stream.ready_at or now)) for stream in batch]
        self._streams.consumed(batch)
        started = time.monotonic()
        if self._metrics:
            self._metrics.step_begins(started)
        try:
            answers = self._model.step(requests)
            if len(answers) != len(batch):
                raise RuntimeError(f"the model answered {len(answers)} of {len(batch)} requests")
        except Exception as error:
            if isinstance(error, OutOfMemory | MemoryError):
                self._halve_batches(len(batch))
            self._streams.fail(batch, error)
            if self._metrics:
                self._metrics.step_failed(len(batch))
            if isinstance(error, DeviceLost):
                # Nothing will work again in this process; its end makes way for another.
                raise
            return
        ended = time.monotonic()
        seconds = ended - started
        live = [now - stream.ready_at for stream in batch if stream.ready_at and stream.ready_at <= now]
        self._meter.step(ended, len(batch), seconds, live)
        self._scheduler.add_step_time(len(batch), seconds)
        self._streams.answer(batch, answers, ended)
        if self._metrics:
            samples = sum(len(request.samples) for request in requests)
            self._metrics.step(
                seconds=seconds, audio_s=samples / self._model.info.sample_rate, waits_s=waits_s
            )

    def _probe(self, now: float) -> None:
        """Makes a step that no stream waits for; one that hangs would hold up streams too, so it is watched as well."""
        if self._metrics:
            self._metrics.step_begins(now)
        without_memory = self._meter.probe(now, len(self._streams))
        if without_memory > 1:
            self._halve_batches(without_memory)
        if self._metrics:
            self._metrics.probe_over()

    def _set_state(self, state: EngineState) -> None:
        self.state = state
        for callback in self._state_callbacks:
            callback(state)
