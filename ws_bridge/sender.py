"""Sends a client's messages to the service: audio once it completes a chunk, everything else at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asr.v1 import asr_pb2

from ws_bridge.call import Call
from ws_bridge.messages import Audio, Close, Finalize, Init, Message
from ws_bridge.packet_joiner import PacketJoiner
from ws_bridge.wire import bytes_per_s, joins_packets, to_requests


class Sender:
    """Sends one stream's messages. Its coroutines are for one task, which also waits for the client's messages.

    Args:
        call: to the service.
        init: of the stream.
        on_hold_over: called when `is_due` has become true: what is held is to be sent, by `send(None)`.
    """

    def __init__(self, call: Call, init: Init, on_hold_over: Callable[[], None]) -> None:
        self._is_due = False
        self._call = call
        self._on_hold_over = on_hold_over
        self._joiner = PacketJoiner(bytes_per_s(init), joins=joins_packets(init))
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def is_due(self) -> bool:
        """Returns whether what is held has waited for long enough."""
        return self._is_due

    async def send(self, message: Message | None) -> bool:
        """Sends a message, or None for what is held; waits while the service takes no more.

        Returns:
            False once the service has ended the stream.
        """
        if isinstance(message, Audio):
            sent = [await self._write(Audio(data)) for data in self._joiner.add(message.data)]
            if sent:
                self.stop()
            elif self._timer is None:
                self._timer = self._loop.call_later(self._joiner.wait_s, self._hold_over)
            return all(sent)
        self.stop()
        held = self._joiner.take()
        if held and not await self._write(Audio(held)):
            return False
        if isinstance(message, Finalize):
            self._joiner.finalize()
        if isinstance(message, Close):
            await self._call.half_close()
            return True
        return message is None or await self._write(message)

    def response(self, response: asr_pb2.RecognizeResponse) -> None:
        """Takes what a response says of chunks."""
        if self._joiner.response(response):
            self._hold_over()

    def stop(self) -> None:
        """Ends the wait for the rest of a chunk."""
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold_over(self) -> None:
        # The timer and a response may say so one after the other, before anything could be sent.
        if self._is_due:
            return
        self._is_due = True
        self._on_hold_over()

    async def _write(self, message: Message) -> bool:
        for request in to_requests(message):
            if not await self._call.write(request):
                return False
        return True
