"""Finds the level at which half of the tries succeed, where tries are noisy (up-and-down, Dixon and Mood, 1948).

The level goes up after a try that succeeded and down after one that did not, so that tries gather around that level;
the mean of the levels tried, from the first turn on, estimates it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class UpAndDown:
    """Searches for the level at which half of the tries keep up.

    Args:
        level: to begin with, above 0; after each try, what to try next.
        step: up after a try that kept up, down after one that did not; a share of the level to begin with.
    """

    level: float
    step: float
    tried: list[float] = field(default_factory=list)
    kept_up: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by = self.step * self.level

    def took(self, level: float, ok: bool) -> None:
        """Notes a try that was made at about the level asked for."""
        self.tried.append(level)
        self.kept_up.append(ok)
        self.level += self._by if ok else -self._by

    @property
    def settled(self) -> slice:
        """The tries that count: from the one before the first turn on."""
        turns = [at for at, ok in enumerate(self.kept_up) if ok != self.kept_up[0]]
        return slice(turns[0] - 1, None) if turns else slice(len(self.tried), None)

    @property
    def estimate(self) -> float | None:
        """None while all tries went the same way."""
        levels = self.tried[self.settled]
        return statistics.mean(levels) if levels else None
