"""Searches for the most streams that are carried, where each try takes seconds."""

from __future__ import annotations

from collections.abc import Callable

NEAR = 1.06
"""A search is over once the most that were carried and the least that were not are so near."""


def most_carried(
    carry: Callable[[int], bool], first: int, most: int, has_time: Callable[[], bool]
) -> tuple[int, int]:
    """Finds the most streams that are carried: twice as many while they are, then between.

    Args:
        carry: tries so many streams; tells whether they were carried.
        first: streams of the first try.
        most: streams that can be tried.
        has_time: tells whether there is time for one more try; the first is made anyhow.

    Returns:
        The most that were carried, 0 for none, and the least that were not, `most` + 1 if all were.
    """
    low, high = 0, most + 1
    level = max(1, min(most, first))
    while True:
        if carry(level):
            low = level
        else:
            high = level
        if high - low <= 1 or (low and high <= most and high / low <= NEAR) or not has_time():
            return low, high
        if high > most:
            level = min(most, 2 * low)
        else:
            # By ratio, since what is looked for may be far below what was expected.
            level = max(low + 1, min(high - 1, round((low * high) ** 0.5) if low else high // 2))
