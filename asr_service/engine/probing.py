"""Times steps that nobody waits for: briefly at the start, later in turns in which the engine has nothing to do.

A sweep times steps of 1, 2, 4, ... streams, one step a turn, on slots that no stream has; a stream that comes ends it.
So a chunk waits for one such step at most, and that only if it is the stream's first: a step of a sweep is meant to be
over before the first chunk of live audio has been spoken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from asr_service.core.model import StreamingModel
from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.engine.capacity import SHARE, Estimate
from asr_service.engine.probe_audio import probe_audio
from asr_service.engine.slots import Slots

START_S = 0.2
"""How long the sweep at the start may take, judged by what its next size should take."""
QUIET_S = 1.0
"""A sweep begins after so many seconds without a step."""
LONGEST_PAUSE_S = 300.0
"""The pause between sweeps doubles up to this, while they find the same."""
REST = 20.0
"""A pause is at least so many times as long as the sweep was. Where other programs come and go, no two sweeps agree;
sweeping on and on would be a load itself."""
SHORT_PROBE_S = 10.0
"""In a pause, a short probe is made each time so many seconds are over; it finds out when steps have become faster."""
FASTER = 1.5
"""A step that takes so many times less than it should is a reason for a sweep."""
SAME = 0.1
"""Two sweeps find the same if their numbers of streams differ by no more than this share."""
_REPEATS = 3
# By how much the next size is larger at least.
_LEAST_GROWTH = 1.1
# How long a step may take that is made beside streams, over a chunk's duration.
_SHORT_SHARE = 1 / 8


class Sweep:
    """Times steps of a model, of growing size, until one takes its share of a chunk or all slots are in it.

    The slots' next steps, by whoever leases them, have to be first ones.

    Args:
        model: warm.
        slots: that nobody uses until the sweep is over.
        budget_s: how long a step should take at most.
        rows: size of the first step.
        repeats: steps of each size that are timed.
        clock: gives seconds.

    Attributes:
        timings: (streams in a step, its median duration in seconds) of each size that is done.
        spent_s: how long its steps took.
        rows: streams in the next step.
        done: whether all sizes are done.
    """

    def __init__(
        self,
        model: StreamingModel,
        slots: Sequence[int],
        budget_s: float,
        *,
        rows: int = 1,
        repeats: int = _REPEATS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        info = model.info
        self.timings: list[tuple[int, float]] = []
        self.spent_s = 0.0
        self.rows = rows
        self.done = False
        self._model = model
        self._slots = slots
        self._budget_s = budget_s
        self._repeats = repeats
        self._clock = clock
        self._first_samples, self._samples = info.first_chunk_samples, info.chunk_samples
        self._audio = probe_audio(info.sample_rate, info.first_chunk_samples, info.chunk_samples)
        # Steps after the first, which streams that come to the sweep later have missed.
        self._steps = 0
        self._prompt = info.first_prompt
        self._started = 0
        self._times: list[float] = []

    @property
    def next_size_s(self) -> float:
        """How long the steps of the next size should take; 0 between steps of one size, and before the first."""
        if not self.timings or self._times or self._started == self.rows:
            return 0.0
        before, took = self.timings[-1]
        return took * self.rows / before * (self._repeats + 1)

    def so_far(self) -> list[tuple[int, float]]:
        """Returns the timings, those of the first size also before it is done; none before the first timed step."""
        return self.timings or ([(self.rows, median(self._times))] if self._times else [])

    def step(self) -> None:
        """Makes one step; raises what the model raises."""
        is_first = self._started < self.rows
        slots = self._slots[self._started if is_first else 0 : self.rows]
        if is_first:
            for slot in slots:
                self._model.open(slot, self._prompt)
        self._steps += not is_first
        batch = self._batch(slots, is_first=is_first)
        began = self._clock()
        self._model.submit(batch)
        self._model.collect()
        took = max(1e-9, self._clock() - began)
        self.spent_s += took
        if is_first:
            self._started = self.rows
            return
        self._times.append(took)
        if len(self._times) == self._repeats:
            self._end_size(median(self._times))

    def _end_size(self, took: float) -> None:
        self.timings.append((self.rows, took))
        self._times.clear()
        # A step should come near to the time that it may take, and exceed it by little.
        following = min(2 * self.rows, len(self._slots))
        if len(self.timings) > 1:
            fewer, shorter = self.timings[-2]
            row_s = max(1e-9, (took - shorter) / (self.rows - fewer))
            following = min(following, self.rows + int((self._budget_s - took) / row_s))
        self.done = took > self._budget_s or following < _LEAST_GROWTH * self.rows
        if not self.done:
            self.rows = following

    def _batch(self, slots: Sequence[int], *, is_first: bool) -> StepBatch:
        count = len(slots)
        return StepBatch(
            slots=np.array(slots, np.int32),
            audio=self._audio.memory,
            rows=self._audio.rows(count, 0 if is_first else self._steps),
            counts=np.full(count, self._first_samples if is_first else self._samples, np.int32),
            flags=np.full(count, ChunkFlags.FIRST if is_first else 0, np.uint8),
        )


class Prober:
    """Keeps an estimate up to date: by sweeps without streams, by short probes while streams rest.

    Args:
        model: warm.
        slots: of the engine; those that are free are stepped.
        estimate: takes what is measured.
        clock: times the steps, seconds.

    Attributes:
        rows: streams in the step that was made last, or that the model raised at.
    """

    def __init__(
        self,
        model: StreamingModel,
        slots: Slots,
        estimate: Estimate,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._slots = slots
        self._estimate = estimate
        self._clock = clock
        self._chunk_s = model.info.chunk_ms / 1000
        self.rows = 0
        self._sweep: Sweep | None = None
        # Whether it is a short probe: a single step.
        self._probe_is_short = False
        # Streams that the last sweep found to fit.
        self._found = 0
        self._pause_s = QUIET_S
        # Monotonic times at which the next sweep and the next short probe may begin.
        self._sweep_at = self._short_probe_at = 0.0

    def start(self, now: float) -> None:
        """Makes a first sweep, as far as there is time for it; raises what the model raises."""
        began = self._clock()
        sweep = self._new_sweep()
        while not sweep.done:
            if sweep.so_far() and self._clock() - began + sweep.next_size_s > START_S:
                break
            sweep.step()
        self._found = self._estimate.sweep(now, sweep.so_far())
        self.stepped(now + self._clock() - began)

    def interrupt(self) -> None:
        """Ends the sweep that is going on: a stream leases a slot, which may be one of those that are stepped."""
        self._sweep = None

    def stepped(self, now: float) -> None:
        """Takes that streams were stepped now."""
        self._sweep_at = max(self._sweep_at, now + QUIET_S)
        self._short_probe_at = now + QUIET_S

    def wait(self, now: float, streams: int, limit: int) -> float | None:
        """Returns in how many seconds to probe unless something comes first; None for not until something has come.

        Args:
            now: monotonic seconds.
            streams: that are open.
            limit: how many may be, by the estimate. Below it no client is refused, and there is nothing to find out.
        """
        if streams and (streams < limit or not self._slots.free):
            return None
        if self._sweep:
            return 0.0
        return max(
            0.0, (self._short_probe_at if streams else min(self._short_probe_at, self._sweep_at)) - now
        )

    def step(self, now: float, streams: int) -> None:
        """Makes one step; if the model raises, so does this, and the sweep is over.

        Args:
            now: monotonic seconds.
            streams: that are open.
        """
        sweep, self._sweep = self._sweep, None
        if sweep is None:
            self._probe_is_short = streams > 0 or now < self._sweep_at
            sweep = self._new_short_probe(now, streams) if self._probe_is_short else self._new_sweep()
        self.rows = sweep.rows
        # For the case that the model raises.
        self._pause(now)
        sweep.step()
        if not sweep.done:
            self._sweep = sweep
        elif self._probe_is_short:
            self._take_short_probe(now, streams, *sweep.timings[0])
        else:
            before, self._found = self._found, self._estimate.sweep(now, sweep.timings)
            same = abs(self._found - before) <= SAME * before
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if same else QUIET_S
            self._pause(now, REST * sweep.spent_s)

    def _take_short_probe(self, now: float, streams: int, rows: int, took: float) -> None:
        """Has a sweep made at once if steps have become faster; beside streams, tells how slow steps are."""
        if streams:
            self._estimate.add_probe_step(now, rows, took)
            self._short_probe_at = now + QUIET_S
        else:
            self._short_probe_at = now + SHORT_PROBE_S
            if FASTER * took < self._estimate.step_s(now, rows):
                self._sweep_at, self._pause_s = now, QUIET_S

    def _pause(self, now: float, least_s: float = 0.0) -> None:
        self._short_probe_at = now + SHORT_PROBE_S
        if not self._probe_is_short:
            self._sweep_at = now + max(self._pause_s, least_s)

    def _new_sweep(self) -> Sweep:
        slots = self._slots.free[: self._estimate.max_batch]
        return Sweep(self._model, slots, SHARE * self._chunk_s, clock=self._clock)

    def _new_short_probe(self, now: float, streams: int) -> Sweep:
        """Makes a sweep of a single short step, after one that puts its slots at the start of a stream."""
        free = self._slots.free[: self._estimate.max_batch]
        rows = self._estimate.short_batch(now, _SHORT_SHARE * self._chunk_s, len(free)) if streams else 1
        return Sweep(self._model, free[:rows], SHARE * self._chunk_s, rows=rows, repeats=1, clock=self._clock)
