"""The gRPC servicer: one `Recognize` call is one stream.

Three parties share a call, all on the event loop: a reader that takes packets to the session, a writer that takes
results to the client, and the handler, which waits for the first reason to end and alone ends the call. Neither
direction waits for the other. What runs per packet is `_Call._read`: no task, no future, no log line.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Coroutine
from typing import Any, NoReturn, cast

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from asr_service import __version__, wire
from asr_service.core import Ended, FinalReason, ModelInfo, StreamConfig
from asr_service.errors import (
    AsrError,
    ClientError,
    InvalidArgument,
    LimitReached,
    OutOfOrder,
    StreamTimeout,
    Unavailable,
    wire_status,
)
from asr_service.metrics import Metrics
from asr_service.sessions import Session, Sessions

log = logging.getLogger(__name__)

STREAM_ID_KEY = "x-stream-id"
STARTING_RETRY_S = 5.0

_Context = grpc.aio.ServicerContext[Any, Any]  # its types do not know that `read` may return EOF


class SpeechServicer(asr_pb2_grpc.SpeechServiceServicer):
    """Serves `asr.v1.SpeechService`.

    Attributes:
        info: what is loaded; None until the engine runs.
        refusal: what new streams are answered with instead of being admitted; None while serving.
    """

    def __init__(
        self,
        sessions: Sessions,
        metrics: Metrics,
        *,
        idle_timeout_s: float,
        max_stream_s: float,
        max_streams: int,
        max_message_bytes: int,
    ) -> None:
        """Limits as in the settings of the same names; `max_stream_s` 0 for none."""
        self.info: ModelInfo | None = None
        self.refusal: AsrError | None = _starting()
        self.sessions = sessions
        self.metrics = metrics
        self.idle_timeout_s = idle_timeout_s
        self.max_stream_s = max_stream_s
        self._max_streams = max_streams
        self._max_message_bytes = max_message_bytes
        self._calls = 0
        self._idle = asyncio.Event()

    async def Recognize(  # type: ignore[override]  # noqa: N802 - the stubs' types know the generator style only
        self, _requests: object, context: _Context
    ) -> None:
        """One stream, from its config to its last final."""
        self._calls += 1
        try:
            await _Call(self, context).run()
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def drained(self) -> None:
        """Returns once no call is left; new ones are to be refused by then."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def GetServiceInfo(  # noqa: N802 - the contract's name
        self, _request: pb.GetServiceInfoRequest, context: _Context
    ) -> pb.GetServiceInfoResponse:
        """What is served; UNAVAILABLE until the model is loaded."""
        if self.info is None:
            await _abort(context, self.refusal or _starting(), "")
        return wire.service_info(
            self.info,
            version=__version__,
            max_streams=self._max_streams,
            active_streams=self.sessions.active,
            max_message_bytes=self._max_message_bytes,
        )


def _starting() -> Unavailable:
    return Unavailable("the service is starting: its model is not loaded yet", retry_after_s=STARTING_RETRY_S)


async def _abort(context: _Context, error: BaseException, request_id: str) -> NoReturn:
    """Ends the call with the error's status and details."""
    await context.abort_with_status(rpc_status.to_status(wire.status(error, request_id)))


class _Call:
    """One `Recognize` call.

    Attributes:
        done: resolved once, with the reason why the call ends; None for a flushed end of stream.
        heard: when the client was last heard, on the loop's clock.
        closing: the client has half-closed; it is not idle while its tail is being recognized.
        asked: when the finalize requests (and the half-close) that are not answered yet came in.
    """

    def __init__(self, service: SpeechServicer, context: _Context) -> None:
        self.service = service
        self.context = context
        self.metrics = service.metrics
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[BaseException | None] = self.loop.create_future()
        self.began = self.heard = self.loop.time()
        self.idle_timer: asyncio.TimerHandle | None = None
        self.closing = False
        self.asked: deque[float] = deque()
        self.bytes = self.counted = 0
        self.audio_ms = 0

    async def run(self) -> None:
        """Serves the call. The slot is given back whatever happens."""
        outcome, request_id = "cancelled", ""
        name = ""
        session: Session | None = None
        tasks: list[asyncio.Task[None]] = []
        timers: list[asyncio.TimerHandle] = []
        try:
            try:
                config = await self._config()
                name = config.name
                session = self._admit(config)
                await self.context.send_initial_metadata(((STREAM_ID_KEY, name),))
                self.idle_timer = self.loop.call_later(self.service.idle_timeout_s, self._check_idle)
                if limit := self.service.max_stream_s:
                    reached = LimitReached(
                        f"the stream reached its limit of {limit:g} s; open another to go on"
                    )
                    timers.append(self.loop.call_later(limit, self._end, reached))
                tasks += [
                    self.loop.create_task(self._guard(self._read(session))),
                    self.loop.create_task(self._guard(self._write(session, name))),
                ]
                error = await self.done
            except AsrError as refused:
                error = refused
            if error is None:
                outcome = "ok"
                return
            if isinstance(error, _ClientGone):
                return
            outcome = wire_status(error).name.lower()
            if not isinstance(error, ClientError | Unavailable):
                request_id = secrets.token_hex(8)
            self._release(session, tasks, timers)
            await _abort(self.context, error, request_id)
        finally:
            self._release(session, tasks, timers)
            self._account(name, outcome, request_id, admitted=session is not None)

    def _release(
        self, session: Session | None, tasks: list[asyncio.Task[None]], timers: list[asyncio.TimerHandle]
    ) -> None:
        """Stops what serves the call and gives the slot back; may be called again."""
        for timer in timers:
            timer.cancel()
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        for task in tasks:
            task.cancel()
        if session is not None:
            session.cancel()

    async def _config(self) -> StreamConfig:
        """The first message, which has to be a config that can be served."""
        if self.service.refusal is not None:  # no need to wait for its config
            self._refuse(self.service.refusal)
        try:
            async with asyncio.timeout(self.service.idle_timeout_s):
                request = await self._first()
        except TimeoutError:
            raise self._too_quiet() from None
        if request is None:
            raise OutOfOrder("the stream was closed before its config; the first message has to be config")
        kind = request.WhichOneof("request")
        if kind is None:
            raise _nothing_set()
        if kind != "config":
            raise OutOfOrder(f"{kind} came before config; the first message has to be config", field=kind)
        return wire.stream_config(request.config)

    async def _first(self) -> pb.RecognizeRequest | None:
        try:
            request = await self.context.read()
        except DecodeError:
            raise _undecodable() from None
        return None if request is grpc.aio.EOF else cast(pb.RecognizeRequest, request)

    def _admit(self, config: StreamConfig) -> Session:
        if self.service.refusal is not None:
            self._refuse(self.service.refusal)
        try:
            session = self.service.sessions.open(config)
        except AsrError as refused:
            self._refuse(refused)
        self.metrics.stream_opened()
        return session

    def _refuse(self, error: AsrError) -> NoReturn:
        self.metrics.refused(wire.reason(error))
        raise error

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Turns whatever ends one direction into the reason why the call ends."""
        try:
            await work
        except grpc.aio.BaseError:
            self._end(_ClientGone())
        except AsrError as error:
            self._end(error)
        except Exception as error:  # a bug of ours ends its own call and no other
            log.exception("a call failed")
            self._end(error)

    def _end(self, reason: BaseException | None) -> None:
        if not self.done.done():
            self.done.set_result(reason)

    async def _read(self, session: Session) -> None:
        """Client to session, until half-close. The first lines of the loop are what a packet costs."""
        read, send, clock = self.context.read, session.send_audio, self.loop.time
        while True:
            try:
                request = await read()
            except DecodeError:
                raise _undecodable() from None
            if request is grpc.aio.EOF:
                self.closing = True
                self.asked.append(clock())
                session.half_close()
                return
            self.heard = clock()
            audio = request.audio
            if audio:
                self.bytes += len(audio)
                await send(audio)
                continue
            match request.WhichOneof("request"):
                case "audio" | "keep_alive":
                    pass
                case "finalize":
                    tag = wire.finalize_tag(request.finalize)
                    self.asked.append(self.heard)
                    session.finalize(tag)
                case "config":
                    raise OutOfOrder(
                        "config came a second time; it is sent once, as the first message", field="config"
                    )
                case _:
                    raise _nothing_set()

    async def _write(self, session: Session, name: str) -> None:
        """Session to client, until the stream is over."""
        while True:
            event = await session.next()
            if isinstance(event, Ended):
                self._end(event.error)
                return
            self.audio_ms = event.audio_ms
            self.metrics.received(self.bytes - self.counted)
            self.counted = self.bytes
            await self.context.write(wire.response(name, event))
            if event.reason in _ASKED and self.asked:
                self.metrics.final_latency(self.loop.time() - self.asked.popleft())

    def _check_idle(self) -> None:
        """Ends the call if nothing was heard for too long; otherwise looks again when that could be."""
        if self.closing:
            return
        left = self.heard + self.service.idle_timeout_s - self.loop.time()
        if left <= 0:
            self._end(self._too_quiet())
        else:
            self.idle_timer = self.loop.call_later(left, self._check_idle)

    def _too_quiet(self) -> StreamTimeout:
        return StreamTimeout(
            f"nothing was received for {self.service.idle_timeout_s:g} s; send audio, or keep_alive while there is none"
        )

    def _account(self, name: str, outcome: str, request_id: str, *, admitted: bool) -> None:
        seconds = self.loop.time() - self.began
        self.metrics.call_ended(outcome, admitted=admitted)
        self.metrics.received(self.bytes - self.counted)
        fields = {
            "stream": name,
            "outcome": outcome,
            "seconds": round(seconds, 3),
            "audio_ms": self.audio_ms,
            "bytes": self.bytes,
            "peer": self.context.peer(),
        }
        if request_id:
            fields["request_id"] = request_id
        log.log(logging.ERROR if request_id else logging.INFO, "stream ended", extra={"fields": fields})


class _ClientGone(Exception):
    """The client is not there any more; there is nobody to tell."""


_ASKED = (FinalReason.FINALIZE, FinalReason.END_OF_STREAM)


def _nothing_set() -> InvalidArgument:
    return InvalidArgument(
        "request is empty; it should hold one of config, audio, finalize or keep_alive", field="request"
    )


def _undecodable() -> InvalidArgument:
    return InvalidArgument("request is not an asr.v1.RecognizeRequest message", field="request")
