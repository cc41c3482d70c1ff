"""Measures how busy the machine is with the streams that it has. Pure: the clock is an argument."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
"""Seconds of the past that the load is worked out of."""
LEAST_STEPS = 20
"""Fewer steps make no load, unless they are so slow that no more fit into half the window."""


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
        # When a step ended, the share of its slowest live stream, and how many live streams were in it.
        self._steps: deque[tuple[float, float, int]] = deque()

    def add(self, now: float, share: float, streams: int = 1) -> None:
        """Takes a step that ended now.

        Args:
            now: monotonic seconds.
            share: of a chunk's duration, that its slowest live stream took.
            streams: how many live streams were in it.
        """
        self._steps.append((now, share, streams))

    def value(self, now: float) -> float:
        """Returns the 95th percentile over the window; 0 while too few steps are in it.

        Of fewer than twenty steps, which are enough if they span half the window, it is the second largest share: one
        hiccup is no overload, and steps of a second each must not look like idleness.
        """
        self._forget(now)
        count = len(self._steps)
        if count < self._least and (count < 3 or self._steps[-1][0] - self._steps[0][0] < self._window_s / 2):
            return 0.0
        return sorted(share for _, share, _ in self._steps)[-max(1, count // 20) - 1]

    def chunks_per_s(self, now: float) -> float:
        """Returns how many live chunks were stepped in a second, over the whole window."""
        self._forget(now)
        return sum(streams for _, _, streams in self._steps) / self._window_s

    def _forget(self, now: float) -> None:
        while self._steps and self._steps[0][0] < now - self._window_s:
            self._steps.popleft()
