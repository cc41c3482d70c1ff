"""Says which processes hang: those that have given no sign of life for too long. Pure: the clock is an argument."""

from __future__ import annotations

from collections.abc import Hashable

_LONGEST_LOOK_S = 1.0
_LOOKS = 4


class Watchdog:
    """Compares signs of life with those at earlier looks.

    Time in which nobody looked does not count: where the one that looks was stopped, or the whole machine stood still,
    the others may have been stopped as well.

    Args:
        limit_s: how long a process may give no sign of life.

    Attributes:
        limit_s: as given.
        look_s: how often to look.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.look_s = min(_LONGEST_LOOK_S, limit_s / _LOOKS)
        self._looked_at: float | None = None
        # Seconds that were watched.
        self._watched_s = 0.0
        # The last sign of life of each process, and how much was watched when it was seen first.
        self._beats: dict[Hashable, tuple[float, float]] = {}

    def look(self, now: float) -> None:
        """Takes that signs of life are looked at now."""
        if self._looked_at is not None:
            self._watched_s += min(now - self._looked_at, 2 * self.look_s)
        self._looked_at = now

    def hangs(self, process: Hashable, beat: float, *, at_least_s: float = 0.0) -> bool:
        """Returns whether a process hangs.

        Args:
            process: any name of it.
            beat: its last sign of life, of any kind as long as the next one differs.
            at_least_s: that it may take, where that is longer than the limit.
        """
        known, seen_at = self._beats.get(process, (None, 0.0))
        if beat != known:
            self._beats[process] = beat, self._watched_s
            return False
        return self._watched_s - seen_at > max(self.limit_s, at_least_s)

    def forget(self, process: Hashable) -> None:
        """Takes that a process has ended."""
        self._beats.pop(process, None)
