"""One HTTP request with a body, and its response; then the connection is closed. h11 has the protocol.

The body is read as it is asked for: what comes sooner waits in the client. A response may come before all of the body
has; the rest is then read and dropped for a while, since a client that still sends would not see the response else. It
goes out in pieces, as the client reads: one that reads slowly gets all of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, cast

import h11
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader

log = logging.getLogger(__name__)

_MOST_BUFFERED = 256 * 1024
"""Bytes of a body that are read ahead."""
_PIECE = 64 * 1024
"""Bytes of a response that are handed to the system before the client has to read some."""


class BodyBroken(ConnectionError):
    """The body ended before its end: the client has gone, or does not speak HTTP."""


class BodyLate(Exception):
    """Nothing of the body has come for too long."""


class HttpExchange(asyncio.Protocol):
    """Serves one request.

    Args:
        handle: answers the request; it is cancelled when the client goes.
        max_header_bytes: longest start of a request, up to its body.
        patience_s: how long a client may take for the start, and for what is left when the response is out.
        quiet_s: how long it may take for each part of the body, and for reading each piece of the response.

    Attributes:
        method: of the request; with `target` and `headers` once `handle` is called.
        target: its path and query.
        headers: as websockets has them.
        loop: that it runs on.
    """

    def __init__(
        self,
        handle: Callable[[HttpExchange], Awaitable[None]],
        *,
        max_header_bytes: int,
        patience_s: float,
        quiet_s: float,
    ) -> None:
        self._handle = handle
        self._patience_s = patience_s
        self._quiet_s = quiet_s
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_header_bytes)
        self.loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._parts: deque[bytes] = deque()
        self._buffered = 0
        self._ended = False
        self._broken = False
        # Whether the response is out, and what comes is dropped.
        self._answered = False
        self._something = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.method = self.target = ""
        self.headers = Headers()

    # ------------------------------------------------------------------------------------------- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for the request."""
        # uvloop's are none by type.
        self._transport = transport = cast(asyncio.Transport, transport)
        # A piece has been taken once nothing of it is left here. One byte, since TLS takes 0 for a buffer that is full
        # when it is empty, too.
        transport.set_write_buffer_limits(high=1, low=0)
        self._late = self.loop.call_later(self._patience_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Takes what the client sends; what comes behind the body is nobody's, and is not kept."""
        if self._answered or self._broken or self._ended:
            return
        self._http.receive_data(data)
        self._read_events()

    def eof_received(self) -> bool:
        """Takes that the client has gone: nobody sends a request and then closes only half of the connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the work for a client that has gone."""
        self._late.cancel()
        self._broken = True
        self._something.set()
        self._writable.set()
        if self._task is not None and not self._answered:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Lets `send` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Lets `send` go on."""
        self._writable.set()

    def _read_events(self) -> None:
        while True:
            try:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._start(event)
            except h11.RemoteProtocolError as error:
                self._refuse(error)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Data):
                self._parts.append(bytes(event.data))
                self._buffered += len(event.data)
                if self._buffered > _MOST_BUFFERED:
                    self._transport.pause_reading()
            elif isinstance(event, h11.EndOfMessage):
                self._ended = True
            self._something.set()
            if self._ended:
                return

    def _start(self, request: h11.Request) -> None:
        self._late.cancel()
        self.method, self.target = request.method.decode(), request.target.decode("latin-1")
        for name, value in request.headers:
            try:
                self.headers[name.decode()] = value.decode("latin-1")
            except InvalidHeader as error:
                # Control characters, which h11 lets through.
                raise h11.RemoteProtocolError(str(error)) from None
        self._task = self.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._handle(self)
        except ConnectionError:
            # Nobody is there to be told.
            pass
        except Exception:
            log.exception("a request failed")
        finally:
            if not self._answered:
                self._transport.abort()

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Ends what is not HTTP: with a response, if none has begun."""
        self._broken = True
        self._something.set()
        if self._task is None and self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = f"this is not HTTP: {error}\n".encode("ascii", "replace")
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
            self._write(h11.Response(status_code=error.error_status_hint, headers=[*headers, _CLOSE]))
            self._write(h11.Data(data=text))
            self._write(h11.EndOfMessage())
            self._answered = True
        self._transport.close()

    # ------------------------------------------------------------------------------------------- what a handler calls

    async def read(self) -> bytes:
        """Reads the next part of the body; b"" after its end.

        Raises:
            BodyBroken: the body has ended before its end.
            BodyLate: nothing of it came in time.
        """
        if self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        while not self._parts:
            if self._ended:
                return b""
            if self._broken:
                raise BodyBroken
            self._something.clear()
            self._transport.resume_reading()
            try:
                async with asyncio.timeout(self._quiet_s):
                    await self._something.wait()
            except TimeoutError:
                raise BodyLate from None
        part = self._parts.popleft()
        self._buffered -= len(part)
        if self._buffered <= _MOST_BUFFERED // 2:
            # Also when all has come: who does not read does not see the client go.
            self._transport.resume_reading()
        return part

    async def respond(self, status: int, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        """Sends a whole response."""
        await self.start(status, [*headers, ("Content-Length", str(len(body)))])
        await self.send(body)
        self.finish()

    async def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Sends the start of a response. Raises as `send` does."""
        reason = HTTPStatus(status).phrase.encode()
        self._write(h11.Response(status_code=status, headers=[*headers, _CLOSE], reason=reason))
        await self._until_read()

    async def send(self, data: bytes) -> None:
        """Sends a part of the response's body; waits while the client does not read.

        Raises:
            BodyBroken: the client has gone, or reads too little for too long.
        """
        whole = memoryview(data)
        for at in range(0, len(data), _PIECE) or (0,):
            if data:
                self._write(h11.Data(data=bytes(whole[at : at + _PIECE])))
            await self._until_read()

    def finish(self) -> None:
        """Ends the response, and the connection once the client has it."""
        self._write(h11.EndOfMessage())
        self._answered = True
        self._parts.clear()
        # Whoever does not read does not keep the connection.
        self._late = self.loop.call_later(self._patience_s, self._transport.abort)
        if self._ended:
            self._transport.close()
        else:
            # What is still coming is dropped: closed at once, the connection would be reset, and the response be lost.
            self._transport.resume_reading()

    async def _until_read(self) -> None:
        try:
            async with asyncio.timeout(self._quiet_s):
                await self._writable.wait()
        except TimeoutError:
            raise BodyBroken from None
        if self._broken:
            raise BodyBroken

    def _write(self, event: Any) -> None:
        if self._broken and self._task is not None:
            raise BodyBroken
        data = self._http.send(event)
        if data and not self._transport.is_closing():
            self._transport.write(data)


_CLOSE = ("Connection", "close")
