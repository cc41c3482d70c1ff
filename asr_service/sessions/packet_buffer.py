"""What of a stream's audio waits for the rest of its chunk before it goes to the engine. Pure.

The engine can use whole chunks only, so packets that complete none would wake it for nothing. It says where the next
chunk ends (`Consumed`); whatever is not known errs on the side of letting packets go.
"""

from __future__ import annotations

from asr_service.core.commands import Consumed


class Held:
    """The packets of one stream that complete no chunk yet: less than a chunk's bytes.

    Attributes:
        waiting: bytes received that the engine has not consumed, whether they are held or not.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._bytes = bytearray()
        self._received = 0
        self._enough = self._each = (
            0  # bytes received that complete the next chunk, and bytes of those after it
        )
        self._marked = -1  # bytes received before the last mark

    def add(self, data: bytes) -> bool:
        """Takes a packet; whether what is held should go now."""
        self._bytes += data
        self._received += len(data)
        self.waiting += len(data)
        return self._received >= self._enough

    def take(self) -> bytes:
        """All that is held; it is not held any more."""
        data = bytes(self._bytes)
        self._bytes.clear()
        self._look_beyond(self._received)
        return data

    def mark(self) -> None:
        """A segment ends here: where its chunks end says nothing about the next one's."""
        self._enough, self._each, self._marked = 0, 0, self._received

    def consumed(self, event: Consumed) -> None:
        """What the engine says; about chunks only if it was said of this segment."""
        self.waiting -= event.audio_bytes
        if self._received - self.waiting > self._marked:
            self._enough, self._each = event.enough, event.each
            self._look_beyond(self._received - len(self._bytes))

    def _look_beyond(self, position: int) -> None:
        """The next chunk that matters is the first one that so many bytes of the stream do not complete."""
        if self._each and self._enough <= position:
            self._enough += self._each * (1 + (position - self._enough) // self._each)
