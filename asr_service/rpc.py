"""The gRPC servicer: one `Recognize` call is one stream.

Three parties share a call, all on the event loop: a reader that takes packets to the session, a writer that takes
results to the client, and the handler, which waits for the first reason to end and alone ends the call. Neither
direction waits for the other. What runs per packet is `_Call._read`: no task, no future, no log line.
"""

from __future__ import annotations

import asyncio
import logging
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
    InternalError,
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
        self._calls: set[_Call] = set()
        self._changed = asyncio.Event()

    async def Recognize(  # type: ignore[override]  # noqa: N802 - the stubs' types know the generator style only
        self, _requests: object, context: _Context
    ) -> None:
        """One stream, from its config to its last final."""
        call = _Call(self, context)
        self._calls.add(call)
        try:
            await call.run()
        finally:
            self._calls.discard(call)
            self._changed.set()

    async def drained(self) -> None:
        """Returns once no admitted stream is left; new ones are to be refused by then."""
        while any(call.session is not None for call in self._calls):
            self._changed.clear()
            await self._changed.wait()

    async def GetServiceInfo(  # noqa: N802 - the contract's name
        self, _request: pb.GetServiceInfoRequest, context: _Context
    ) -> pb.GetServiceInfoResponse:
        """What is served; UNAVAILABLE until the model is loaded."""
        if self.info is None:
            await _abort(context, self.refusal or _starting())
        return wire.service_info(
            self.info,
            version=__version__,
            max_streams=self._max_streams,
            active_streams=self.sessions.active,
            max_message_bytes=self._max_message_bytes,
        )


def _starting() -> Unavailable:
    return Unavailable("the service is starting: its model is not loaded yet", retry_after_s=STARTING_RETRY_S)


async def _abort(context: _Context, error: AsrError) -> NoReturn:
    """Ends the call with the error's status and details."""
    await context.abort_with_status(rpc_status.to_status(wire.status(error)))


class _Call:
    """One `Recognize` call.

    Attributes:
        done: resolved once, when the call is to end: with the error to tell, or None.
        gone: the client is not there any more; there is nobody to tell.
        heard: when the client was last heard, on the loop's clock.
        closing: the client has half-closed; it is not idle while its tail is being recognized.
        asked: when the finalize requests (and the half-close) that are not answered yet came in.
        bytes: audio received; of these, `counted` are in the metrics already.
    """

    def __init__(self, service: SpeechServicer, context: _Context) -> None:
        self.service = service
        self.context = context
        self.metrics = service.metrics
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[AsrError | None] = self.loop.create_future()
        self.name = ""
        self.session: Session | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.began = self.heard = self.loop.time()
        self.closing = self.gone = False
        self.asked: deque[float] = deque()
        self.bytes = self.counted = 0
        self.audio_ms = 0

    async def run(self) -> None:
        """Serves the call. The slot is given back whatever happens, before the client is told the status."""
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
            if self.session is not None:
                self.session.cancel()
            self._account(outcome, error)
        if error is not None:
            await _abort(self.context, error)

    async def _start(self) -> None:
        """Admits the stream and sets both directions going."""
        config = await self._config()
        self.name = config.name
        self.session = session = self._admit(config)
        await self.context.send_initial_metadata(((STREAM_ID_KEY, config.name),))
        self.timers["idle"] = self.loop.call_later(self.service.idle_timeout_s, self._check_idle)
        if limit := self.service.max_stream_s:
            reached = LimitReached(f"the stream reached its limit of {limit:g} s; open another to go on")
            self.timers["limit"] = self.loop.call_later(limit, self._end, reached)
        self.tasks = [
            self.loop.create_task(self._guard(self._read(session))),
            self.loop.create_task(self._guard(self._write(session))),
        ]

    async def _config(self) -> StreamConfig:
        """The first message, which has to be a config that can be served.

        It is read even if the stream will be refused: grpc.aio clients lose a status that meets their first write.
        """
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

    async def _write(self, session: Session) -> None:
        """Session to client, until the stream is over."""
        while True:
            event = await session.next()
            if isinstance(event, Ended):
                error = event.error
                self._end(error if error is None or isinstance(error, AsrError) else InternalError())
                return
            self.audio_ms = event.audio_ms
            self.metrics.received(self.bytes - self.counted)
            self.counted = self.bytes
            await self.context.write(wire.response(self.name, event))
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
            self.timers["idle"] = self.loop.call_later(left, self._check_idle)

    def _too_quiet(self) -> StreamTimeout:
        return StreamTimeout(
            f"nothing was received for {self.service.idle_timeout_s:g} s; send audio, or keep_alive while there is none"
        )

    def _account(self, outcome: str, error: AsrError | None) -> None:
        """Tells metrics and log that the call is over, once."""
        self.metrics.call_ended(outcome, admitted=self.session is not None)
        self.metrics.received(self.bytes - self.counted)
        if self.session is not None:
            self.metrics.coalesced(self.session.coalesced)
        fields = {
            "stream": self.name,
            "outcome": outcome,
            "seconds": round(self.loop.time() - self.began, 3),
            "audio_ms": self.audio_ms,
            "bytes": self.bytes,
            "peer": self.context.peer(),
        }
        if error is not None:
            fields["why"] = error.message
        level = logging.INFO if self.session is not None else logging.DEBUG
        if isinstance(error, InternalError):
            level = logging.ERROR
        log.log(level, "stream ended", extra={"fields": fields})


_ASKED = (FinalReason.FINALIZE, FinalReason.END_OF_STREAM)


def _nothing_set() -> InvalidArgument:
    return InvalidArgument(
        "request is empty; it should hold one of config, audio, finalize or keep_alive", field="request"
    )


def _undecodable() -> InvalidArgument:
    return InvalidArgument("request is not an asr.v1.RecognizeRequest message", field="request")
