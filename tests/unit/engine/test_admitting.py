"""Scheduler, load and estimate together, on a machine in virtual time, with clients that take all that is admitted."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush

import pytest

from asr_service.engine.capacity import Estimate
from asr_service.engine.load import Load
from tests.support.scheduling import Scheduler

CHUNK_S = 0.16
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
MACHINES = [(6, 1), (2, 3), (20, 0.5), (25, 5), (0.5, 10)]
"""How long a step takes in ms: a fixed time, and one for each stream."""


def machine(fixed_ms: float, row_ms: float) -> Callable[[float], float]:
    return lambda rows: (fixed_ms + row_ms * rows) / 1000


class Service:
    """Live streams that never end, and as many of them as are admitted.

    Attributes:
        step_s: how long a step takes; may be changed at any time.
        now: virtual seconds.
        streams: how many there are.
    """

    def __init__(self, step_s: Callable[[float], float], timings: list[tuple[int, float]]) -> None:
        self.step_s = step_s
        self.now = 0.0
        self.streams = 0
        self.estimate = Estimate(chunk_s=CHUNK_S, slots=512, max_batch=128)
        self.estimate.sweep(0.0, timings)
        self._load = Load()
        self._scheduler = Scheduler(max_batch=128, tick_s=0.02, upload_budget_s=CHUNK_S / 2)
        self._random = random.Random(1)
        # When the next chunk of each stream is complete, and of those that are in the scheduler.
        self._coming: list[tuple[float, int]] = []
        self._ready: dict[int, float] = {}

    @property
    def limit(self) -> int:
        found = self.estimate.capacity(self.now)
        assert found is not None
        return found.streams

    @property
    def load(self) -> float:
        return self._load.value(self.now)

    def serve(self, seconds: float) -> None:
        """Serves for so long; each quarter of a second it measures, and admits whom it can."""
        until = self.now + seconds
        measure_at = self.now
        while self.now < until:
            if self.now >= measure_at:
                measure_at += 0.25
                self.estimate.add_load(self.now, self._load.chunks_per_s(self.now), self.load)
                self._admit()
            while self._coming and self._coming[0][0] <= self.now:
                ready, stream = heappop(self._coming)
                self._ready[stream] = ready
                self._scheduler.add_one(stream, ready)
            wait = self._scheduler.wait(self.now)
            if wait == 0:
                self._step(self._scheduler.take(self.now))
            else:
                next_chunk = self._coming[0][0]
                self.now = min(next_chunk, measure_at, self.now + (CHUNK_S if wait is None else wait))

    def _admit(self) -> None:
        while self.streams < self.limit and self.load <= 1:
            self.streams += 1
            heappush(self._coming, (self.now + self._random.uniform(0, CHUNK_S), self.streams))

    def _step(self, batch: list[int]) -> None:
        took = self.step_s(len(batch))
        ready = [self._ready.pop(stream) for stream in batch]
        waited = self.now - min(ready)
        self.now += took
        self._load.add(self.now, (waited + took) / CHUNK_S, len(batch))
        self.estimate.add(self.now, len(batch), took)
        self._scheduler.add_step_time(len(batch), took)
        for stream, at in zip(batch, ready, strict=True):
            heappush(self._coming, (at + CHUNK_S, stream))


def swept(step_s: Callable[[float], float]) -> list[tuple[int, float]]:
    return [(rows, step_s(rows)) for rows in SIZES]


@pytest.mark.parametrize("step_ms", MACHINES)
def test_what_is_admitted_is_carried(step_ms: tuple[float, float]) -> None:
    """However long it goes on: use raises the limit, and not beyond what the machine can bear."""
    step_s = machine(*step_ms)
    service = Service(step_s, swept(step_s))
    first = service.limit
    for _ in range(20):
        service.serve(10)
        assert 0 < service.load < 1, f"{service.streams} streams, {first} at first"
    assert service.streams >= first


@pytest.mark.parametrize("step_ms", MACHINES)
def test_use_alone_corrects_a_start_under_load(step_ms: tuple[float, float]) -> None:
    """Nobody leaves, so there is never a moment for a sweep."""
    step_s = machine(*step_ms)
    service = Service(step_s, [(1, 0.22)])
    assert service.limit == 1
    service.serve(300)
    assert service.load < 1
    assert service.streams >= 0.75 * Service(step_s, swept(step_s)).limit


def test_what_use_does_not_show_is_left_to_a_sweep() -> None:
    """Two streams of a machine that has no time for three, one by one: their steps never meet, which would be cheap."""
    step_s = machine(40, 2)
    service = Service(step_s, [(1, 0.22)])
    service.serve(300)
    assert service.streams == 2
    service.estimate.sweep(service.now, swept(step_s))
    assert service.limit == 40


@pytest.mark.parametrize("step_ms", MACHINES)
def test_a_neighbour_that_stays_lowers_the_limit_and_its_end_raises_it(step_ms: tuple[float, float]) -> None:
    step_s = machine(*step_ms)
    service = Service(step_s, swept(step_s))
    service.serve(30)
    before = service.limit
    service.step_s = machine(*(2 * ms for ms in step_ms))
    service.serve(60)
    assert service.limit <= 0.8 * before
    service.step_s = step_s
    service.serve(60)
    assert service.limit >= 0.8 * before
