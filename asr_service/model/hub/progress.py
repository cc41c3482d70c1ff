"""How far a download is, as lines for a log. Pure: the clock is an argument."""

from __future__ import annotations

from collections.abc import Callable

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def amount(size: float) -> str:
    """Writes a number of bytes for people: `460 MB`, `2.47 GB`."""
    for unit, sign in _UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {sign}" if size < 999.5 * unit else f"{size / unit:.0f} {sign}"
    return f"{size:.0f} bytes"


class Progress:
    """Says every few seconds how much has come, at which rate, and how long the rest will take."""

    def __init__(self, total: int, have: int, every_s: float, clock: Callable[[], float]) -> None:
        """Begins to count.

        Args:
            total: bytes of the whole file.
            have: bytes that were there before.
            every_s: seconds between two lines.
            clock: seconds that only grow.
        """
        self._total = total
        self._have = have
        self._every_s = every_s
        self._clock = clock
        self._began = self._told_at = clock()
        self._received = self._told_received = 0

    def add(self, count: int) -> str | None:
        """Counts bytes that have come; returns a line when it is time for one."""
        self._have += count
        self._received += count
        now = self._clock()
        if now - self._told_at < self._every_s:
            return None
        rate = (self._received - self._told_received) / (now - self._told_at)
        self._told_at, self._told_received = now, self._received
        left_s = (self._total - self._have) / rate if rate else 0.0
        return (
            f"{amount(self._have)} of {amount(self._total)} ({100 * self._have // self._total} %), {amount(rate)}/s, "
            f"{_duration(left_s)} left"
        )

    def begin_anew(self) -> None:
        """Counts from zero again: the server sends the whole file, and what was there is thrown away."""
        self._have = 0

    def summary(self) -> str:
        """Returns what came, in which time."""
        return f"{amount(self._received)} in {_duration(self._clock() - self._began)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
