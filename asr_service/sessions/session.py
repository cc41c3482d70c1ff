"""One stream as a front end sees it: what waits on its way to the engine, and what waits on its way to the client.

Everything here runs on the event loop, so there are no locks. The two queues have written policies. Audio beyond the
high-water mark makes `send_audio` wait, which makes the transport push back on the client. Of results, the latest
interim replaces the one before it, a final replaces the interim of its utterance, and finals are never dropped.

A stream that the server ends still has its last final, with a reason of its own and only if it has text: the engine
makes it (`end`), or, where the engine has failed, it is made of the newest interim (`fail`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from asr_service.core.commands import Audio, Cancel, Command, Consumed, Ended, Event, Finalize, HalfClose
from asr_service.core.errors import AsrError, LimitReached, OutOfOrder
from asr_service.core.values import FinalReason, Result
from asr_service.sessions.packet_buffer import PacketBuffer

MAX_UNREAD = 1000
"""Finals that may wait for a client that does not read, unless the settings say otherwise."""

MAX_OPEN_FINALIZES = 1000
"""Finalize requests of a stream whose finals were not fetched; one more is refused."""


class Session:
    """Sends one stream's audio to the engine and fetches its results. One task may send, one may receive.

    Args:
        stream: the engine's id of the stream, never reused.
        submit: hands a command to the engine.
        inbox_bytes: the high-water mark of audio that the engine has not consumed.
        max_unread: finals that may wait to be fetched; one more ends the stream with LimitReached.
        key_name: name of the API key that the caller showed, "" without keys.
        interims: whether interims are fetched; they are kept in any case.

    Attributes:
        id: the engine's id of the stream.
        key_name: as given.
        ended: the end, once it has come.
        coalesced: interims that a later one replaced before they were fetched.
        on_end: called once, when the end has come, whether or not anybody fetches it.
        on_ending: called once, when the server begins to end the stream: the last final and the end are yet to come.
    """

    def __init__(
        self,
        stream: int,
        submit: Callable[[Command], None],
        inbox_bytes: int,
        max_unread: int = MAX_UNREAD,
        key_name: str = "",
        *,
        interims: bool = True,
    ) -> None:
        self.id = stream
        self.key_name = key_name
        self.ended: Ended | None = None
        self.coalesced = 0
        self.on_end: Callable[[Ended], None] = _ignore
        self.on_ending: Callable[[AsrError], None] = _ignore
        self._submit = submit
        self._inbox_bytes = inbox_bytes
        self._max_unread = max_unread
        self._buffer = PacketBuffer()
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
        # The newest interim that no final has replaced, fetched or not.
        self._kept: Result | None = None

    # --------------------------------------------------------------------------------------------------------- sending

    async def send_audio(self, data: bytes) -> None:
        """Sends audio; returns at once unless more than the high-water mark waits for the engine.

        Packets are buffered until they complete a chunk, so that the engine is not woken by each of them. A stream that
        has ended, or that the server ends, takes no more audio: it is dropped, and `next` tells why.

        Raises:
            OutOfOrder: after `half_close`.
        """
        if self.ended is not None or not data:
            return
        if self._closed:
            if self._ending is not None:
                return
            raise OutOfOrder("audio after the end of the stream's input")
        self._buffer.add(data)
        if self._buffer.is_due or self._buffer.unconsumed > self._inbox_bytes:
            self._flush()
        while self._buffer.unconsumed > self._inbox_bytes and self.ended is None:
            self._below_mark = asyncio.get_running_loop().create_future()
            await self._below_mark

    @property
    def next_chunk(self) -> tuple[int, int]:
        """See `PacketBuffer.next_chunk`."""
        return self._buffer.next_chunk

    @property
    def takes_silence(self) -> bool:
        """Whether `add_silence` would take silence: the input is open, and not more waits than the high-water mark."""
        return self.ended is None and not self._closed and self._buffer.unconsumed <= self._inbox_bytes

    def add_silence(self, data: bytes) -> bool:
        """Takes encoded silence in place of audio that the client does not send, and never waits.

        Returns:
            Whether it was taken.
        """
        if not self.takes_silence:
            return False
        self._buffer.add(data)
        if self._buffer.is_due:
            self._flush()
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
        self._flush()
        self._buffer.start_segment()
        self._submit(Finalize(self.id, tag))

    def half_close(self) -> None:
        """No more input: the tail is flushed, the last final and the end follow. Again: nothing."""
        if not self._closed:
            self._closed = True
            self._flush()
            self._submit(HalfClose(self.id))

    def end(self, error: AsrError) -> None:
        """The server ends the stream: what was sent is recognized, the last final and this error follow.

        A client that has half-closed gets what it waits for, and the error only if `fail` has to tell it. Again, or
        after the end: nothing.
        """
        if self.ended is None and self._ending is None:
            self._ending = error
            if not self._closed:
                self._closed = self._by_server = True
                self._flush()
                self._submit(HalfClose(self.id, by_server=True))
            self.on_ending(error)

    def fail(self, error: AsrError) -> None:
        """Ends the stream with this error at once, whether the engine still runs or not. After the end: nothing."""
        self.cancel()
        self._end(Ended(self.id, error))
        _wake(self._news)

    def cancel(self) -> None:
        """The client is gone: the slot comes back by the next turn. After the end: nothing."""
        if self.ended is None:
            self._closed = True
            self._submit(Cancel(self.id))

    def _flush(self) -> None:
        """Submits the packets that the buffer holds."""
        if data := self._buffer.take():
            self._submit(Audio(self.id, data))

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

    def deliver(self, event: Event) -> None:
        """Takes an event of this stream."""
        if isinstance(event, Consumed):
            self._buffer.consumed(event)
            if self._buffer.is_due and not self._closed:
                self._flush()
            if self._buffer.unconsumed <= self._inbox_bytes:
                _wake(self._below_mark)
            return
        if isinstance(event, Ended):
            self._end(event)
        elif event.reason is None:
            self._kept = event
            if not self._interims:
                return
            self.coalesced += self._interim is not None
            self._interim = event
        elif self.ended is None:
            self._add_final(event)
        _wake(self._news)

    def _add_final(self, final: Result) -> None:
        # They are of this utterance or an earlier one.
        self._interim = self._kept = None
        if final.reason is FinalReason.ENDED_BY_SERVER and not final.text:
            return
        self._finals.append(final)
        if len(self._finals) > self._max_unread:
            self.end(LimitReached(f"{self._max_unread} results were not read; read them while sending audio"))

    def _end(self, ended: Ended) -> None:
        if self.ended is None:
            if self._by_server and ended.error is None:
                ended = replace(ended, error=self._ending)
            if ended.error is not None and self._kept is not None and self._kept.text:
                self._finals.append(_last_final(self._kept))
                self._interim = None
            self.ended = ended
            self._buffer.take()
            _wake(self._below_mark)
            self.on_end(ended)


def _last_final(interim: Result) -> Result:
    """Makes the last final of a stream whose engine has failed; an interim has no words to take over."""
    now = time.time_ns() // 1_000_000
    return replace(interim, reason=FinalReason.ENDED_BY_SERVER, stability=1.0, made_unix_ms=now)


def _ignore(_: object) -> None:
    """What is called at a stream's end until somebody sets `on_end` and `on_ending`."""


def _wake(future: asyncio.Future[None] | None) -> None:
    """Wakes the task that waits for a future, unless that task was cancelled meanwhile."""
    if future is not None and not future.done():
        future.set_result(None)
