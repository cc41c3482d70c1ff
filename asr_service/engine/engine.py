"""The engine: one thread that owns a model and its slots, and steps the chunks that front ends send.

It knows slots, leases and chunks, and nothing of text: what a stream's audio and tokens mean, its front end knows.
Per stream it runs no Python at all: what has come over all links is read together, and a step's chunks and answers are
arrays (docs/decisions/0010).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from asr_service.core.errors import ModelUnavailable, SettingsError
from asr_service.core.model import Instrumented, ModelInfo, OutOfMemory, Readings, StreamingModel
from asr_service.engine.batch_limit import BatchLimit
from asr_service.engine.capacity_news import CapacityNews
from asr_service.engine.chunk_queue import ChunkQueue
from asr_service.engine.contract import EngineMetrics, EngineRecord, EngineSettings, EngineState
from asr_service.engine.engine_links import EngineLinks, Intake
from asr_service.engine.frames import LeaseRequest
from asr_service.engine.leasing import Leasing
from asr_service.engine.meter import Meter
from asr_service.engine.pacing import Pace
from asr_service.engine.sample_pool import SamplePool
from asr_service.engine.slot_scheduler import SlotScheduler
from asr_service.engine.slots import Slots
from asr_service.engine.stepping import Steps

log = logging.getLogger(__name__)

# How long a step with uploads in it should take at most, over a chunk's duration.
_UPLOAD_SHARE = 0.5


class Engine:
    """Steps all slots of one model, in the thread that calls `run`.

    Args:
        make_model: makes the model; called in the engine's thread, as the other callbacks are.
        settings: how slots are stepped.
        links: to the front ends.
        record: kept up to date with what the engine does.
        on_made: called with the description of the model and its pool, once there are such.
        on_watched: called where there is something to read at the descriptor that `links` watch too, and a few times a
            second.
        metrics: counts the steps.

    Attributes:
        failure: what ended the engine, None unless its state is FAILED.
        readings: what the model has measured of its own work; empty if it does not.
    """

    def __init__(
        self,
        make_model: Callable[[], StreamingModel],
        settings: EngineSettings,
        *,
        links: EngineLinks,
        record: EngineRecord,
        on_made: Callable[[ModelInfo, SamplePool], None],
        on_state: Callable[[EngineState], None] = lambda _: None,
        on_watched: Callable[[], None] = lambda: None,
        metrics: EngineMetrics | None = None,
    ) -> None:
        self._make_model = make_model
        self._settings = settings
        self._batch_limit = BatchLimit(settings.max_batch)
        self._links = links
        self._record = record
        self._on_made = on_made
        self._on_state = on_state
        self._on_watched = on_watched
        self._metrics = metrics
        self._pace = Pace(settings.tick_s)
        self.failure: BaseException | None = None
        self.readings = Readings()
        self._model: StreamingModel
        self._slots: Slots
        self._scheduler: SlotScheduler
        self._queue: ChunkQueue
        self._meter: Meter
        self._steps: Steps
        self._leasing: Leasing
        self._capacity_news = CapacityNews()
        self._was_idle = True
        # Whether `on_watched` is to be called although nothing may be there.
        self._is_watched_due = False
        self._stopping = False

    def stop(self) -> None:
        """Makes the engine end after the turn that goes on; to be called in its thread, or in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Makes the model and steps slots until the engine is stopped or fails; to be called once."""
        began = time.monotonic()
        self._set_state(EngineState.MAKING_MODEL)
        try:
            self._model = model = self._make_model()
            self._take_model(model)
            made = time.monotonic()
            self._set_state(EngineState.WARMING)
            self._warm_up()
            self._meter.start()
            self._take_readings()
            log.info(
                "ready: the model took %.1f s to make and %.1f s to warm up",
                made - began,
                time.monotonic() - made,
            )
            self._take_capacity()
            self._set_state(EngineState.RUNNING)
            while not self._stopping:
                self._wait()
                self._turn()
            self._set_state(EngineState.STOPPED)
        except BaseException as failure:
            self.failure = failure
            # The supervisor reports these in a sentence to the person who can act on them, without a traceback.
            if not isinstance(failure, SettingsError | ModelUnavailable):
                log.critical("the engine has failed", exc_info=failure)
            self._set_state(EngineState.FAILED)

    def _take_model(self, model: StreamingModel) -> None:
        info = model.info
        self._slots = Slots(model.slots)
        self._scheduler = SlotScheduler(
            model.slots,
            max_batch=self._batch_limit.rows,
            tick_s=self._settings.tick_s,
            upload_budget_s=_UPLOAD_SHARE * info.chunk_ms / 1000,
        )
        pool = SamplePool.new(
            model.slots, first_chunk_samples=info.first_chunk_samples, chunk_samples=info.chunk_samples
        )
        self._queue = ChunkQueue(pool, self._slots, self._scheduler)
        probe = self._settings.max_streams is None
        self._meter = Meter(model, self._slots, self._batch_limit.rows, probe=probe)
        self._steps = Steps(
            model,
            self._queue,
            self._scheduler,
            self._meter,
            self._links,
            self._record,
            tick_s=self._settings.tick_s,
            halve_batches=self._halve_batches,
            metrics=self._metrics,
        )
        self._leasing = Leasing(
            model,
            self._slots,
            self._queue,
            self._meter,
            self._links,
            self._record,
            max_load=self._settings.max_load,
            before_opening=self._make_slots_idle,
        )
        self._record.slots = model.slots
        self._record.batch_limit = self._batch_limit.rows
        self._record.limit = min(model.slots, self._settings.max_streams or model.slots)
        self._on_made(info, pool)

    def _warm_up(self) -> None:
        """Warms the model up for the largest batches that fit into memory."""
        while True:
            try:
                self._model.warm_up(self._batch_limit.rows, log.info)
            except (OutOfMemory, MemoryError):
                if self._batch_limit.rows == 1:
                    raise
                self._halve_batches(self._batch_limit.rows)
            else:
                return self._batch_limit.take_as_most()

    def _halve_batches(self, rows: int) -> None:
        """Makes batches half as large, since one of so many slots did not fit into memory."""
        if self._batch_limit.halve(rows, time.monotonic()):
            log.warning(
                "a batch of %d did not fit into memory: at most %d for now", rows, self._batch_limit.rows
            )
            self._limit_batches()

    def _limit_batches(self) -> None:
        rows = self._batch_limit.rows
        self._scheduler.max_batch = self._record.batch_limit = rows
        self._meter.limit_batches(rows)

    # --------------------------------------------------------------------------------------------------- its turns

    def _wait(self) -> None:
        """Sleeps until something comes, a batch or a probe is due or a second is over.

        It sleeps at least for the pause between turns, but not at all if a batch is due now.
        """
        now = time.monotonic()
        due_s = self._scheduler.wait(now)
        if due_s == 0 or self._steps.in_flight:
            return
        quiet_s = max(self._steps.quiet_until - now, self._scheduler.filling_s(now))
        if due_s is None and (due_s := self._meter.probe_wait(now, len(self._slots.leased))) == 0:
            return
        pause_s, until = self._pace.wait(now, due_s, quiet_s)
        if pause_s > 0:
            time.sleep(pause_s)
            if now + pause_s >= until:
                return
        self._links.wait(until - time.monotonic())

    def _turn(self) -> None:
        """Makes one turn: takes in what has come, makes a step if one is due, and answers it."""
        now = time.monotonic()
        self._record.beat = now
        self._pace.turn_begins(now)
        # What comes meanwhile waits for the next turn, so that steps are not starved.
        self._take_in()
        if (
            not self._steps.make(now)
            and not len(self._scheduler)
            and self._meter.probe_wait(now, len(self._slots.leased)) == 0
        ):
            self._probe(now)
        if self._meter.measure(now):
            self._take_readings()
            self._record.load = self._meter.load
            self._take_capacity()
            self._is_watched_due = True
            if self._batch_limit.grow(now):
                log.info("batches of %d are tried again", self._batch_limit.rows)
                self._limit_batches()
        self._tell_books()
        self._check_when_idle()

    def _take_readings(self) -> None:
        if isinstance(self._model, Instrumented):
            self.readings = self._model.readings()
            self._record.step_kind = self.readings.step_kind

    def _tell_books(self) -> None:
        self._record.leased = len(self._slots.leased)
        self._record.ready = len(self._scheduler)
        self._record.running = self._queue.running

    def _make_slots_idle(self) -> None:
        """Sees to it that no slot without a lease is in use: it may be in a step, or in one of a sweep."""
        while self._steps.in_flight:
            self._steps.collect()
        self._meter.stream_comes()

    def _check_when_idle(self) -> None:
        """Checks the books each time that the last slot has come back."""
        is_idle = not self._slots.leased
        if is_idle and not self._was_idle:
            self._queue.check()
        self._was_idle = is_idle

    def _take_capacity(self) -> None:
        capacity = self._meter.capacity
        if capacity is not None and capacity.streams != self._record.measured:
            self._record.limit = self._record.measured = capacity.streams
            self._capacity_news.take(capacity)

    # -------------------------------------------------------------------------------------------- what comes in

    def _take_in(self) -> None:
        """Takes in what has come over all links.

        Before a request is refused for want of room, everything is read once more: nobody is refused because of a
        stream that its client knows to be over.
        """
        requests = self._read_links(())
        while requests:
            if not self._leasing.has_room(requests[0][1]):
                requests = self._read_links(requests)
            if requests:
                self._leasing.answer(*requests.popleft())

    def _read_links(self, waiting: Iterable[tuple[int, LeaseRequest]]) -> deque[tuple[int, LeaseRequest]]:
        """Takes chunks in, then what is given back; returns the requests, which come last.

        Those of a front end that is gone are dropped: nobody would give back what it is given.
        """
        intake = self._links.read()
        self._book(intake)
        requests = deque(waiting)
        requests += intake.leases
        if not intake.closed:
            return requests
        return deque(request for request in requests if request[0] not in intake.closed)

    def _book(self, intake: Intake) -> None:
        self._queue.put(intake.chunks)
        for slot, lease in intake.releases:
            self._queue.close(slot, lease)
        for link in intake.closed:
            freed = self._queue.close_link(link)
            if freed:
                log.warning("a front end is gone: %d slots are free again", freed)
        if intake.is_watched_ready or self._is_watched_due:
            self._is_watched_due = False
            # Who asks for numbers is told of what has come up to now.
            self._tell_books()
            self._on_watched()

    def _probe(self, now: float) -> None:
        """Makes a step that no stream waits for; one that hangs would hold up streams too, so it is watched as well."""
        self._record.busy_since = now
        without_memory = self._meter.probe(now, len(self._slots.leased))
        self._record.busy_since = 0.0
        if without_memory:
            self._halve_batches(without_memory)

    def _set_state(self, state: EngineState) -> None:
        self._record.state = state
        self._record.beat = time.monotonic()
        self._on_state(state)
