"""What one client is told: results and replies in their order, and at last how its connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from asr.v1 import asr_pb2
from websockets.exceptions import ConnectionClosed

from ws_bridge.config import Settings
from ws_bridge.connection import Connection
from ws_bridge.dialect import Dialect
from ws_bridge.metrics import Metrics
from ws_bridge.outbox import Outbox, Told
from ws_bridge.status import Failure, Refused

_MAX_CLOSE_REASON = 123


class Delivery:
    """Sends what waits in the outbox, as the client reads it.

    Args:
        socket: to the client.
        dialect: of the client.
        settings: of the bridge.
        metrics: count what is sent.
        elsewhere: takes what the client is told in its place, if it does not take it itself.
    """

    def __init__(
        self,
        socket: Connection,
        dialect: Dialect,
        settings: Settings,
        metrics: Metrics,
        elsewhere: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self._socket = socket
        self._dialect = dialect
        self._settings = settings
        self._metrics = metrics
        self._elsewhere = elsewhere
        self._outbox = Outbox(settings.bridge_max_unread)

    @property
    def skipped(self) -> int:
        """Interims that were replaced before the client took them."""
        return self._outbox.skipped

    def put(self, response: asr_pb2.RecognizeResponse, *, forced: bool = False) -> None:
        """Leaves a result to be sent; `forced`, however many wait.

        Raises:
            Refused: the client has left too many messages unread; this one is sent all the same.
        """
        messages = self._dialect.take(response)
        try:
            self._outbox.put(response, messages, forced=forced)
        except Refused:
            # It is the last one that is.
            self._outbox.put(response, messages, forced=True)
            raise

    def reply(self, message: str) -> None:
        """Leaves a message to be sent that comes of no result. Raises Refused as `put` does, without sending it."""
        self._outbox.reply(message)

    def close(self) -> None:
        """Tells that nothing more will be put."""
        self._outbox.close()

    async def run(self) -> None:
        """Sends what is put, until `close`."""
        while (item := await self._outbox.next()) is not None:
            if isinstance(item, Told):
                for text in item.messages:
                    await self._send(item.kind, text)
            else:
                for text in self._dialect.interim(item):
                    await self._send("interim", text)

    async def finish(self, failure: Failure | None, run: asyncio.Task[None]) -> None:
        """Sends what still waits and how it ends, and closes; drops a client that is too slow for that.

        Args:
            failure: that ends the connection, None for none.
            run: the task of `run`, after `close`.
        """
        try:
            async with asyncio.timeout(self._settings.bridge_close_s):
                await run
                ending = self._dialect.done() if failure is None else self._dialect.failed(failure)
                for text in ending.messages:
                    await self._send("event" if failure is None else "error", text)
                await self._socket.close(ending.code, _cut(ending.reason))
        except TimeoutError:
            self._socket.abort()
        except ConnectionClosed:
            # The client did not wait for all of it.
            pass

    def too_large(self) -> Sequence[str]:
        """Makes the messages for a message that is larger than the settings allow."""
        limit = self._settings.bridge_max_message_bytes
        failure = Failure(
            "invalid_argument", f"message of more than {limit} bytes: send audio in smaller ones", "message"
        )
        messages = self._dialect.failed(failure).messages
        for text in messages:
            self._metrics.sent("error", len(text))
        return messages

    async def _send(self, kind: str, text: str) -> None:
        await (self._elsewhere or self._socket.send)(text)
        self._metrics.sent(kind, len(text))


def _cut(reason: str) -> str:
    """The reason in a close frame, cut to what the frame holds."""
    return reason.encode()[:_MAX_CLOSE_REASON].decode(errors="ignore")
