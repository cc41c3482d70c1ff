"""Results that wait to be sent to one client: the only queue of the bridge."""

from __future__ import annotations

import asyncio
from collections import deque

from asr.v1 import asr_pb2

from ws_bridge.status import Failure, Refused


class Outbox:
    """Holds results between the service and one WebSocket client; one reader, one writer, one event loop.

    Interims coalesce: the latest takes the place of the one that waits, and a final takes the place of its utterance's
    interim. Finals are never dropped: where more than `limit` would wait, `put` refuses.

    Attributes:
        skipped: interims that were replaced before the client took them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._finals: deque[asr_pb2.RecognizeResponse] = deque()
        # Of a later utterance than every final that waits, since a final clears it.
        self._interim: asr_pb2.RecognizeResponse | None = None
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
        self.skipped += self._interim is not None
        if response.result.is_final:
            self._interim = None
            if len(self._finals) >= self._limit and not forced:
                message = f"{self._limit} finals wait to be read; read results while sending audio"
                raise Refused(Failure("resource_exhausted", message))
            self._finals.append(response)
        else:
            self._interim = response
        self._something.set()

    def close(self) -> None:
        """Tells the reader that nothing more will come; what waits is still handed out."""
        self._closed = True
        self._something.set()

    async def next(self) -> asr_pb2.RecognizeResponse | None:
        """Takes the oldest result, waiting for one if need be; None once the outbox is closed and empty."""
        while True:
            if self._finals:
                return self._finals.popleft()
            if self._interim is not None:
                interim, self._interim = self._interim, None
                return interim
            if self._closed:
                return None
            self._something.clear()
            await self._something.wait()
