"""Measures how many streams the machine sustains in real time, at the start, and its load while it serves.

All is pure arithmetic with the clock as an argument, except that `probe_model` runs the model it is given.

A stream of live audio needs one step in each chunk's duration. A batch of n streams that takes t seconds therefore
serves n streams as long as t stays within the chunk, and rounds of such batches serve n / t times the chunk's duration.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from asr_service.core.model import StepRequest, StreamingModel
from asr_service.core.values import Samples

SHARE = 0.75
"""Share of a chunk's duration that the steps of all streams may take; the rest is for arrivals that bunch."""
PROBE_S = 4.0
"""How long the probe may take, not counting the step that runs when the time is over."""
WINDOW_S = 10.0
"""Seconds of the past that the load is worked out of."""
LEAST_STEPS = 20
"""Fewer steps make no load, unless they are so slow that no more fit into half the window."""
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of the start-up probe.

    Attributes:
        streams: live streams that the machine sustains, at least 1.
        timings: (streams in a step, its median duration in seconds) as measured.
        enough: whether one stream's step stays within its share of the chunk at all.
    """

    streams: int
    timings: tuple[tuple[int, float], ...]
    enough: bool


def sustained_streams(timings: Sequence[tuple[int, float]], chunk_s: float, share: float = SHARE) -> int:
    """Returns how many live streams such steps sustain, at least 1.

    Args:
        timings: (streams in a step, its duration in seconds).
        chunk_s: audio that a step takes of each stream.
        share: of `chunk_s` that may be spent.
    """
    budget_s = share * chunk_s
    return max((int(rows * budget_s / took) for rows, took in timings if took <= budget_s), default=1)


def probe(
    time_step: Callable[[int], float],
    *,
    chunk_s: float,
    max_batch: int,
    slots: int,
    share: float = SHARE,
    budget_s: float = PROBE_S,
) -> Probe:
    """Times steps of 1, 2, 4, ... streams until one takes more than its share, or the time is over.

    Args:
        time_step: makes a step of so many streams and returns its duration in seconds.
        chunk_s: audio that a step takes of each stream.
        max_batch: most streams in a step.
        slots: streams that can be open; never more are promised.
        share: of `chunk_s` that may be spent.
        budget_s: time to spend, judged by what the next step should take.
    """
    most = min(max_batch, slots)
    timings: list[tuple[int, float]] = []
    spent = 0.0
    rows = 1
    while True:
        took = median(time_step(rows) for _ in range(_REPEATS))
        spent += took * (_REPEATS + 1)
        timings.append((rows, took))
        following = min(2 * rows, most)
        expected = took * following / rows * (_REPEATS + 1)
        if took > share * chunk_s or rows == most or spent + expected > budget_s:
            break
        rows = following
    enough = timings[0][1] <= share * chunk_s
    return Probe(min(slots, sustained_streams(timings, chunk_s, share)), tuple(timings), enough)


def probe_model(model: StreamingModel, max_batch: int) -> Probe:
    """Probes a model that is warm and not in use; each slot's next step has to be a first one.

    Args:
        model: warm.
        max_batch: most streams in a step.
    """
    info = model.info
    first, later = _noise(info.first_chunk_samples, 0), _noise(info.chunk_samples, 1)
    started: set[int] = set()

    def time_step(rows: int) -> float:
        fresh = [slot for slot in range(rows) if slot not in started]
        if fresh:
            model.step([StepRequest(slot, first, is_first=True, is_last=False) for slot in fresh])
            started.update(fresh)
        requests = [StepRequest(slot, later, is_first=False, is_last=False) for slot in range(rows)]
        begun = time.perf_counter()
        model.step(requests)
        return max(1e-9, time.perf_counter() - begun)

    return probe(time_step, chunk_s=info.chunk_ms / 1000, max_batch=max_batch, slots=model.slots)


class Load:
    """Measures the load: how much of a chunk's duration passes from its being ready to the end of its step.

    It is the 95th percentile over a moving window. Above 1, chunks take longer than the audio they cover, waiting for
    their turn included: the next chunk is there before this one is done, and all streams fall behind.

    Args:
        window_s: seconds of the past that count.
        least: fewer steps make no load; see `value`.
    """

    def __init__(self, window_s: float = WINDOW_S, least: int = LEAST_STEPS) -> None:
        self._window_s = window_s
        self._least = least
        self._steps: deque[tuple[float, float]] = deque()

    def add(self, now: float, share: float) -> None:
        """Takes a step that ended now, whose slowest live stream took this share of a chunk's duration."""
        self._steps.append((now, share))

    def value(self, now: float) -> float:
        """Returns the 95th percentile over the window; 0 while too few steps are in it.

        Of fewer than twenty steps, which are enough if they span half the window, it is the second largest share: one
        hiccup is no overload, and steps of a second each must not look like idleness.
        """
        while self._steps and self._steps[0][0] < now - self._window_s:
            self._steps.popleft()
        count = len(self._steps)
        if count < self._least and (count < 3 or self._steps[-1][0] - self._steps[0][0] < self._window_s / 2):
            return 0.0
        return sorted(share for _, share in self._steps)[-max(1, count // 20) - 1]


def _noise(count: int, seed: int) -> Samples:
    """Makes audio that is not silent, the same each time."""
    return (np.random.default_rng(seed).standard_normal(count) * 0.1).astype(np.float32)
