"""What one client is told: results and replies in their order, and at last how its connection ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from asr.v1 import asr_pb2
from websockets.exceptions import ConnectionClosed

from ws_bridge.config import Settings
from ws_bridge.connection import Connection
from ws_bridge.dialect import Dialect, Ending
from ws_bridge.metrics import Metrics
from ws_bridge.outbox import Outbox, Told
from ws_bridge.status import Failure, Refused
from ws_bridge.webhook import Webhook

log = logging.getLogger(__name__)

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
        elsewhere: Webhook | None,
    ) -> None:
        self._socket = socket
        self._dialect = dialect
        self._settings = settings
        self._metrics = metrics
        self._elsewhere = elsewhere
        self._outbox = Outbox(settings.bridge_max_unread)
        # Messages that were taken out of the outbox and are not sent, the one that is being sent among them.
        self._in_hand = 0
        # For what still waits at the end. A message that is posted may take longer than clients are given.
        self._limit_s = settings.bridge_close_s
        if elsewhere is not None:
            self._limit_s = max(self._limit_s, elsewhere.longest_s)

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
                await self._send_all(item.kind, item.messages)
            else:
                await self._send_all("interim", self._dialect.interim(item))

    async def finish(self, failure: Failure | None, run: asyncio.Task[None]) -> None:
        """Sends what still waits and how it ends, and closes; drops a client that is too slow for that.

        Args:
            failure: that ends the connection, None for none.
            run: the task of `run`, after `close`.
        """
        ending: Ending | None = None
        try:
            async with asyncio.timeout(self._limit_s):
                await run
                ending = self._ending(failure)
                await self._send_all("event" if failure is None else "error", ending.messages)
                await self._socket.close(ending.code, _cut(ending.reason))
        except TimeoutError:
            self._socket.abort()
            self.give_up(0 if ending or self._elsewhere is None else len(self._ending(failure).messages))
        except ConnectionClosed:
            # The client did not wait for all of it.
            pass

    def give_up(self, more: int = 0) -> None:
        """Tells the log what is left undelivered elsewhere, and `more` messages; nobody else would know of them."""
        undelivered = self._outbox.waiting + self._in_hand + more
        if self._elsewhere is not None and undelivered:
            fields = {"sid": self._dialect.sid, "undelivered": undelivered}
            log.error("the webhook has not taken the last messages in time", extra={"fields": fields})

    def _ending(self, failure: Failure | None) -> Ending:
        return self._dialect.done() if failure is None else self._dialect.failed(failure)

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

    async def _send_all(self, kind: str, messages: Sequence[str]) -> None:
        for at, text in enumerate(messages):
            self._in_hand = len(messages) - at
            await (self._socket.send(text) if self._elsewhere is None else self._elsewhere.post(text))
            self._metrics.sent(kind, len(text))
        self._in_hand = 0


def _cut(reason: str) -> str:
    """The reason in a close frame, cut to what the frame holds."""
    return reason.encode()[:_MAX_CLOSE_REASON].decode(errors="ignore")
