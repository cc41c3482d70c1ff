"""Results that wait to be sent to one client: the only queue of the bridge."""

from __future__ import annotations

import asyncio
from collections import deque

from asr.v1 import asr_pb2

from ws_bridge.status import Failure, Refused


class Outbox:
    """Holds results between the service and one WebSocket client; one reader, one writer, one event loop.

    Interims coalesce: the latest takes the place of the one that waits, and a final takes the place of its utterance's
    interim; each channel has its own. Finals, and replies to the client's messages, are never dropped: where more than
    `limit` would wait, they are refused.

    Attributes:
        skipped: interims that were replaced before the client took them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._finals: deque[asr_pb2.RecognizeResponse | str] = deque()
        # By channel. Of a later utterance than every final of it that waits, since a final clears it.
        self._interims: dict[int, asr_pb2.RecognizeResponse] = {}
        self._closed = False
        self._something = asyncio.Event()
        self.skipped = 0

    def put(self, response: asr_pb2.RecognizeResponse, *, forced: bool = False) -> None:
        """Adds a result.

        Args:
            response: with the result.
            forced: whether it is added however many wait: the last ones of a stream that ends.

        Raises:
            Refused: the client has left too many finals unread.
        """
        channel = response.result.channel
        self.skipped += self._interims.pop(channel, None) is not None
        if response.result.is_final:
            if not forced:
                self._check_room()
            self._finals.append(response)
        else:
            self._interims[channel] = response
        self._something.set()

    def reply(self, text: str) -> None:
        """Adds a message that comes of no result.

        Raises:
            Refused: the client has left too many finals and replies unread.
        """
        self._check_room()
        self._finals.append(text)
        self._something.set()

    def _check_room(self) -> None:
        if len(self._finals) >= self._limit:
            message = f"{self._limit} finals wait to be read; read results while sending audio"
            raise Refused(Failure("resource_exhausted", message))

    def close(self) -> None:
        """Tells the reader that nothing more will come; what waits is still handed out."""
        self._closed = True
        self._something.set()

    async def next(self) -> asr_pb2.RecognizeResponse | str | None:
        """Takes the oldest result or reply, waiting for one if need be; None once the outbox is closed and empty."""
        while True:
            if self._finals:
                return self._finals.popleft()
            if self._interims:
                return self._interims.pop(next(iter(self._interims)))
            if self._closed:
                return None
            self._something.clear()
            await self._something.wait()
