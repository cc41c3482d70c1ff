"""Keeps the limits of API keys over all front ends: each asks before it opens a stream. Pure.

Nobody holds a lock that a process which was stopped could keep: a front end that is gone has its permits taken away.
"""

from __future__ import annotations

from collections import Counter


class Permits:
    """Counts the streams of each key, by front end."""

    def __init__(self) -> None:
        self._held: dict[int, Counter[str]] = {}

    def ask(self, front_end: int, key: str, count: int, limit: int) -> bool:
        """Takes permits for a key's streams, all or none.

        Args:
            front_end: number of the one that asks.
            key: name of the key.
            count: streams that it wants to open.
            limit: streams that the key may have open; 0 for any number.

        Returns:
            Whether it may open them.
        """
        if limit and self.open(key) + count > limit:
            return False
        self._held.setdefault(front_end, Counter())[key] += count
        return True

    def give_back(self, front_end: int, key: str, count: int) -> None:
        """Gives back permits that were taken."""
        held = self._held[front_end]
        held[key] -= count
        if held[key] <= 0:
            del held[key]

    def forget(self, front_end: int) -> None:
        """Gives back all permits of a front end that has ended."""
        self._held.pop(front_end, None)

    def open(self, key: str) -> int:
        """Returns how many streams of a key are open."""
        return sum(held[key] for held in self._held.values())
