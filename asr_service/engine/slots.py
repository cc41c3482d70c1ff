"""Slots: rows of the model's pooled state, leased to streams or free. The books balance whenever nobody streams."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Books:
    """A snapshot for metrics: slots, streams by what their slot holds, streams that wait for a
    step, and the most streams in a step now."""

    slots: int
    leased: int
    free: int
    fresh: int
    running: int
    ready: int
    max_batch: int


class Slots:
    """Rows of the model's pooled state: leased to streams or free.

    Args:
        count: rows there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.leased: set[int] = set()
        self.free = list(reversed(range(count)))

    def lease(self) -> int | None:
        """A free row, None if there is none."""
        if not self.free:
            return None
        slot = self.free.pop()
        self.leased.add(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """Frees a leased row. Raises KeyError if it is not leased."""
        self.leased.remove(slot)
        self.free.append(slot)

    def check(self) -> None:
        """Raises RuntimeError unless leased and free rows make up all rows, each once."""
        if len(self.leased) + len(self.free) != self.count or len({*self.leased, *self.free}) != self.count:
            raise RuntimeError(
                f"slots: {len(self.leased)} leased and {len(self.free)} free are not {self.count}"
            )
