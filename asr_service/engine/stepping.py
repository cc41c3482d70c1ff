"""Makes the steps of an engine: begins them, answers them, and ends the streams of those that fail."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr_service.core.errors import InternalError
from asr_service.core.model import DeviceLost, OutOfMemory, StreamingModel
from asr_service.core.step import StepAnswers
from asr_service.engine.answering import send_answers, send_failure
from asr_service.engine.chunk_queue import ChunkQueue
from asr_service.engine.contract import EngineMetrics, EngineRecord
from asr_service.engine.engine_links import EngineLinks
from asr_service.engine.meter import Meter
from asr_service.engine.slot_scheduler import Indices, SlotScheduler

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Step:
    """A step that was begun.

    Attributes:
        slots, links, leases: of its chunks, those of one link together.
        waits_s: seconds from when each chunk was due until the step began; negative for uploads.
        samples: in all its chunks.
        started: monotonic time.
    """

    slots: Indices
    links: npt.NDArray[np.int16]
    leases: npt.NDArray[np.uint32]
    waits_s: npt.NDArray[np.float64]
    samples: int
    started: float


class Steps:
    """Steps the chunks of a queue as a scheduler says. For the engine's thread.

    Args:
        model: warm.
        queue: of the chunks.
        scheduler: says which slots are stepped.
        meter: told how long steps take.
        links: to the front ends, which are answered.
        record: kept up to date with when a step began.
        tick_s: for how long live slots are gathered.
        halve_batches: called with the size of a batch that did not fit into memory.
        metrics: counts the steps.

    Attributes:
        in_flight: steps that were begun and are not answered, the oldest first.
        quiet_until: monotonic time until which no step can be due: the last one had live chunks alone, and batches are
            far from full.
    """

    def __init__(
        self,
        model: StreamingModel,
        queue: ChunkQueue,
        scheduler: SlotScheduler,
        meter: Meter,
        links: EngineLinks,
        record: EngineRecord,
        *,
        tick_s: float,
        halve_batches: Callable[[int], None],
        metrics: EngineMetrics | None,
    ) -> None:
        self.in_flight: deque[_Step] = deque()
        self.quiet_until = 0.0
        self._model = model
        self._queue = queue
        self._scheduler = scheduler
        self._meter = meter
        self._links = links
        self._record = record
        self._tick_s = tick_s
        self._halve_batches = halve_batches
        self._metrics = metrics
        self._last_ended = 0.0

    def make(self, now: float) -> bool:
        """Begins a step if one is due, and answers one that is in flight; returns whether it did either.

        Where the model takes a second batch while a device works on the first, that one is answered once the second has
        begun, or if there is none.
        """
        in_flight = self.in_flight
        slots = self._scheduler.take_batch(now)
        if len(slots):
            self._begin(slots, now)
        elif not in_flight:
            return False
        if in_flight and (not len(slots) or len(in_flight) >= self._model.most_submitted):
            self.collect()
        return True

    def _begin(self, slots: Indices, now: float) -> None:
        """Begins the step of a batch. One that raises ends its streams and no others."""
        queue = self._queue
        links = queue.links(slots)
        if len(self._links) > 1:
            # The answers to one front end lie together.
            order = np.argsort(links, kind="stable")
            slots, links = slots[order], links[order]
        batch, waits_s = queue.batch(slots), now - queue.due(slots)
        started = time.monotonic()
        step = _Step(slots, links, queue.leases(slots), waits_s, int(batch.counts.sum()), started)
        if not self.in_flight:
            self._record.busy_since = started
        try:
            self._model.submit(batch)
        except Exception as error:
            self._fail(step, error)
            return
        self.in_flight.append(step)
        is_live = bool(waits_s.min() >= 0)
        is_small = 2 * len(slots) < self._scheduler.max_batch
        self.quiet_until = now + self._tick_s if is_live and is_small else 0.0

    def collect(self) -> None:
        """Waits for the oldest step that is in flight, and answers its chunks."""
        step = self.in_flight.popleft()
        try:
            answers = self._model.collect()
            answers.check(len(step.slots))
        except Exception as error:
            self._fail(step, error)
            return
        ended = time.monotonic()
        self._record.busy_since = self.in_flight[0].started if self.in_flight else 0.0
        slots, leases = step.slots, step.leases
        send_answers(self._links, step.links, slots, leases, answers, step.started, ended)
        self._queue.stepped(slots, leases, ended)
        if answers.broken.any():
            log.error("%d streams are ended: the model's output is not finite", int(answers.broken.sum()))
            self._queue.kill(slots[answers.broken], leases[answers.broken])
        # A step that was begun while another was made has taken the time since that one's end.
        seconds = ended - max(step.started, self._last_ended)
        self._last_ended = ended
        self._count(answers, step.samples, step.waits_s, seconds, ended)

    def _count(
        self,
        answers: StepAnswers,
        samples: int,
        waits_s: npt.NDArray[np.float64],
        seconds: float,
        ended: float,
    ) -> None:
        """Counts a step; chunks that were due later than it began are uploads."""
        live = waits_s >= 0
        longest_s = float(waits_s.max(initial=0.0))
        self._meter.step(ended, len(answers), seconds, int(np.count_nonzero(live)), longest_s)
        self._scheduler.add_step_time(len(answers), seconds)
        if self._metrics:
            rate = self._model.info.sample_rate
            self._metrics.step(
                seconds=seconds, audio_s=float(samples) / rate, waits_s=np.maximum(0.0, waits_s)
            )

    def _fail(self, step: _Step, error: Exception) -> None:
        """Ends the streams of a batch, since its step has failed; raises the error again if the device is lost."""
        slots, leases = step.slots, step.leases
        self._record.busy_since = self.in_flight[0].started if self.in_flight else 0.0
        if isinstance(error, OutOfMemory | MemoryError):
            self._halve_batches(len(slots))
        bug = InternalError()
        log.error(
            "request %s: %d streams ended by an internal error", bug.request_id, len(slots), exc_info=error
        )
        send_failure(self._links, step.links, slots, leases, bug.request_id)
        self._queue.kill(slots, leases)
        if self._metrics:
            self._metrics.step_failed(len(slots))
        if isinstance(error, DeviceLost):
            # Nothing will work again in this process; its end makes way for another.
            raise error
