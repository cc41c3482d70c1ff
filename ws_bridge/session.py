"""The life of one connection: messages are passed between a WebSocket client and one `Recognize` call until it ends.

    client --uplink--> call            waits where the service does not take more: TCP then holds the client back
    client <--delivery-- outbox <--downlink-- call       waits where the client does not read: interims coalesce

What the client's messages mean, and how results are written, is its dialect's to say (`dialect.py`).

Whoever learns first how the stream ends (one of the three tasks, the connection, the bridge while draining) says so
with `end`; later calls change nothing. Then the call ends at once, results that still wait are sent to the client, and
the connection is closed. Where it is the bridge that ends a stream, `conclude` half-closes the call before that, so
that what was recognized comes as a last final.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum

from asr.v1 import asr_pb2
from websockets.exceptions import ConnectionClosed

from ws_bridge.call import Call
from ws_bridge.call_metadata import credentials, trace_context
from ws_bridge.channels import Channels
from ws_bridge.config import Settings
from ws_bridge.connection import Connection
from ws_bridge.delivery import Delivery
from ws_bridge.dialect import Dialect, Reply, Step
from ws_bridge.messages import Audio, Init, Message, State
from ws_bridge.metrics import Metrics
from ws_bridge.sender import Sender
from ws_bridge.status import INTERNAL_ERROR, RETRY_AFTER_MS, Failure, Refused, from_grpc
from ws_bridge.webhook import Webhook
from ws_bridge.wire import last_final

log = logging.getLogger(__name__)

_PINGS_UNANSWERED = 3
_LONGEST_OPENING_S = 3600.0
"""How long a client that only says that it is there may go on saying so before it opens a stream."""


class End(Enum):
    """The end of a connection that has no failure to report."""

    DONE = "ok"
    GONE = "gone"


class Session:
    """Serves one client. `run` returns when the connection is closed and the call has ended."""

    def __init__(
        self,
        socket: Connection,
        dialect: Dialect,
        channels: Channels,
        settings: Settings,
        metrics: Metrics,
        elsewhere: Webhook | None = None,
    ) -> None:
        """`elsewhere` takes what the client is told in its place: all of it, though the client has gone."""
        self._socket = socket
        self._elsewhere = elsewhere
        self._dialect = dialect
        self._channels = channels
        self._settings = settings
        self._metrics = metrics
        self._delivery = Delivery(socket, dialect, settings, metrics, elsewhere)
        self._ending: asyncio.Future[End | Failure] = socket.loop.create_future()
        self._opened_at = socket.loop.time()
        self._audio_bytes = 0
        # Why the bridge ends the stream, None while it does not; and the uplink's task while it waits for the client.
        self._concluding: Failure | None = None
        self._waiting: asyncio.Task[None] | None = None
        # Whether the call is half-closed for another one.
        self._reopens = False
        # Tasks that `_stop` has cancelled.
        self._stopped: set[asyncio.Task[None]] = set()
        socket.on_gone = self._gone
        socket.too_large = self._delivery.too_large

    @property
    def state(self) -> State:
        """How far the client's messages have come."""
        return self._dialect.state

    @property
    def has_stream(self) -> bool:
        """Whether the client has sent its init."""
        return self._dialect.state is not State.NEW

    def end(self, how: End | Failure) -> None:
        """Ends the session in this way, unless it is ending already."""
        if not self._ending.done():
            self._ending.set_result(how)

    def _gone(self) -> None:
        """Takes that the client has gone; a stream whose results go elsewhere has a while to end by itself."""
        if self._elsewhere is not None and self.has_stream:
            self._socket.loop.call_later(self._settings.bridge_close_s, self.end, End.GONE)
        else:
            self.end(End.GONE)

    def conclude(self, failure: Failure) -> None:
        """Ends the session for a reason of the bridge's, once the service has given its last final."""
        if self._concluding is not None:
            return
        if not self.has_stream:
            self.end(failure)
            return
        self._socket.loop.call_later(self._settings.bridge_close_s, self.end, failure)
        # A client that has sent `close` has its last final coming.
        if self._dialect.state is State.OPEN:
            self._concluding = failure
            self._wake()

    def _is_concluding(self) -> bool:
        return self._concluding is not None

    def check_alive(self) -> None:
        """Ends the session if its client is dead. The bridge calls it every second."""
        if self._socket.is_dead(_PINGS_UNANSWERED * self._settings.bridge_ping_s):
            self._socket.abort()
            self._gone()

    async def run(self) -> None:
        """Serves the client to the end; raises nothing that the client or the service caused."""
        uplink = asyncio.create_task(self._guard(self._uplink))
        deliver = asyncio.create_task(self._guard(self._delivery.run))
        how: End | Failure = End.GONE
        try:
            how = await self._ending
        finally:
            # With it end the call and the downlink.
            await self._stop(uplink)
            if how is End.GONE:
                await self._stop(deliver)
                self._delivery.give_up()
            else:
                self._delivery.close()
            self._log(how)
        if how is not End.GONE:
            # The client's close frame comes behind whatever it still sends; it may not read before it has sent that.
            discard = asyncio.create_task(self._guard(self._discard))
            try:
                await self._delivery.finish(None if how is End.DONE else how, deliver)
            finally:
                await self._stop(discard)
        self._metrics.closed(self._socket.close_code, self._delivery.skipped)

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs one of the session's tasks; whatever it raises ends the session."""
        try:
            await task()
        except Refused as refused:
            self.end(refused.failure)
        except ConnectionClosed:
            self.end(End.GONE)
        except asyncio.CancelledError:
            # Who stops a task knows how the session ends. After any other cancel nobody would end it.
            if asyncio.current_task() not in self._stopped and not self._ending.done():
                self._failed()
            raise
        except Exception:
            self._failed()

    def _failed(self) -> None:
        """Ends the session for the exception that is being handled, a fault of the bridge's own."""
        log.exception("a session failed", extra={"fields": {"sid": self._dialect.sid}})
        self.end(Failure("internal", "the bridge failed; open a new connection"))

    async def _stop(self, task: asyncio.Task[None]) -> None:
        """Cancels one of the session's tasks, and waits until it has ended."""
        self._stopped.add(task)
        task.cancel()
        await asyncio.wait([task])

    async def _uplink(self) -> None:
        """Passes the client's messages to the service, until the session's end cancels it.

        It owns the call, and the task that takes the call's results.
        """
        pending = deque(self._take_in(self._dialect.opening()))
        init: Init | None = await self._opening(pending)
        while init is not None and not self._ending.done():
            init = await self._call(init, pending)

    async def _call(self, init: Init, pending: deque[Message]) -> Init | None:
        """Passes messages on to one call, first those that are pending; returns what the next one is to be opened with.

        There is a next one only where the client's protocol changes how its stream is recognized.
        """
        request = self._socket.request
        # It is there once the handshake is over.
        assert request is not None
        with self._channels.lease() as stub:
            call = Call(stub, [*credentials(init.key, request.headers), *trace_context(request.headers)])
            sender = Sender(call, init, self._wake)
            downlink = asyncio.create_task(self._guard(lambda: self._downlink(call, sender)))
            try:
                following = await self._pump(sender, pending)
                if (self._concluding is not None or following) and await sender.send(None):
                    await call.half_close()
                # Otherwise the service has ended the stream; the downlink finds out why.
                await downlink
            finally:
                sender.stop()
                call.cancel()
                await self._stop(downlink)
                call.release()
        return following

    async def _opening(self, pending: deque[Message]) -> Init:
        """Waits until the client has said how its stream is to be recognized; adds what it said to `pending`."""
        limit_s = self._dialect.patience_s or self._settings.bridge_open_s
        longest_s = max(limit_s, _LONGEST_OPENING_S)
        within = f"{limit_s:g} s of connecting"
        latest = self._socket.loop.time() + longest_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                while not pending:
                    pending += await self._receive()
                    if self._dialect.still_there:
                        until = self._socket.loop.time() + limit_s
                        within = f"{limit_s:g} s of saying that you are there"
                        if until > latest:
                            until, within = latest, f"{longest_s:g} s of connecting"
                        limit.reschedule(until)
        except TimeoutError:
            late = f"{self._dialect.words.late} {within}"
            raise Refused(Failure("deadline_exceeded", late, field="op")) from None
        init = pending[0]
        # Nothing else is let through in state NEW.
        assert isinstance(init, Init)
        return init

    async def _pump(self, sender: Sender, pending: deque[Message]) -> Init | None:
        """Passes messages on until the service or the bridge ends the stream, first those that are pending.

        Only the wait for the client is cut short: to cancel a write would cancel the call.

        Returns:
            What the stream is to be opened anew with, left pending; None if it has ended.
        """
        task = asyncio.current_task()
        assert task is not None
        while await sender.send(pending.popleft() if pending else None) and not self._is_concluding():
            while not pending and not sender.is_due():
                self._waiting = task
                try:
                    pending += await self._receive()
                except asyncio.CancelledError:
                    if self._is_concluding() and not self._ending.done():
                        return None
                    # `_wake` has asked for it, and nobody else, unless requests are left.
                    if not sender.is_due() or task.uncancel() > 0:
                        raise
                finally:
                    self._waiting = None
            if pending and isinstance(pending[0], Init):
                self._reopens = True
                return pending[0]
        return None

    def _wake(self) -> None:
        """Ends the uplink's wait for the client, once: what cancels it a second time is somebody else."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    async def _receive(self) -> list[Message]:
        """Receives the client's next message; returns what of it is for the service."""
        try:
            data = await self._socket.recv()
        except ConnectionClosed:
            if self._elsewhere is None or not self.has_stream:
                raise
            if not (steps := self._dialect.left()):
                # The last results are on their way.
                await asyncio.wait([self._ending])
            return self._take_in(steps)
        self._metrics.received(data)
        return self._take_in(self._dialect.receive(data))

    def _take_in(self, steps: Iterable[Step]) -> list[Message]:
        """Leaves replies to the outbox, and returns what is for the service."""
        messages: list[Message] = []
        for step in steps:
            if isinstance(step, Reply):
                self._delivery.reply(step.text)
                continue
            if isinstance(step, Audio):
                self._audio_bytes += len(step.data)
            messages.append(step)
        return messages

    async def _downlink(self, call: Call, sender: Sender) -> None:
        """Puts the service's results into the outbox, until the service ends the stream."""
        try:
            async with asyncio.timeout(self._settings.bridge_open_s):
                admitted = await call.admitted()
        except TimeoutError:
            message = "the speech service does not answer; try again later"
            raise Refused(Failure("unavailable", message, retry_after_ms=RETRY_AFTER_MS)) from None
        # By channel.
        newest: dict[int, asr_pb2.RecognizeResponse] = {}
        async for response in call.responses():
            newest[response.result.channel] = response
            sender.response(response)
            self._take(response)
        how = await call.outcome()
        if self._concluding is not None:
            raise Refused(self._concluding)
        if not how.ok:
            failure = from_grpc(
                how.number, how.message, how.details, admitted=admitted, words=self._dialect.words
            )
            for last in newest.values() if failure.lost else ():
                if not last.result.is_final and last.result.text:
                    self._delivery.put(last_final(last), forced=True)
            raise Refused(failure)
        if self._reopens:
            self._reopens = False
            return
        if self._dialect.state is not State.CLOSING:
            raise Refused(Failure("internal", "the speech service ended the stream before it was closed"))
        self.end(End.DONE)

    def _take(self, response: asr_pb2.RecognizeResponse) -> None:
        """Leaves a result to the client; one that has left too many unread has its stream ended."""
        if self._concluding is None:
            try:
                self._delivery.put(response)
            except Refused as refused:
                if self._dialect.state is not State.OPEN:
                    raise
                self.conclude(refused.failure)
            return
        result = response.result
        if result.final_reason == asr_pb2.FINAL_REASON_END_OF_STREAM:
            # The bridge has half-closed the call, not the client.
            result.final_reason = asr_pb2.FINAL_REASON_ENDED_BY_SERVER
            if not result.text:
                return
        self._delivery.put(response, forced=True)

    async def _discard(self) -> None:
        while True:
            await self._socket.recv()

    def _log(self, how: End | Failure) -> None:
        """Logs the connection's one line, which never has audio or text."""
        fields: dict[str, object] = {
            "sid": self._dialect.sid,
            "outcome": how.value if isinstance(how, End) else how.code,
            "seconds": round(self._socket.loop.time() - self._opened_at, 3),
            "audio_bytes": self._audio_bytes,
            "interims_skipped": self._delivery.skipped,
        }
        level = logging.INFO
        if isinstance(how, Failure):
            fields["reason"] = how.message
            level = logging.WARNING if how.close_code == INTERNAL_ERROR else logging.INFO
        log.log(level, "connection ended", extra={"fields": fields})
