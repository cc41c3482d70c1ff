"""A front end's end of its link to an engine: leases slots, sends chunks and hands the answers to their streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Sequence

from asr_service.core.errors import (
    AsrError,
    AtCapacity,
    InternalError,
    InvalidArgument,
    Overloaded,
    Unavailable,
)
from asr_service.core.lease import ChunkAnswers
from asr_service.core.step import ChunkFlags
from asr_service.core.values import PhraseBoost, Samples
from asr_service.engine.frames import (
    Frame,
    FrameKind,
    RowFlags,
    pack_chunk,
    pack_lease,
    pack_release,
    read_frames,
)
from asr_service.engine.sample_pool import PLACES, SamplePool

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 18
# As plain numbers: operations on an enum's members take long.
_FIRST, _LAST, _ANSWERS = int(ChunkFlags.FIRST), int(ChunkFlags.LAST), int(FrameKind.ANSWERS)
# Answers that are handled in one turn of the event loop: a large batch's are not to hold up the packets of others.
_ANSWERS_A_TURN = 64
_FULL_RETRY_S = 1.0
_GONE_RETRY_S = 5.0


class SlotLease:
    """A `Lease` of one slot. Made by `FrontLink.lease` alone."""

    def __init__(self, link: FrontLink, slot: int, number: int, stream: ChunkAnswers) -> None:
        self.slot, self.number, self.stream = slot, number, stream
        self._link: FrontLink | None = link
        # Chunks are answered in their order and at most two are unanswered: so places take turns.
        self._place = 0

    def send(self, samples: Samples, *, is_first: bool, is_last: bool, due: float) -> None:
        """See `Lease.send`; ignored after `release`."""
        if self._link is None:
            return
        flags = _FIRST * is_first | _LAST * is_last
        self._link.send_chunk(self.slot, self.number, self._place, samples, flags, due)
        self._place = (self._place + 1) % PLACES

    def release(self) -> None:
        """See `Lease.release`."""
        link, self._link = self._link, None
        if link is not None:
            link.release(self.slot, self.number)


class FrontLink:
    """Connects a front end to one engine. For the event loop's thread.

    Args:
        link: connected to the engine.
        pool: memory that the engine's chunks lie in.
    """

    def __init__(self, link: socket.socket, pool: SamplePool) -> None:
        self._socket = link
        # None once the engine is gone: its memory is not to wait until nothing knows of this link any more.
        self._pool: SamplePool | None = pool
        self._loop = asyncio.get_running_loop()
        self._leases: dict[tuple[int, int], SlotLease] = {}
        self._requests: dict[int, tuple[Sequence[ChunkAnswers], asyncio.Future[list[SlotLease]]]] = {}
        self._last_request = 0
        self._unsent = bytearray()
        self._flush: asyncio.Handle | None = None
        self._is_writing = False
        self._data = bytearray()
        # Frames that are not handled yet; of the first of them, how many rows and tokens are.
        self._frames: deque[Frame] = deque()
        self._row = self._token = 0
        link.setblocking(False)
        self._loop.add_reader(link, self._read)

    @property
    def is_open(self) -> bool:
        """Whether the engine is there."""
        return self._pool is not None

    def __len__(self) -> int:
        """Returns how many slots are leased over this link."""
        return len(self._leases)

    async def lease(
        self, streams: Sequence[ChunkAnswers], prompt: int = -1, boosts: Sequence[PhraseBoost] = ()
    ) -> list[SlotLease]:
        """See `EngineLink.lease`."""
        if self._pool is None:
            raise _gone()
        self._last_request = request = self._last_request + 1 & 0xFFFFFFFF
        answer: asyncio.Future[list[SlotLease]] = self._loop.create_future()
        self._requests[request] = (streams, answer)
        self._send_now(pack_lease(request, len(streams), prompt, boosts))
        try:
            # A call that ends meanwhile cancels this; `_answer_request` gives back what comes for it later.
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                # It has come, and was on its way to the caller.
                for lease in answer.result():
                    lease.release()
            raise

    # ------------------------------------------------------------------------------------------- to the engine

    def send_chunk(self, slot: int, lease: int, place: int, samples: Samples, flags: int, due: float) -> None:
        """Sends a chunk of a slot that is leased."""
        if self._pool is None:
            return
        self._pool.write(slot, place, samples, flags)
        self._unsent += pack_chunk(slot, lease, len(samples), flags, place, due)
        if self._flush is None and not self._is_writing:
            # Together with those of all packets that the event loop handles in this turn.
            self._flush = self._loop.call_soon(self._send)

    def release(self, slot: int, lease: int) -> None:
        """Gives a slot back, before anything that the caller does next can be seen by a client."""
        if self._leases.pop((slot, lease), None) is not None and self.is_open:
            self._send_now(pack_release(slot, lease))

    def _send_now(self, record: bytes) -> None:
        self._unsent += record
        if not self._is_writing:
            self._send()

    def _send(self) -> None:
        """Sends what is unsent; what the socket does not take goes out once it does."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        with contextlib.suppress(BlockingIOError):
            try:
                del self._unsent[: self._socket.send(self._unsent)]
            except ConnectionError:
                # `_read` finds that too.
                self._unsent.clear()
        if bool(self._unsent) is not self._is_writing:
            self._is_writing = bool(self._unsent)
            if self._is_writing:
                self._loop.add_writer(self._socket, self._send)
            else:
                self._loop.remove_writer(self._socket)

    # ----------------------------------------------------------------------------------------- from the engine

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.close(_gone())
            return
        self._data += data
        was_idle = not self._frames
        self._frames += read_frames(self._data)
        if was_idle:
            self._handle_some()

    def _handle_some(self) -> None:
        """Handles a turn's share of the frames that have come."""
        left = _ANSWERS_A_TURN
        while left > 0 and self._frames:
            frame = self._frames[0]
            if frame.kind == _ANSWERS:
                rows = frame.rows[self._row : self._row + left]
                self._answer_rows(frame, rows)
                self._row += len(rows)
                left -= len(rows)
                if self._row < len(frame.rows):
                    continue
            else:
                self._answer_request(frame)
                left -= 1
            # Streams may have closed the link.
            if self._frames:
                self._frames.popleft()
            self._row = self._token = 0
        if self._frames:
            self._loop.call_soon(self._handle_some)

    def _answer_rows(self, frame: Frame, rows: list[tuple[int, int, int, int, int]]) -> None:
        """Hands some rows of a frame to their streams."""
        for slot, number, frames, tokens, flags in rows:
            start, end = self._token, self._token + tokens
            self._token = end
            lease = self._leases.get((slot, number))
            if lease is None:
                continue
            try:
                if flags:
                    lease.stream.lost(_failure(flags, frame.failure))
                else:
                    lease.stream.answer(
                        frame.tokens[start:end],
                        frame.token_frames[start:end],
                        frame.probs[start:end],
                        frames,
                        frame.ended,
                    )
            except Exception:
                # What one stream makes of its answer is nothing to the others.
                log.exception("an answer could not be handled")

    def _answer_request(self, frame: Frame) -> None:
        streams, answer = self._requests.pop(frame.request)
        if frame.kind == FrameKind.LEASED:
            leases = [
                SlotLease(self, slot, number, stream)
                for (slot, number, *_), stream in zip(frame.rows, streams, strict=True)
            ]
            self._leases.update(((lease.slot, lease.number), lease) for lease in leases)
            if answer.done():
                for lease in leases:
                    lease.release()
            else:
                answer.set_result(leases)
        elif not answer.done():
            answer.set_exception(_refusal(frame))

    def close(self, error: AsrError) -> None:
        """Ends the link: streams and requests are told the error."""
        if self._pool is None:
            return
        self._pool = None
        self._loop.remove_reader(self._socket)
        if self._is_writing:
            self._loop.remove_writer(self._socket)
        if self._flush is not None:
            self._flush.cancel()
        self._socket.close()
        self._frames.clear()
        requests, self._requests = self._requests, {}
        for _, answer in requests.values():
            if not answer.done():
                answer.set_exception(error)
        for lease in list(self._leases.values()):
            try:
                lease.stream.lost(error)
            except Exception:
                # Others are to be told all the same.
                log.exception("the end of an engine could not be handled")
        self._leases.clear()


def _gone() -> Unavailable:
    return Unavailable("the engine has stopped", retry_after_s=_GONE_RETRY_S)


def _failure(flags: int, failure: str) -> AsrError:
    """Makes the error of a chunk that was not answered."""
    if flags == RowFlags.FAILED:
        return InternalError(request_id=failure)
    error = InternalError()
    log.error("request %s: a stream is ended, since the model's output is not finite", error.request_id)
    return error


def _refusal(frame: Frame) -> AsrError:
    """Makes the error of a request that was refused."""
    if frame.kind == FrameKind.INVALID:
        field, _, text = frame.text.partition("\n")
        return InvalidArgument(text, field=field)
    if frame.kind == FrameKind.OVERLOADED:
        return Overloaded(
            f"the engine is too busy for one more stream (load {frame.started:.2f})",
            retry_after_s=_FULL_RETRY_S,
            facts={"load": str(frame.started)},
        )
    if frame.kind == FrameKind.BROKEN:
        return InternalError(request_id=frame.failure)
    return AtCapacity("all streams are taken", retry_after_s=_FULL_RETRY_S)
