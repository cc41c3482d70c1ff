"""Works out how many live streams the machine sustains, from the steps that are taken. Pure: the clock is an argument.

A stream of live audio needs one step in each chunk's duration. A batch of n streams that takes t seconds therefore
serves n streams as long as t stays within the chunk, and rounds of such batches serve n / t times the chunk's duration.

Two things are kept apart (`step_times.py`). A *curve*, which a sweep over the sizes of batches measures while nobody
is served (`probing.py`), says how long steps of different sizes take. The *slowness* says how much longer they take
now, over the last seconds of serving: what slows steps down, such as a neighbour, slows all sizes down. Both are
measured again and again, so that no bad measurement lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr_service.engine.step_times import MEMORY_S, Curve, RecentSteps, Slowness

SHARE = 0.75
"""Share of a chunk's duration that the steps of all streams may take; the rest is for arrivals that bunch."""
RISE, FALL = 1.1, 0.8
"""The number of streams changes once it is this many times what it was, or less than that: it does not flutter."""
CALM = 0.3
"""Below this load, more streams surely fit: load grows slowly up to about here and fast beyond."""
GROWTH = 1.15
"""How many fit then: this many times those that are carried, or one more. It holds for `MEMORY_S`."""
LEAST_SHARE = 1 / 8
"""Steps that should take less of the time that there is say nothing about the slowness: a lone short step waits for
threads to wake up and for memory to be cached, which steps of many streams do not feel."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many streams the machine holds, as of now.

    Attributes:
        streams: live streams that it sustains, from 1 to the number of slots.
        timings: (streams in a step, its duration in seconds), as the sweep measured them that this is based on.
        enough: whether one stream's step stays within its share of the chunk at all.
    """

    streams: int
    timings: tuple[tuple[int, float], ...]
    enough: bool


class Estimate:
    """Estimates how many live streams the machine sustains now.

    Args:
        chunk_s: audio that a step takes of each stream.
        slots: streams that can be open; never more are promised.
        max_batch: most streams in a step.

    Attributes:
        max_batch: as given; may be changed at any time.
    """

    def __init__(self, *, chunk_s: float, slots: int, max_batch: int) -> None:
        self.max_batch = max_batch
        self._chunk_s = chunk_s
        self._budget_s = SHARE * chunk_s
        self._slots = slots
        self._curve: Curve | None = None
        # The last sweep, if it found less than what is believed.
        self._pending_sweep: Curve | None = None
        self._slowness = Slowness()
        self._recent = RecentSteps()
        # Streams that use has shown to fit, and when.
        self._proven, self._proven_at = 0.0, float("-inf")
        self._streams = 0

    def sweep(self, now: float, timings: Sequence[tuple[int, float]]) -> int:
        """Takes a sweep over the sizes of batches, made in a moment without streams.

        One that finds less than what is believed counts once the next one does so too: a program that runs for a moment
        makes steps slower, nothing makes them faster than they are.

        Args:
            now: monotonic seconds.
            timings: as `Curve` takes them.

        Returns:
            How many streams this sweep alone found to fit.
        """
        curve = Curve(timings)
        found = self._found(curve)
        if self._curve is not None and found < self._value(now) and self._pending_sweep is None:
            self._pending_sweep = curve
        else:
            if self._pending_sweep is not None:
                curve = max(self._pending_sweep, curve, key=self._found)
            self._curve, self._pending_sweep = curve, None
            self._slowness = Slowness()
            self._proven = 0.0
        return self._bounded(found)

    def add(self, now: float, rows: int, seconds: float) -> None:
        """Takes a step of so many streams that ended now."""
        self._recent.add(now, rows, seconds)
        if self.step_s(now, rows) >= LEAST_SHARE * self._budget_s:
            self.add_probe_step(now, rows, seconds)

    def add_probe_step(self, now: float, rows: int, seconds: float) -> None:
        """Takes a step of a short probe, made beside streams and just after another; it counts however short it is."""
        if self._curve is not None:
            self._slowness.add(now, seconds / self._curve.seconds(rows))

    def add_load(self, now: float, chunks_per_s: float, load: float) -> None:
        """Takes what is carried at which load: live streams that are served with ease show that some more fit.

        Steps of larger batches than the last sweep reached are extrapolated.

        Args:
            now: monotonic seconds.
            chunks_per_s: live chunks that are stepped in a second.
            load: that was measured meanwhile; 0 if it is not known.
        """
        streams = chunks_per_s * self._chunk_s
        if load > SHARE:
            self._proven = min(self._proven, streams)
        elif load > 0 and self._curve is not None:
            if load <= CALM:
                self._prove(now, max(GROWTH * streams, round(streams) + 1))
            curve = self._recent.curve(now)
            if curve is not None and curve.timings[-1][0] > self._curve.timings[-1][0]:
                self._prove(now, self._found(curve))

    def step_s(self, now: float, rows: int) -> float:
        """Returns how long a step of so many streams should take now; 0 if that is not known."""
        return self._curve.seconds(rows) * self._slowness.value(now) if self._curve else 0.0

    def short_batch(self, now: float, seconds: float, most: int) -> int:
        """Returns the largest batch, 1 at least, that should take no longer than so many seconds now."""
        rows = 1
        while self._curve and 2 * rows <= most and self.step_s(now, 2 * rows) <= seconds:
            rows *= 2
        return rows

    def capacity(self, now: float) -> Capacity | None:
        """Returns what the machine holds as of now; None before the first sweep."""
        if self._curve is None:
            return None
        found = self._value(now)
        before = self._streams
        if not before or found >= RISE * before or found < FALL * before or found >= self._slots:
            self._streams = self._bounded(found)
        enough = self.step_s(now, 1) <= self._budget_s
        return Capacity(self._streams, self._curve.timings, enough)

    def _value(self, now: float) -> float:
        assert self._curve is not None
        by_steps = self._curve.streams(self._budget_s / self._slowness.value(now), self.max_batch)
        return max(by_steps, self._proven) if now < self._proven_at + MEMORY_S else by_steps

    def _prove(self, now: float, streams: float) -> None:
        if streams >= self._proven or now >= self._proven_at + MEMORY_S:
            self._proven, self._proven_at = streams, now

    def _found(self, curve: Curve) -> float:
        return curve.streams(self._budget_s, self.max_batch)

    def _bounded(self, streams: float) -> int:
        # The small part is for sums that should have come out whole.
        return max(1, min(self._slots, int(streams + 1e-6)))
