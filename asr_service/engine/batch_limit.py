"""Says how many slots a step may have where memory runs out: fewer at once, and in time as many as before."""

from __future__ import annotations

FIRST_WAIT_S = 600.0
"""How long a smaller limit holds before twice as many slots are tried: who took the memory may have given it back."""
_LONGEST_WAIT_S = 86_400.0


class BatchLimit:
    """Keeps the most slots of a step.

    A try that fails ends the streams of its batch, so that each further one comes after twice the time.

    Args:
        rows: most slots, by the settings.

    Attributes:
        rows: most slots now.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._most = rows
        self._wait_s = FIRST_WAIT_S
        self._changed_at = 0.0
        self._has_grown = False

    def take_as_most(self) -> None:
        """Takes what there is now for all that the memory ever holds, as warm-up has found it."""
        self._most = self.rows

    def halve(self, rows: int, now: float) -> bool:
        """Allows half as many slots as did not fit into memory; returns whether that is fewer than before.

        One slot that does not fit says nothing of how many others would: it changes nothing.

        Args:
            rows: slots of the batch that failed.
            now: monotonic time.
        """
        if self._has_grown:
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        self._has_grown, self._changed_at = False, now
        before = self.rows
        self.rows = min(before, max(1, rows // 2)) if rows > 1 else before
        return self.rows < before

    def grow(self, now: float) -> bool:
        """Allows twice as many slots if memory has sufficed for long enough; returns whether it does."""
        if self.rows >= self._most or now - self._changed_at < self._wait_s:
            return False
        self.rows = min(2 * self.rows, self._most)
        self._has_grown, self._changed_at = True, now
        return True
