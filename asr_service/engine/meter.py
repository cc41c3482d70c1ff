"""Measures, for an engine, its load and how many streams the machine sustains."""

from __future__ import annotations

import logging
import time

from asr_service.core.model import DeviceLost, OutOfMemory, StreamingModel
from asr_service.engine.capacity import Capacity, Estimate
from asr_service.engine.load import Load
from asr_service.engine.probing import Prober
from asr_service.engine.slots import Slots

log = logging.getLogger(__name__)

# Time between two measurements of the load.
_PERIOD_S = 0.25


class Meter:
    """Takes the steps that an engine makes and tells what they say of the machine.

    Args:
        model: warm.
        slots: of the engine.
        max_batch: most streams in a step.
        probe: whether to find out how many streams the machine sustains.

    Attributes:
        load: how long live chunks take, over their duration; see `Load`.
        capacity: what the machine sustains, None without a probe.
    """

    def __init__(self, model: StreamingModel, slots: Slots, max_batch: int, *, probe: bool) -> None:
        self.load = 0.0
        self.capacity: Capacity | None = None
        self._chunk_s = model.info.chunk_ms / 1000
        self._load = Load()
        self._estimate: Estimate | None = None
        self._prober: Prober | None = None
        if probe:
            self._estimate = Estimate(chunk_s=self._chunk_s, slots=slots.count, max_batch=max_batch)
            self._prober = Prober(model, slots, self._estimate)
        # Monotonic time at which it was measured last.
        self._measured_at = 0.0

    def start(self) -> None:
        """Probes for a moment; raises what the model raises."""
        if self._prober and self._estimate:
            self._prober.start(time.monotonic())
            self.capacity = self._estimate.capacity(time.monotonic())

    def limit_batches(self, max_batch: int) -> None:
        """Takes that batches are no larger from now on."""
        if self._estimate:
            self._estimate.max_batch = max_batch

    def stream_comes(self) -> None:
        """Takes that a slot is about to be leased."""
        if self._prober:
            self._prober.interrupt()

    def step(self, now: float, streams: int, seconds: float, live: int, longest_wait_s: float) -> None:
        """Takes a step that ended now.

        Args:
            now: monotonic seconds.
            streams: in the step.
            seconds: that it took.
            live: how many of the streams are live.
            longest_wait_s: how long the chunk of one of these waited for the step at most.
        """
        if live:
            self._load.add(now, (longest_wait_s + seconds) / self._chunk_s, live)
        if self._estimate:
            self._estimate.add(now, streams, seconds)
        if self._prober:
            self._prober.stepped(now)

    def measure(self, now: float) -> bool:
        """Brings `load` and `capacity` up to date, unless they were so a moment ago; returns whether it did."""
        if now - self._measured_at <= _PERIOD_S:
            return False
        self._measured_at, self.load = now, self._load.value(now)
        if self._estimate:
            self._estimate.add_load(now, self._load.chunks_per_s(now), self.load)
            self.capacity = self._estimate.capacity(now)
        return True

    def probe_wait(self, now: float, streams: int) -> float | None:
        """Returns in how many seconds to `probe`, while so many streams are open and none is ready; None for never."""
        limit = self.capacity.streams if self.capacity else 0
        return self._prober.wait(now, streams, limit) if self._prober else None

    def probe(self, now: float, streams: int) -> int:
        """Makes one step that nobody waits for, while so many streams are open.

        A model that raises is not probed again: the steps of streams go on to tell what the machine holds.

        Returns:
            The number of streams for a step of which there was no memory; 0 if there was.

        Raises:
            DeviceLost: as the model raised it.
        """
        if self._prober is None:
            return 0
        try:
            self._prober.step(now, streams)
        except (OutOfMemory, MemoryError):
            return self._prober.rows
        except DeviceLost:
            raise
        except Exception as error:
            log.error("a step to measure capacity has failed: no more of them are made", exc_info=error)
            self._prober = None
        return 0
