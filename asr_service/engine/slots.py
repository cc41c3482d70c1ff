"""Leases slots, the rows of the model's pooled state, to streams."""

from __future__ import annotations


class Slots:
    """Keeps account of the slots: each is leased to a stream or free.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.leased: set[int] = set()
        self.free = list(reversed(range(count)))

    def lease(self) -> int | None:
        """Leases a free slot and returns it; None if there is none."""
        if not self.free:
            return None
        slot = self.free.pop()
        self.leased.add(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """Frees a leased slot. Raises KeyError if it is not leased."""
        self.leased.remove(slot)
        self.free.append(slot)

    def check(self) -> None:
        """Raises RuntimeError unless leased and free slots make up all slots, each once."""
        if len(self.leased) + len(self.free) != self.count or len({*self.leased, *self.free}) != self.count:
            raise RuntimeError(
                f"slots: {len(self.leased)} leased and {len(self.free)} free are not {self.count}"
            )
