"""How long steps take, by the number of streams in them, measured in several ways. Pure: the clock is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

SECONDS = 15
"""The slowness is the median of the last so many seconds with steps in them: what lasts for half of them counts."""
LEAST_SECONDS = 5
"""With fewer such seconds the slowness stays as it was."""
MEMORY_S = 60.0
"""Seconds of the past after which a measurement is forgotten."""
RECENT = 256
"""Most steps that `RecentSteps` remembers."""
RECENT_S = 20.0
"""Seconds after which a step is not recent any more."""
LEAST_OF_SIZE = 5
"""Recent steps of one size that make the size a usual one."""


class Curve:
    """How long a step takes, by the number of streams in it.

    A larger batch takes no less time than a smaller one, and no more for each of its streams; where the timings say
    otherwise, something else slowed down the step that took too long. Beyond the largest size that was measured the
    time grows in proportion, which is more than it should take.

    Args:
        timings: (streams in a step, its duration in seconds), one at least, sizes ascending.
    """

    def __init__(self, timings: Sequence[tuple[int, float]]) -> None:
        self.timings = tuple(timings)
        points = list(self.timings)
        for place in range(1, len(points)):
            (before, least), (rows, took) = points[place - 1 : place + 1]
            points[place] = rows, min(took, least * rows / before)
        for place in reversed(range(len(points) - 1)):
            points[place] = points[place][0], min(points[place][1], points[place + 1][1])
        self._points = points

    def seconds(self, rows: float) -> float:
        """Returns how long a step of so many streams takes."""
        last, longest = self._points[-1]
        if rows >= last:
            return longest * rows / last
        for (fewer, shorter), (more, longer) in pairwise(self._points):
            if fewer <= rows <= more:
                return shorter + (longer - shorter) * (rows - fewer) / (more - fewer)
        return self._points[0][1]

    def streams(self, budget_s: float, max_batch: int) -> float:
        """Returns how many streams can be stepped within a time, in rounds of batches.

        Args:
            budget_s: that the steps may take.
            max_batch: most streams in a step.

        Returns:
            The number, with its fraction; below 1 where one stream takes longer than that.
        """
        rows, took = self._points[0]
        found = rows * budget_s / took
        for (fewer, shorter), (more, longer) in pairwise(self._points):
            if longer <= budget_s:
                found = more * budget_s / longer
            elif shorter <= budget_s:
                found = fewer + (more - fewer) * (budget_s - shorter) / (longer - shorter)
        return found if found <= max_batch else max_batch * budget_s / self.seconds(max_batch)


class Slowness:
    """How much longer steps take than they should: the median over seconds of the median of a second's steps."""

    def __init__(self) -> None:
        self._second = 0
        self._ratios: list[float] = []
        self._medians: deque[tuple[int, float]] = deque(maxlen=SECONDS)
        self._value = 1.0

    def add(self, now: float, ratio: float) -> None:
        """Takes a step that ended now and lasted `ratio` times as long as it should."""
        self._close(now)
        self._ratios.append(ratio)

    def value(self, now: float) -> float:
        """Returns the slowness; as it was, while there are too few steps to tell, and 1 at first."""
        self._close(now)
        while self._medians and self._medians[0][0] < now - MEMORY_S:
            self._medians.popleft()
        if len(self._medians) >= LEAST_SECONDS:
            self._value = median(ratio for _, ratio in self._medians)
        return self._value

    def _close(self, now: float) -> None:
        """Ends the second that is over."""
        if int(now) != self._second:
            if self._ratios:
                self._medians.append((self._second, median(self._ratios)))
            self._second, self._ratios = int(now), []


class RecentSteps:
    """Foretells what larger batches would take by the steps of the last seconds, whose sizes differ by chance."""

    def __init__(self) -> None:
        # When a step ended, its size, and its duration.
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=RECENT)

    def add(self, now: float, rows: int, seconds: float) -> None:
        """Takes a step that ended now."""
        self._steps.append((now, rows, seconds))

    def curve(self, now: float) -> Curve | None:
        """Returns a curve up to twice the largest size that was usual lately; None if fewer than two sizes were.

        Each further stream takes as long as the streams between two usual sizes did, or half of the average if that is
        more: where sizes are near to each other, the difference is mostly chance.
        """
        times: dict[int, list[float]] = {}
        for ended, rows, seconds in self._steps:
            if ended >= now - RECENT_S:
                times.setdefault(rows, []).append(seconds)
        usual = sorted((rows, median(took)) for rows, took in times.items() if len(took) >= LEAST_OF_SIZE)
        if len(usual) < 2:
            return None
        rows, took = usual[-1]
        fewer, shorter = max((size for size in usual if 2 * size[0] <= rows), default=usual[0])
        row_s = max((took - shorter) / (rows - fewer), took / rows / 2)
        return Curve([(fewer, shorter), (rows, took), (2 * rows, took + rows * row_s)])
