"""The turns of a realtime session: which item a result belongs to, and what is still to be told of it. Pure.

An item is what lies between two commits, by the client or, where the service finds the ends of turns, by it. Results
come later than commits; the oldest item that is not finished is the one that they are about.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Item:
    """One turn.

    Attributes:
        id: its name.
        committed: whether the client has been told that it is over: a final with its name will finish it.
        cleared: whether the client has thrown it away.
        started: whether the client has been told that someone speaks.
        parts: texts of the finals in it.
        told: the text that deltas have told so far.
    """

    id: str
    committed: bool = False
    cleared: bool = False
    started: bool = False
    parts: list[str] = field(default_factory=list)
    told: str = ""

    def text(self, more: str = "") -> str:
        """All of it, with what is not final yet."""
        return " ".join(part for part in (*self.parts, more) if part)

    def delta(self, text: str) -> str:
        """Takes the text so far; returns what of it is new. Nothing, if it does not go on from what was told."""
        if not text.startswith(self.told):
            return ""
        new, self.told = text[len(self.told) :], text
        return new


class Turns:
    """Items in their order, from the one that results are about to the one that audio goes to.

    Args:
        sid: of the session, for their names.
    """

    def __init__(self, sid: str) -> None:
        self._sid = sid
        self._count = 0
        self._items: deque[Item] = deque()
        self._previous: str | None = None

    @property
    def current(self) -> Item:
        """The item that the next result is about."""
        return self._items[0] if self._items else self._new()

    @property
    def pending(self) -> list[Item]:
        """Items that a final is still to finish."""
        return [item for item in self._items if item.committed and not item.cleared]

    def commit(self, *, clears: bool = False) -> Item:
        """Ends the item that audio goes to, or throws it away."""
        item = self._items[-1] if self._items and not self._items[-1].committed else self._new()
        item.committed, item.cleared = True, clears
        return item

    def finish(self) -> Item:
        """Takes the item that results were about, which is finished."""
        item = self.current
        self._items.popleft()
        return item

    def follow(self, item: Item) -> str | None:
        """Takes that the client is told of an item; returns the name of the one before it."""
        previous, self._previous = self._previous, item.id
        return previous

    def _new(self) -> Item:
        self._count += 1
        self._items.append(Item(f"item_{self._sid}_{self._count}"))
        return self._items[-1]


def stable_text(text: str, stability: float) -> str:
    """The words of an interim that no later one changes: all, or all but the last."""
    return text if stability >= 1 else text.rpartition(" ")[0]
