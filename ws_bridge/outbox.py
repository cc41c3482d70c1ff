"""Messages that wait to be sent to one client: the only queue of the bridge."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from asr.v1 import asr_pb2

from ws_bridge.status import Failure, Refused

MOST_BYTES = 16 * 1024 * 1024
"""Memory of the messages that may wait: that of a thousand finals of half a minute, with times of their words."""


@dataclass(frozen=True, slots=True)
class Told:
    """Messages that are sent in any case: those of a "final", or of an "event" that is none."""

    kind: str
    messages: Sequence[str]


class Outbox:
    """Holds what is between the service and one WebSocket client; one reader, one writer, one event loop.

    Interims coalesce: the latest takes the place of the one that waits, and a final takes the place of its utterance's
    interim; each channel has its own. Everything else is never dropped: one more is refused where `limit` of them wait,
    or `most_bytes`.

    Attributes:
        skipped: interims that were replaced before the client took them.
    """

    def __init__(self, limit: int, most_bytes: int = MOST_BYTES) -> None:
        self._limit = limit
        self._most_bytes = most_bytes
        self._told: deque[Told] = deque()
        self._bytes = 0
        # By channel. Of a later utterance than every final of it that waits, since a final clears it.
        self._interims: dict[int, asr_pb2.RecognizeResponse] = {}
        self._closed = False
        self._something = asyncio.Event()
        self.skipped = 0

    @property
    def waiting(self) -> int:
        """How many messages wait that are sent in any case."""
        return sum(len(told.messages) for told in self._told)

    def put(
        self, response: asr_pb2.RecognizeResponse, messages: Sequence[str] = (), *, forced: bool = False
    ) -> None:
        """Adds a result.

        Args:
            response: with the result.
            messages: that are sent in any case: those of a final, or what an interim brings with it.
            forced: whether they are added however many wait: the last ones of a stream that ends.

        Raises:
            Refused: the client has left too many of them unread.
        """
        channel, is_final = response.result.channel, response.result.is_final
        self.skipped += self._interims.pop(channel, None) is not None
        if messages:
            if not forced:
                self._check_room()
            self._add(Told("final" if is_final else "event", messages))
        if not is_final:
            self._interims[channel] = response
        self._something.set()

    def reply(self, message: str) -> None:
        """Adds a message that comes of no result.

        Raises:
            Refused: the client has left too many messages unread.
        """
        self._check_room()
        self._add(Told("event", (message,)))
        self._something.set()

    def _add(self, told: Told) -> None:
        self._told.append(told)
        self._bytes += _bytes_of(told)

    def _check_room(self) -> None:
        if len(self._told) >= self._limit:
            waits = f"{self._limit} finals wait"
        elif self._bytes >= self._most_bytes:
            waits = f"{self._most_bytes} bytes of messages wait"
        else:
            return
        message = f"{waits} to be read; read results while sending audio"
        raise Refused(Failure("resource_exhausted", message))

    def close(self) -> None:
        """Tells the reader that nothing more will come; what waits is still handed out."""
        self._closed = True
        self._something.set()

    async def next(self) -> Told | asr_pb2.RecognizeResponse | None:
        """Takes the oldest messages, or else an interim, waiting if need be; None once it is closed and empty."""
        while True:
            if self._told:
                told = self._told.popleft()
                self._bytes -= _bytes_of(told)
                return told
            if self._interims:
                return self._interims.pop(next(iter(self._interims)))
            if self._closed:
                return None
            self._something.clear()
            await self._something.wait()


def _bytes_of(told: Told) -> int:
    """What the messages take in memory, which is at once known, unlike what they will take on the wire."""
    return sum(map(sys.getsizeof, told.messages))
