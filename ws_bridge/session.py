"""One connection's life: two pumps between a WebSocket client and one `Recognize` call, and how it ends.

    client --uplink--> call            waits where the service does not take more: TCP then holds the client back
    client <--deliver-- outbox <--downlink-- call        waits where the client does not read: interims coalesce

Whoever learns first how the stream ends (a pump, the connection, the bridge while draining) says so with `end`; the
first word counts. Then the call is over at once, what is still owed to the client is sent, and the connection closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum

from websockets.exceptions import ConnectionClosed

from ws_bridge.call import Call
from ws_bridge.channels import Channels
from ws_bridge.config import Settings
from ws_bridge.connection import Connection
from ws_bridge.metrics import Metrics
from ws_bridge.outbox import Outbox
from ws_bridge.protocol import Audio, Close, Conversation, Init, Message, State
from ws_bridge.status import INTERNAL_ERROR, NORMAL, RETRY_AFTER_MS, Failure, Refused, from_grpc
from ws_bridge.wire import error_json, result_json, to_requests

log = logging.getLogger(__name__)

_PINGS_UNANSWERED = 3
_MAX_CLOSE_REASON = 123
_TRACE_HEADERS = ("traceparent", "tracestate")


class End(Enum):
    """How a connection ends without a failure to tell of."""

    DONE = "ok"
    GONE = "gone"


class Session:
    """One client. `run` returns when the connection is closed and the call over."""

    def __init__(self, socket: Connection, channels: Channels, settings: Settings, metrics: Metrics) -> None:
        self._socket = socket
        self._channels = channels
        self._settings = settings
        self._metrics = metrics
        self._talk = Conversation()
        self._outbox = Outbox(settings.bridge_max_unread)
        self._ending: asyncio.Future[End | Failure] = socket.loop.create_future()
        self._init: Init | None = None
        self._opened_at = socket.loop.time()
        self._audio_bytes = 0
        socket.on_gone = lambda: self.end(End.GONE)

    @property
    def state(self) -> State:
        """What the client has said so far."""
        return self._talk.state

    @property
    def has_stream(self) -> bool:
        """Whether the client has begun."""
        return self._talk.state is not State.NEW

    def end(self, how: End | Failure) -> None:
        """Ends the session; the first word counts."""
        if not self._ending.done():
            self._ending.set_result(how)

    def check_alive(self) -> None:
        """Ends the session if its client is dead. Called from time to time."""
        if self._socket.is_dead(_PINGS_UNANSWERED * self._settings.bridge_ping_s):
            self.end(End.GONE)
            self._socket.abort()

    async def run(self) -> None:
        """Serves the client to the end. Raises nothing that is the client's or the service's doing."""
        uplink = asyncio.create_task(self._guard(self._uplink))
        deliver = asyncio.create_task(self._guard(self._deliver))
        how: End | Failure = End.GONE
        try:
            how = await self._ending
        finally:
            await _stop(uplink)  # and with it the call and the downlink
            if how is End.GONE:
                await _stop(deliver)
            else:
                self._outbox.close()
            self._log(how)
        if how is not End.GONE:
            await self._say_goodbye(None if how is End.DONE else how, deliver)
        self._metrics.closed(self._socket.close_code, self._outbox.skipped)

    async def _guard(self, pump: Callable[[], Awaitable[None]]) -> None:
        """Runs a pump; whatever it raises ends the session."""
        try:
            await pump()
        except Refused as refused:
            self.end(refused.failure)
        except ConnectionClosed:
            self.end(End.GONE)
        except Exception:
            log.exception("a pump failed", extra={"fields": {"sid": self._talk.sid}})
            self.end(Failure("internal", "the bridge failed; open a new connection"))

    async def _uplink(self) -> None:
        """Client to service, from init to the end of the session; cancelled by it. Owns the call and the downlink."""
        try:
            async with asyncio.timeout(self._settings.bridge_open_s):
                init = await self._receive()
        except TimeoutError:
            late = f"no init within {self._settings.bridge_open_s:g} s of connecting"
            raise Refused(Failure("deadline_exceeded", late, field="op")) from None
        assert isinstance(init, Init)  # nothing else is let through in state NEW
        self._init = init
        with self._channels.lease() as stub:
            call = Call(stub, [*self._credentials(init), *self._trace_context()])
            downlink = asyncio.create_task(self._guard(lambda: self._downlink(call)))
            try:
                message: Message | None = init
                while await _forward(call, message):
                    message = await self._receive()
                    if isinstance(message, Audio):
                        self._audio_bytes += len(message.data)
                # The service has ended the stream; the downlink tells why.
                await downlink
            finally:
                call.cancel()
                await _stop(downlink)

    async def _receive(self) -> Message | None:
        """The client's next message."""
        data = await self._socket.recv()
        self._metrics.received(data)
        return self._talk.receive(data)

    def _credentials(self, init: Init) -> list[tuple[str, str]]:
        """What the client has shown, as the service asks for it; the service judges."""
        request = self._socket.request
        assert request is not None  # the handshake is over
        values = [f"Bearer {init.key}"] if init.key else []
        values += request.headers.get_all("Authorization")
        return [("authorization", value) for value in values if value.isascii() and value.isprintable()]

    def _trace_context(self) -> list[tuple[str, str]]:
        """The trace that the client says its stream belongs to (W3C Trace Context); the service makes the span."""
        request = self._socket.request
        assert request is not None
        found = [(name, request.headers.get_all(name)) for name in _TRACE_HEADERS]
        return [
            (name, values[0])
            for name, values in found
            if len(values) == 1 and values[0].isascii() and values[0].isprintable()
        ]

    async def _downlink(self, call: Call) -> None:
        """Service to outbox, until the service ends the stream."""
        try:
            async with asyncio.timeout(self._settings.bridge_open_s):
                admitted = await call.admitted()
        except TimeoutError:
            message = "the speech service does not answer; try again later"
            raise Refused(Failure("unavailable", message, retry_after_ms=RETRY_AFTER_MS)) from None
        async for response in call.responses():
            self._outbox.put(response)
        how = await call.outcome()
        if not how.ok:
            raise Refused(from_grpc(how.number, how.message, how.details, admitted=admitted))
        if self._talk.state is not State.CLOSING:
            raise Refused(Failure("internal", "the speech service ended the stream before it was closed"))
        self.end(End.DONE)

    async def _deliver(self) -> None:
        """Outbox to client, until the outbox is closed and empty."""
        while (response := await self._outbox.next()) is not None:
            assert self._init is not None
            text = result_json(response, self._init)
            await self._socket.send(text)
            self._metrics.sent("final" if response.result.is_final else "interim", len(text))

    async def _say_goodbye(self, failure: Failure | None, deliver: asyncio.Task[None]) -> None:
        """Sends what is owed and closes; a client that does not take it in time is dropped."""
        # What the client still sends is in the way of its close frame, and it may not read before it has written.
        discard = asyncio.create_task(self._guard(self._discard))
        try:
            async with asyncio.timeout(self._settings.bridge_close_s):
                await deliver
                if failure is None:
                    await self._socket.close(NORMAL)
                else:
                    text = error_json(failure, self._talk.sid)
                    await self._socket.send(text)
                    self._metrics.sent("error", len(text))
                    await self._socket.close(failure.close_code, _reason(failure))
        except TimeoutError:
            self._socket.abort()
        except ConnectionClosed:
            pass  # it left before hearing us out
        finally:
            await _stop(discard)

    async def _discard(self) -> None:
        while True:
            await self._socket.recv()

    def _log(self, how: End | Failure) -> None:
        """The one line of a stream. Never its audio or text."""
        fields: dict[str, object] = {
            "sid": self._talk.sid,
            "outcome": how.value if isinstance(how, End) else how.code,
            "seconds": round(self._socket.loop.time() - self._opened_at, 3),
            "audio_bytes": self._audio_bytes,
            "interims_skipped": self._outbox.skipped,
        }
        level = logging.INFO
        if isinstance(how, Failure):
            fields["reason"] = how.message
            level = logging.WARNING if how.close_code == INTERNAL_ERROR else logging.INFO
        log.log(level, "connection ended", extra={"fields": fields})


async def _forward(call: Call, message: Message | None) -> bool:
    """Passes a message on; waits while the service takes no more. False: the service has ended the stream."""
    if message is None:
        return True
    if isinstance(message, Close):
        await call.half_close()
        return True
    for request in to_requests(message):
        if not await call.write(request):
            return False
    return True


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _reason(failure: Failure) -> str:
    """A close reason: the message, cut to what a close frame holds."""
    return failure.message.encode()[:_MAX_CLOSE_REASON].decode(errors="ignore")
