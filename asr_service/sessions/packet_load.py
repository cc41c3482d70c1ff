"""Measures whether a front end keeps up with the packets of its streams. Pure: the clocks are arguments.

One event loop handles all packets of a front end, one after the other. What it can carry is found while it serves: by
the share of a core that the loop's thread takes, and by how late the loop wakes up, which grows first where other
processes take its core.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0
"""Seconds of the past that count."""
MOST_BUSY = 0.8
"""Share of a core above which no stream is admitted: the rest is for packets that bunch."""
LATE_S = 0.1
"""A loop that wakes up so late more often than not has packets waiting."""
_LEAST_BUSY = 0.2
"""Less says little about what a stream takes: much of it does not depend on their number."""


class PacketLoad:
    """Takes measurements a few times a second.

    Attributes:
        busy: share of a core that the event loop took over the window.
        is_full: whether one more stream would be too many.
        carries: streams that can be carried as measured; 0 while that is not known.
    """

    def __init__(self) -> None:
        self.busy = 0.0
        self.is_full = False
        self.carries = 0
        # When, CPU time of the loop's thread by then, how late the loop woke up, and streams that were open.
        self._looks: deque[tuple[float, float, float, int]] = deque()

    def add(self, now: float, cpu_s: float, late_s: float, streams: int) -> None:
        """Takes a measurement.

        Args:
            now: monotonic seconds.
            cpu_s: CPU time so far of the event loop's thread, seconds.
            late_s: by how much the loop has just woken up late.
            streams: that are open.
        """
        looks = self._looks
        looks.append((now, cpu_s, late_s, streams))
        while looks[0][0] < now - WINDOW_S:
            looks.popleft()
        first = looks[0]
        if now - first[0] < WINDOW_S / 2:
            return
        self.busy = (cpu_s - first[1]) / (now - first[0])
        is_late = 2 * sum(late >= LATE_S for _, _, late, _ in looks) > len(looks)
        mean_streams = sum(count for *_, count in looks) / len(looks)
        self.is_full = bool(streams) and (self.busy >= MOST_BUSY or is_late)
        self.carries = int(mean_streams * MOST_BUSY / self.busy) if self.busy >= _LEAST_BUSY else 0
