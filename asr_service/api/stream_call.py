"""One streaming call, whatever protocol it speaks: what is common to `asr.v1` and the optional interfaces.

The parties share a call, all on the event loop: a reader that takes packets to the session, a writer for each channel
that takes results to the client, and the handler, which waits for the first reason to end and alone ends the call.
Neither direction waits for the other. What runs per packet is `Call._read`: no task, no future, no log line.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from asr_service.access.api_keys import caller
from asr_service.api import messages as wire
from asr_service.core.commands import Ended
from asr_service.core.errors import (
    AsrError,
    InternalError,
    InvalidArgument,
    LimitReached,
    StreamTimeout,
    wire_status,
)
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.observability.traces import Trace
from asr_service.sessions.admission import Door
from asr_service.sessions.multichannel import Feed, Interleaved
from asr_service.sessions.session import Session

log = logging.getLogger(__name__)

STREAM_ID_KEY = "x-stream-id"
OPEN_S = 60.0
"""How long a client may take to say what it wants."""
LAST_READ_S = 5.0
"""How long a client that does not read may take to fetch what is left of a stream that has ended with an error."""
_ASKED = (FinalReason.FINALIZE, FinalReason.END_OF_STREAM)

Context = grpc.aio.ServicerContext[Any, Any]  # its types do not know that `read` may return EOF


@dataclass(frozen=True, slots=True)
class Opening:
    """What the client asked for at first: the config of every channel, and how many channels its audio has."""

    config: StreamConfig
    channels: int = 1


class Call(ABC):
    """One streaming call; a protocol says what its messages mean.

    Attributes:
        done: resolved once, when the call is to end: with the error to tell, or None.
        gone: the client is not there any more; there is nobody to tell.
        sessions: of the channels; empty until the stream is admitted.
        feed: where the input goes.
        ahead: requests that were read and are yet to be looked at.
        writers: channels that still have results to send.
        silent: nothing has come from the client yet.
        heard: when the client was last heard, on the loop's clock.
        taking: the reader waits for room in the inbox; if the client is quiet, it is our doing.
        stuck: since when a write waits for the client to read, on the loop's clock; None while none does.
        closing: the client has half-closed; it is not idle while its tail is being recognized.
        asked: monotonic times at which the finalize requests (and the half-close) came in that are not answered yet.
        bytes: audio received; of these, `counted` are in the metrics already.
        trace: of the stream; None without tracing.
    """

    request_name: str
    """What the client should send, for the message to one that sends something else."""
    silence_hint: str
    """What the client may send while it has no audio."""
    method: str
    """Full name of the call, for its trace."""

    def __init__(self, door: Door, context: Context) -> None:
        self.door = door
        self.context = context
        self.metrics = door.metrics
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[AsrError | None] = self.loop.create_future()
        self.name = ""
        self.sessions: list[Session] = []
        self.feed: Feed
        self.ahead: deque[Any] = deque()
        self.tasks: list[asyncio.Task[None]] = []
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.began = self.heard = self.loop.time()
        self.silent = True
        self.closing = self.gone = self.taking = False
        self.stuck: float | None = None
        self.writers = 0
        self.asked: deque[float] = deque()
        self.bytes = self.counted = 0
        self.audio_ms = 0
        self.trace: Trace | None = None
        if door.tracing is not None:
            self.trace = door.tracing.begin(self.method, context.invocation_metadata() or ())

    # ---------------------------------------------------------------------------------------- what the protocol says

    @abstractmethod
    async def opening(self) -> Opening:
        """Reads what the client asks for at first, with `next_request`.

        It is read even if the stream will be refused: grpc.aio clients lose a status that meets their first write.

        Raises:
            ClientError: it cannot be served.
        """

    @abstractmethod
    def audio(self, request: Any) -> bytes:
        """Audio in a request; empty if there is none."""

    @abstractmethod
    def control(self, request: Any) -> None:
        """What else the request asks for, after its audio was taken.

        Raises:
            ClientError: it makes no sense here.
        """

    @abstractmethod
    def response(self, result: Result, channel: int) -> Message | None:
        """A result as it goes out; None if it does not."""

    # -------------------------------------------------------------------------------------------------- its life

    async def run(self) -> None:
        """Serves the call. The slot is asked back whatever happens, before the client is told the status."""
        error: AsrError | None = None
        outcome = "cancelled"  # unless we come to know better
        try:
            await self._guard(self._start())
            error = await self.done
            if not self.gone:
                outcome = "ok" if error is None else wire_status(error).name.lower()
        finally:
            for timer in self.timers.values():
                timer.cancel()
            for task in self.tasks:
                task.cancel()
            for session in self.sessions:
                session.cancel()
            if self.sessions:
                self.door.leave()
            self._account(outcome, error)
        if error is not None:
            await abort(self.context, error)

    async def next_request(self) -> Any | None:
        """The next request while the stream is being opened, None after the last one.

        The first has to come within `OPEN_S`, since a call without one holds no permit that would bound their number.
        """
        limit = min(OPEN_S, self.door.idle_timeout_s) if self.silent else self.door.idle_timeout_s
        try:
            async with asyncio.timeout(limit):
                request = await self.context.read()
        except TimeoutError:
            raise self._too_quiet(limit) from None
        except DecodeError:
            raise self._undecodable() from None
        self.silent = False
        return None if request is grpc.aio.EOF else request

    def finalize(self, tag: str) -> None:
        """Asks for the final of what has come so far."""
        self.feed.finalize(tag)
        if self.sessions[0].ended is None:
            self.asked.append(time.monotonic())

    async def _start(self) -> None:
        """Admits the stream and sets both directions going."""
        opening = await self.opening()
        config = opening.config
        self.name = config.name
        self.sessions = sessions = self.door.admit(config, opening.channels)
        self.feed = sessions[0] if len(sessions) == 1 else Interleaved(sessions, config.encoding)
        if self.trace is not None:
            self.trace.admitted(config, opening.channels, sessions[0].client)
        await self.context.send_initial_metadata(((STREAM_ID_KEY, config.name),))
        self.timers["idle"] = self.loop.call_later(self.door.idle_timeout_s, self._check_idle)
        if limit := self.door.max_stream_s:
            reached = LimitReached(f"the stream reached its limit of {limit:g} s; open another to go on")
            self.timers["limit"] = self.loop.call_later(limit, self._end, reached)
        self.writers = len(sessions)
        for session in sessions:
            session.on_end = self._session_ended
        writing = asyncio.Lock() if len(sessions) > 1 else None
        work = [self._read(), *(self._write(at, session, writing) for at, session in enumerate(sessions))]
        self.tasks = [self.loop.create_task(self._guard(part)) for part in work]

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Whatever goes wrong in a part of the call ends the call, and no other."""
        try:
            await work
        except AsrError as error:
            self._end(error)
        except grpc.aio.BaseError:
            self.gone = True
            self._end(None)
        except Exception:
            bug = InternalError()
            log.exception("request %s: a call failed", bug.request_id)
            self._end(bug)

    def _end(self, error: AsrError | None) -> None:
        if not self.done.done():
            self.done.set_result(error)

    async def _read(self) -> None:
        """Client to session, until half-close. The first lines of the loop are what a packet costs."""
        read, send, clock = self.context.read, self.feed.send_audio, self.loop.time
        audio_of, control, ahead = self.audio, self.control, self.ahead
        while True:
            try:
                request = ahead.popleft() if ahead else await read()
            except DecodeError:
                raise self._undecodable() from None
            if request is grpc.aio.EOF:
                self.closing = True
                self.heard = clock()
                self.asked.append(time.monotonic())
                self.feed.half_close()
                return
            self.heard = clock()
            audio = audio_of(request)
            if audio:
                self.bytes += len(audio)
                self.taking = True
                await send(audio)
                self.taking = False
                self.heard = clock()
            control(request)

    async def _write(self, channel: int, session: Session, writing: asyncio.Lock | None) -> None:
        """One channel's session to the client, until the stream is over; `writing` if there are others."""
        while True:
            event = await session.next()
            if isinstance(event, Ended):
                error = event.error
                if error is not None:
                    self._end(error if isinstance(error, AsrError) else InternalError())
                self.writers -= 1
                if not self.writers:
                    self._end(None)
                return
            self.audio_ms = event.audio_ms
            self.metrics.received(self.bytes - self.counted)
            self.counted = self.bytes
            message = self.response(event, channel)
            if message is not None:
                if writing is None:
                    self.stuck = self.loop.time()
                    await self.context.write(message)
                else:
                    async with writing:
                        self.stuck = self.loop.time()
                        await self.context.write(message)
                self.stuck = None
                self.metrics.result_sent(time.time() - event.made_unix_ms / 1000)
            latency_s = None
            if event.reason in _ASKED and self.asked and not channel:
                latency_s = time.monotonic() - self.asked.popleft()
                self.metrics.final_latency(latency_s)
            if self.trace is not None and message is not None:
                self.trace.result(event, channel, latency_s)

    def _session_ended(self, ended: Ended) -> None:
        """A channel's stream is over; the writer tells so, unless its client does not read."""
        if ended.error is None:
            return
        error = ended.error if isinstance(ended.error, AsrError) else InternalError()
        if "unread" not in self.timers:
            self.timers["unread"] = self.loop.call_later(LAST_READ_S, self._end, error)

    def _check_idle(self) -> None:
        """Ends the call if nothing was heard for too long; otherwise looks again when that could be.

        After half-close it is the client's reading that is watched, from then on: how long the tail takes is our own
        business.
        """
        limit, now = self.door.idle_timeout_s, self.loop.time()
        if self.closing:
            since = now if self.stuck is None else max(self.stuck, self.heard)
            error = StreamTimeout(f"results were not read for {limit:g} s after the end of the audio")
        else:
            since, error = now if self.taking else self.heard, self._too_quiet(limit)
        left = since + limit - now
        if left <= 0:
            self._end(error)
        else:
            self.timers["idle"] = self.loop.call_later(left, self._check_idle)

    def _too_quiet(self, limit: float) -> StreamTimeout:
        return StreamTimeout(
            f"nothing was received for {limit:g} s; send audio, or {self.silence_hint} while there is none"
        )

    def _undecodable(self) -> InvalidArgument:
        return InvalidArgument(f"request is not an {self.request_name} message", field="request")

    def _account(self, outcome: str, error: AsrError | None) -> None:
        """Tells metrics and log that the call is over, once."""
        admitted = bool(self.sessions)
        self.metrics.call_ended(outcome, admitted=admitted)
        self.metrics.received(self.bytes - self.counted)
        self.metrics.coalesced(sum(session.coalesced for session in self.sessions))
        fields = {
            "stream": self.name,
            "outcome": outcome,
            "seconds": round(self.loop.time() - self.began, 3),
            "audio_ms": self.audio_ms,
            "bytes": self.bytes,
            "peer": self.context.peer(),
        }
        if key := caller.get():
            fields["key"] = key.name
        if error is not None:
            fields["why"] = error.message
        if self.trace is not None:
            self.trace.end(outcome, error, audio_ms=self.audio_ms, received=self.bytes)
            if self.trace.id:
                fields["trace"] = self.trace.id
        level = logging.INFO if admitted else logging.DEBUG
        if isinstance(error, InternalError):
            level = logging.ERROR
        log.log(level, "stream ended", extra={"fields": fields})


async def abort(context: Context, error: AsrError) -> NoReturn:
    """Ends the call with the error's status and details."""
    await context.abort_with_status(rpc_status.to_status(wire.status(error)))
