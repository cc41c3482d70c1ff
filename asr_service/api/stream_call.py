"""One streaming call, whatever protocol it speaks: what `asr.v1` and the optional interfaces have in common.

The parties of a call all live on the event loop: a reader that takes packets to the session, a writer for each channel
that takes results to the client, and the handler, which waits for the first reason to end (`call_ending.py` knows them)
and alone ends the call. Neither direction waits for the other. What runs for each packet is `StreamCall._read`: no
task, no future, no log line.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from asr_service.access.api_keys import ApiKey
from asr_service.api import messages
from asr_service.api.call_ending import CallEnding, nothing_received
from asr_service.api.call_record import CallRecord
from asr_service.api.compressed_audio import CompressedAudio, open_decoder
from asr_service.api.key_check import caller_key
from asr_service.core.errors import AsrError, InternalError, InvalidArgument, wire_status
from asr_service.core.values import Result, StreamConfig
from asr_service.recognition.raw_audio import RawAudio
from asr_service.recognition.wav_header import AudioFormat
from asr_service.sessions.admission import Admission
from asr_service.sessions.gap_filler import GapFiller
from asr_service.sessions.idle_watch import IdleWatch
from asr_service.sessions.multichannel import Feed, Interleaved
from asr_service.sessions.session import Ended, Session

log = logging.getLogger(__name__)

STREAM_ID_KEY = "x-stream-id"
FIRST_MESSAGE_S = 60.0
"""How long a client may take to send its first message."""

# Its types do not know that `read` may return EOF.
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Opening:
    """What the client asked for at first: the config of every channel, and how many channels its audio has.

    The rate that was stated, None if none was, is for compressed audio, which may say another.
    """

    config: StreamConfig
    channels: int = 1
    stated_rate: int | None = None


class StreamCall(ABC):
    """Serves one streaming call; a protocol's subclass says what its messages mean.

    Attributes:
        request_name: what the client should send, for the message to one that sends something else.
        silence_hint: what the client may send while it has no audio.
        file_hint: what a client may do that sends a file in place of audio, beside decoding it; "" if nothing.
        method: full name of the call, for its trace.
        admission: admits the call.
        key: the API key that the caller showed, None without keys.
        sessions: of the channels; empty until the call is admitted.
        pending: requests that were read while the call was opened and are yet to be served.
        record: tells metrics, trace and log.
    """

    request_name: str
    silence_hint: str
    file_hint = ""
    method: str

    def __init__(self, admission: Admission, context: Context) -> None:
        self.admission = admission
        self.sessions: list[Session] = []
        self.pending: deque[Any] = deque()
        self._context = context
        self._loop = asyncio.get_running_loop()
        trace = None
        if admission.tracing is not None:
            trace = admission.tracing.begin(self.method, context.invocation_metadata() or ())
        self.record = CallRecord(admission.metrics, trace, self._loop.time())
        self.key: ApiKey | None = None
        # Whether anything has come from the client yet, and whether it was told that its config is accepted.
        self._first_message = True
        self._accepted = False
        # What of the input is audio, where it goes, and whether the client is heard and reads. Made when the call is
        # admitted.
        self._raw: RawAudio
        # In its place, where the audio comes compressed.
        self._compressed: CompressedAudio | None = None
        self._feed: Feed
        self._idle: IdleWatch
        # Where the config asks for it.
        self._gaps: GapFiller | None = None
        self._ending = CallEnding(self.silence_hint)
        self._tasks: list[asyncio.Task[None]] = []

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
        """Gives the audio in a request; empty if there is none."""

    @abstractmethod
    def control(self, request: Any) -> None:
        """Does what else the request asks for, after its audio was taken.

        Raises:
            ClientError: it makes no sense here.
        """

    @abstractmethod
    def response(self, result: Result, channel: int) -> Message | None:
        """Makes the message of a result; None if the client is not told of it."""

    # -------------------------------------------------------------------------------------------------- its life

    async def run(self) -> None:
        """Serves the call. Slots are asked back whatever happens, before the client is told the status."""
        error: AsrError | None = None
        # Unless we come to know better.
        outcome = "cancelled"
        try:
            await self._guard(self._start())
            error = await self._ending.reason()
            if not self._ending.client_is_gone:
                outcome = "ok" if error is None else wire_status(error).name.lower()
        finally:
            self._ending.stop()
            if self._gaps is not None:
                self._gaps.stop()
            for task in self._tasks:
                task.cancel()
            for session in self.sessions:
                session.cancel()
            if self.sessions:
                self.admission.leave()
            self.record.ended(
                outcome,
                error,
                admitted=bool(self.sessions),
                coalesced=sum(session.coalesced for session in self.sessions),
                peer=self._context.peer(),
                now=self._loop.time(),
            )
        if error is not None:
            await abort(self._context, error)

    async def next_request(self) -> Any | None:
        """Reads the next request while the call is being opened; None after the last one.

        The first has to come within `FIRST_MESSAGE_S`, since a call without one holds no permit that would bound the
        number of such calls.
        """
        limit_s = self.admission.idle_timeout_s
        if self._first_message:
            limit_s = min(FIRST_MESSAGE_S, limit_s)
        try:
            async with asyncio.timeout(limit_s):
                request = await self._context.read()
        except TimeoutError:
            raise nothing_received(limit_s, self.silence_hint) from None
        except DecodeError:
            raise self._undecodable() from None
        self._first_message = False
        return None if request is grpc.aio.EOF else request

    async def accept(self, name: str) -> None:
        """Sends the response headers, once, with the stream's name: clients may wait for them before sending audio."""
        if not self._accepted:
            self._accepted = True
            await self._context.send_initial_metadata(((STREAM_ID_KEY, name),))

    async def answer(self, message: Message) -> None:
        """Sends a message while the call is being opened."""
        await self._context.write(message)

    def finalize(self, tag: str) -> None:
        """Asks for the final of what has come so far."""
        self._feed.finalize(tag)
        if self.sessions[0].ended is None:
            self.record.final_requested()

    async def _start(self) -> None:
        """Admits the call and starts its reader and writers."""
        self.key = key = caller_key(self.admission.keys, self._context.invocation_metadata())
        self.record.key_name = key.name if key else ""
        opening = await self.opening()
        config = opening.config
        self.record.stream_id = config.name
        decoder = None
        if config.coding is not None:
            decoder = await open_decoder(config.coding, opening.stated_rate, opening.channels)
        self.sessions = sessions = await self.admission.admit(config, opening.channels, key)
        self._raw = RawAudio(
            AudioFormat(config.encoding, config.sample_rate, opening.channels), self.file_hint
        )
        self._feed = sessions[0] if len(sessions) == 1 else Interleaved(sessions, config.encoding)
        if decoder is not None:
            self._compressed = CompressedAudio(
                decoder, self._feed, partial(self._format_known, config), self._ending.end_streams
            )
        self.record.admitted(config, opening.channels, sessions[0].engine)
        await self.accept(config.name)
        self._idle = IdleWatch(self.admission.idle_timeout_s, heard_at=self._loop.time())
        self._ending.watch(sessions, self._idle, self.admission.max_stream_s)
        if config.fill_gaps_after_ms and config.coding is None:
            self._gaps = self._fill_gaps(config)
        writing = asyncio.Lock() if len(sessions) > 1 else None
        parts = [self._read(), *(self._write(at, session, writing) for at, session in enumerate(sessions))]
        self._tasks = [self._loop.create_task(self._guard(part)) for part in parts]

    def _format_known(self, config: StreamConfig, found: AudioFormat) -> None:
        """Takes the format that compressed audio has, before the first of its samples."""
        known = replace(config, encoding=found.encoding, sample_rate=found.sample_rate)
        scale = known.bytes_per_s / config.bytes_per_s
        for session in self.sessions:
            session.set_format(found.encoding, found.sample_rate, scale)
        if isinstance(self._feed, Interleaved):
            self._feed.set_encoding(found.encoding)
        if config.fill_gaps_after_ms:
            self._gaps = self._fill_gaps(known)

    def _fill_gaps(self, config: StreamConfig) -> GapFiller:
        idle, record, compressed = self._idle, self.record, self._compressed
        return GapFiller(
            self._feed,
            config,
            len(self.sessions),
            received_bytes=lambda: compressed.decoded_bytes if compressed else record.received_bytes,
            held_back=lambda: idle.held_back,
        )

    async def _guard(self, part: Coroutine[None, None, None]) -> None:
        """Runs a part of the call: whatever goes wrong in it ends this call, and no other."""
        try:
            await part
        except AsrError as error:
            self._ending.end(error)
        except grpc.aio.BaseError:
            self._ending.end_without_client()
        except Exception:
            bug = InternalError()
            log.exception("request %s: a call failed", bug.request_id)
            self._ending.end(bug)

    async def _read(self) -> None:
        """Takes requests from the client to the session until half-close. Its first lines are what a packet costs."""
        read, send, clock = self._context.read, self._feed.send_audio, self._loop.time
        audio_of, raw, control, pending = self.audio, self._raw.take, self.control, self.pending
        idle, record, compressed = self._idle, self.record, self._compressed
        while True:
            try:
                request = pending.popleft() if pending else await read()
            except DecodeError:
                raise self._undecodable() from None
            idle.heard_at = clock()
            if request is grpc.aio.EOF:
                idle.half_closed = True
                if self._gaps is not None:
                    self._gaps.stop()
                await (send(self._raw.rest()) if compressed is None else compressed.finish())
                record.final_requested()
                self._feed.half_close()
                return
            audio = audio_of(request)
            if audio:
                record.received_bytes += len(audio)
                idle.held_back = True
                await (send(raw(audio)) if compressed is None else compressed.take(audio))
                idle.held_back = False
                idle.heard_at = clock()
            control(request)

    async def _write(self, channel: int, session: Session, writing: asyncio.Lock | None) -> None:
        """Takes one channel's results to the client until its stream is over; `writing` where there are others."""
        while True:
            event = await session.next()
            if isinstance(event, Ended):
                self._ending.all_sent(event)
                return
            self.record.result_made(event)
            message = self.response(event, channel)
            if message is not None:
                if writing is None:
                    await self._send(message)
                else:
                    async with writing:
                        await self._send(message)
                self.record.result_sent(event)
            self.record.result_done(event, channel, sent=message is not None)

    async def _send(self, message: Message) -> None:
        self._idle.writing_since = self._loop.time()
        await self._context.write(message)
        self._idle.writing_since = None

    def _undecodable(self) -> InvalidArgument:
        return InvalidArgument(f"request is not an {self.request_name} message", field="request")


async def abort(context: Context, error: AsrError) -> NoReturn:
    """Ends the call with the error's status and details."""
    await context.abort_with_status(rpc_status.to_status(messages.status(error)))
