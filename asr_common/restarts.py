"""When a process that has ended is started again, and when that is given up. Pure: the clock is an argument."""

from __future__ import annotations

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
STEADY_S = 60.0
"""A process that ran for so long after it was ready has not failed for the reason that the one before had."""
MOST_IN_A_ROW = 5
FORK_RETRY_S = 5.0
"""Until the next try where the system had no room for one more process, which is not the process's failure."""


class Restarts:
    """Counts the ends in a row of one process, and says how long to wait after each.

    The wait doubles from `FIRST_WAIT_S` to `LONGEST_WAIT_S`; after `MOST_IN_A_ROW` ends there is no point in another
    start.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._ready_at: float | None = None

    def ready(self, now: float) -> None:
        """Takes that the process that was started is ready at this time, in seconds."""
        self._ready_at = now

    def ended(self, now: float) -> float | None:
        """Takes that it has ended; returns the seconds until the next start, None if there should be none."""
        if self._ready_at is not None and now - self._ready_at >= STEADY_S:
            self._in_a_row = 0
        self._ready_at = None
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            return None
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (self._in_a_row - 1))
