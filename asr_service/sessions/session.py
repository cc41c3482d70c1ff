"""One stream as a front end has it: its recognition, its lease of an engine's slot, and what waits for its client.

Everything here runs on the event loop, so there are no locks. What waits has written policies. Audio beyond the
high-water mark makes `send_audio` wait, which makes the transport push back on the client. Of results, the latest
interim replaces the one before it, a final replaces the interim of its utterance, and finals are never dropped.

A stream that the server ends still has its last final, with a reason of its own and only if it has text: what was sent
is recognized first (`end`), or, where the engine is gone or too slow, it is made of what was heard so far (`fail`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr_service.core.errors import AsrError, ClientError, InternalError, LimitReached, OutOfOrder
from asr_service.core.lease import Lease
from asr_service.core.values import Encoding, FinalReason, Result
from asr_service.recognition.chunk_cutter import Chunk
from asr_service.recognition.states import Work
from asr_service.recognition.stream import Stream

log = logging.getLogger(__name__)

MAX_UNREAD = 1000
"""Finals that may wait for a client that does not read, unless the settings say otherwise."""

MAX_OPEN_FINALIZES = 1000
"""Finalize requests of a stream whose finals were not fetched; one more is refused."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream is over and its slot is given back. `error` is None after a flushed half-close or a cancel."""

    error: AsrError | None


class Session:
    """Turns one stream's audio into results. One task may send, one may receive.

    It is a `ChunkAnswers`: the engine's link hands it the answers to its chunks.

    Args:
        stream: what recognizes.
        inbox_bytes: the high-water mark of audio that is in no chunk yet.
        max_unread: finals that may wait to be fetched; one more ends the stream with LimitReached.
        key_name: name of the API key that the caller showed, "" without keys.
        interims: whether interims are fetched.

    Attributes:
        key_name: as given.
        engine: number of the engine that steps it; None where there is only one.
        ended: the end, once it has come.
        coalesced: interims that a later one replaced before they were fetched.
        on_released: called once, when the stream is over and has given its slot back.
        on_end: called once after that, whether or not anybody fetches the end.
        on_ending: called once, when the server begins to end the stream: the last final and the end are yet to come.
    """

    def __init__(
        self,
        stream: Stream,
        inbox_bytes: int,
        max_unread: int = MAX_UNREAD,
        key_name: str = "",
        *,
        interims: bool = True,
    ) -> None:
        self.key_name = key_name
        self.engine: int | None = None
        self.ended: Ended | None = None
        self.coalesced = 0
        self.on_released: Callable[[Session], None] = _ignore
        self.on_end: Callable[[Ended], None] = _ignore
        self.on_ending: Callable[[AsrError], None] = _ignore
        self._stream = stream
        self._lease: Lease | None = None
        self._inbox_bytes = inbox_bytes
        self._max_unread = max_unread
        # By half_close, end or cancel.
        self._closed = False
        # Why the server ends the stream, None while it does not.
        self._ending: AsrError | None = None
        self._by_server = False
        self._open_finalizes = 0
        # The sender waits for the first of these, the receiver for the second.
        self._below_mark: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._finals: deque[Result] = deque()
        self._interim: Result | None = None
        self._interims = interims

    def start(self, lease: Lease) -> None:
        """Takes the lease of the slot that the stream's chunks go to; to be called once, before there is audio."""
        self._lease = lease
        if self.ended is not None:
            lease.release()

    # --------------------------------------------------------------------------------------------------------- sending

    def set_format(self, encoding: Encoding, sample_rate: int, inbox_scale: float) -> None:
        """Says how audio is to be read, where that is known later than the config; before the first of it.

        Args:
            encoding: of the audio.
            sample_rate: of the audio, Hz.
            inbox_scale: bytes of a second of it, over those of the config's.
        """
        self._stream.set_format(encoding, sample_rate)
        self._inbox_bytes = int(self._inbox_bytes * inbox_scale)

    async def send_audio(self, data: bytes) -> None:
        """Sends audio; returns at once unless more than the high-water mark waits to be stepped.

        A stream that has ended, or that the server ends, takes no more audio: it is dropped, and `next` tells why.

        Raises:
            OutOfOrder: after `half_close`.
        """
        if self.ended is not None or not data:
            return
        if self._closed:
            if self._ending is not None:
                return
            raise OutOfOrder("audio after the end of the stream's input")
        self._take_audio(data)
        while self._stream.waiting_bytes > self._inbox_bytes and self.ended is None:
            self._below_mark = asyncio.get_running_loop().create_future()
            await self._below_mark

    @property
    def next_chunk(self) -> tuple[int, int]:
        """See `Stream.next_chunk`."""
        return self._stream.next_chunk

    @property
    def takes_silence(self) -> bool:
        """Whether `add_silence` would take silence: the input is open, and not more waits than the high-water mark."""
        return self.ended is None and not self._closed and self._stream.waiting_bytes <= self._inbox_bytes

    def add_silence(self, data: bytes) -> bool:
        """Takes encoded silence in place of audio that the client does not send, and never waits.

        Returns:
            Whether it was taken.
        """
        if not self.takes_silence:
            return False
        self._take_audio(data)
        return True

    def finalize(self, tag: str) -> None:
        """Asks for a final now.

        Raises:
            OutOfOrder: after `half_close`.
            LimitReached: too many earlier ones were answered and not fetched.
        """
        if self.ended is not None or self._ending is not None:
            return
        if self._closed:
            raise OutOfOrder("finalize after the end of the stream's input")
        if self._open_finalizes >= MAX_OPEN_FINALIZES:
            message = (
                f"{MAX_OPEN_FINALIZES} finalize requests are open: wait for their finals before sending more"
            )
            raise LimitReached(message, field="finalize")
        self._open_finalizes += 1
        self._advance(lambda: self._stream.finalize(tag, time.monotonic(), _unix_ms()))

    def half_close(self) -> None:
        """No more input: the tail is flushed, the last final and the end follow. Again, or after the end: nothing."""
        if not self._closed:
            self._close(by_server=False)

    def end(self, error: AsrError) -> None:
        """The server ends the stream: what was sent is recognized, the last final and this error follow.

        A client that has half-closed gets what it waits for, and the error only if `fail` has to tell it. Again, or
        after the end: nothing.
        """
        if self.ended is None and self._ending is None:
            self._ending = error
            if not self._closed:
                self._by_server = True
                self._close(by_server=True)
            self.on_ending(error)

    def fail(self, error: AsrError) -> None:
        """Ends the stream with this error at once, with the last final of what was heard. After the end: nothing."""
        if self.ended is None:
            final = self._stream.break_off(_unix_ms())
            if final is not None:
                self._interim = None
                self._finals.append(final)
            self._end(error)

    def cancel(self) -> None:
        """The client is gone: the slot is given back at once. After the end: nothing."""
        if self.ended is None:
            self._stream.cancel()
            self._end(None)

    def _take_audio(self, data: bytes) -> None:
        """What a packet costs: no future, no log line."""
        stream = self._stream
        try:
            stream.audio(data, time.monotonic())
            if chunks := stream.take_chunks():
                self._send(chunks)
        except Exception as error:
            self._break(error)

    def _close(self, *, by_server: bool) -> None:
        self._closed = True
        self._advance(lambda: self._stream.half_close(time.monotonic(), _unix_ms(), by_server=by_server))

    # ------------------------------------------------------------------------------------------------ from the engine

    def answer(
        self, tokens: list[int], token_frames: list[int], probs: list[float], frames: int, ended: float
    ) -> None:
        """See `ChunkAnswers.answer`."""
        if self.ended is not None:
            return
        made_ms = _unix_ms() - round(1000 * (time.monotonic() - ended))
        self._advance(lambda: self._stream.answer(tokens, token_frames, probs, frames, made_ms))

    def lost(self, error: AsrError) -> None:
        """See `ChunkAnswers.lost`."""
        self.fail(error)

    def _advance(self, move: Callable[[], list[Result]]) -> None:
        """Moves the stream on, and passes on what comes of it: chunks to the engine, results to the client."""
        stream = self._stream
        try:
            results = move()
            if chunks := stream.take_chunks():
                self._send(chunks)
        except Exception as error:
            self._break(error)
            return
        for result in results:
            self._take_result(result)
        if stream.work is Work.ENDED and self.ended is None:
            self._end(self._ending if self._by_server else None)
        elif results:
            _wake(self._news)
        if self._below_mark is not None and stream.waiting_bytes <= self._inbox_bytes:
            _wake(self._below_mark)

    def _send(self, chunks: Sequence[Chunk]) -> None:
        assert self._lease is not None
        for chunk in chunks:
            self._lease.send(chunk.samples, is_first=chunk.is_first, is_last=chunk.is_last, due=chunk.due)

    def _break(self, error: Exception) -> None:
        """Ends this stream, and no other, since its audio cannot be read or a bug was found."""
        if isinstance(error, ClientError):
            self.fail(error)
            return
        bug = InternalError()
        log.error("request %s: a stream ended by an internal error", bug.request_id, exc_info=error)
        self.fail(bug)

    # ------------------------------------------------------------------------------------------------------- receiving

    async def next(self) -> Result | Ended:
        """Waits for the next result: finals before the interim that follows them; after all of them, always the end."""
        while True:
            if self._finals:
                final = self._finals.popleft()
                if final.reason is FinalReason.FINALIZE:
                    self._open_finalizes -= 1
                return final
            if self._interim is not None:
                interim, self._interim = self._interim, None
                return interim
            if self.ended is not None:
                return self.ended
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def _take_result(self, result: Result) -> None:
        if result.reason is None:
            if self._interims:
                self.coalesced += self._interim is not None
                self._interim = result
            return
        # It is of this utterance or an earlier one.
        self._interim = None
        if result.reason is FinalReason.ENDED_BY_SERVER and not result.text:
            return
        self._finals.append(result)
        if len(self._finals) > self._max_unread:
            self.end(LimitReached(f"{self._max_unread} results were not read; read them while sending audio"))

    def _end(self, error: AsrError | None) -> None:
        """Ends the stream: the slot is back before its client is told the status."""
        self._closed = True
        self.ended = Ended(error)
        if self._lease is not None:
            self._lease.release()
        self.on_released(self)
        _wake(self._below_mark)
        _wake(self._news)
        self.on_end(self.ended)


def _ignore(_: object) -> None:
    """What is called at a stream's end until somebody sets what is to be called."""


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


def _wake(future: asyncio.Future[None] | None) -> None:
    """Wakes the task that waits for a future, unless that task was cancelled meanwhile."""
    if future is not None and not future.done():
        future.set_result(None)
