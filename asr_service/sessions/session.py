"""The event loop's side of the engine: permits, what waits on its way in, and what waits on its way out.

Everything here runs on the event loop, so there are no locks. Policies of the two queues: audio beyond the inbox's
high-water mark makes `send_audio` wait, which makes the transport push back on the client; of results, the latest
interim replaces the one before it, a final replaces the interim of its utterance, and finals are never dropped.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import count

from asr_service.access.api_keys import caller
from asr_service.core.commands import (
    Audio,
    Cancel,
    Command,
    Consumed,
    Ended,
    Event,
    Finalize,
    HalfClose,
    Open,
)
from asr_service.core.errors import AsrError, AtCapacity, LimitReached, OutOfOrder, Overloaded, QuotaReached
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.sessions.packet_buffer import Held

MAX_UNREAD = 1000
"""Finals that may wait for a client that does not read, unless the settings say otherwise."""

MAX_OPEN_FINALIZES = 1000
"""Finalize requests of a stream whose finals were not fetched; one more is refused."""

_RETRY_AFTER_S = 1.0
_RETRY_BUSY_S = 5.0  # the load looks back ten seconds


class Sessions:
    """All streams that hold a permit.

    Args:
        submit: hands a command to the engine.
        max_streams: permits there are; not more than the model has slots.
        inbox_bytes: for a stream's config, audio bytes that may wait on the way in; at least a few chunks' worth.
        max_unread: finals of a stream that may wait for its client to read them.
        load: how long live chunks take, over their duration.
        max_load: load above which nobody is let in; 0 for no limit.

    Attributes:
        max_streams: as given; may be changed at any time.
    """

    def __init__(
        self,
        submit: Callable[[Command], None],
        *,
        max_streams: int,
        inbox_bytes: Callable[[StreamConfig], int],
        max_unread: int = MAX_UNREAD,
        load: Callable[[], float] = lambda: 0.0,
        max_load: float = 0.0,
    ) -> None:
        self.max_streams = max_streams
        self._submit = submit
        self._inbox_bytes = inbox_bytes
        self._max_unread = max_unread
        self._load = load
        self._max_load = max_load
        self._ids = count(1)
        self._sessions: dict[int, Session] = {}
        self._by_client: Counter[str] = Counter()  # permits by the name of the key

    @property
    def load(self) -> float:
        """How long live chunks take, over their duration; 0 if that is not known."""
        return self._load()

    @property
    def active(self) -> int:
        """Permits taken."""
        return len(self._sessions)

    def open(self, config: StreamConfig) -> Session:
        """Takes a permit for the task's caller and starts a stream; the permit comes back when the engine has ended it.

        Raises:
            AsrError: as `check` does.
        """
        self.check(1)
        client = caller.get()
        name = client.name if client else ""
        session = Session(next(self._ids), self._submit, self._inbox_bytes(config), self._max_unread, name)
        self._sessions[session.id] = session
        self._by_client[name] += 1
        self._submit(Open(session.id, config))
        return session

    def check(self, count: int) -> None:
        """Whether so many streams could be opened now by the task's caller.

        Raises:
            QuotaReached: this client would have more streams than its key allows.
            AtCapacity: there are not so many permits left.
            Overloaded: the streams that are open take more of the time than is allowed.
        """
        client = caller.get()
        if client and client.max_streams and self._by_client[client.name] + count > client.max_streams:
            message = f"all {client.max_streams} streams of key {client.name!r} are open"
            raise QuotaReached(message, retry_after_s=_RETRY_AFTER_S)
        if len(self._sessions) + count > self.max_streams:
            message = f"all {self.max_streams} streams are taken"
            raise AtCapacity(message, retry_after_s=_RETRY_AFTER_S)
        if 0 < self._max_load < (load := self._load()):
            message = (
                f"the machine is too busy for one more stream: results of live audio take {load:.2f} times as long as "
                f"the audio they cover, above {self._max_load:g}"
            )
            raise Overloaded(message, retry_after_s=_RETRY_BUSY_S)

    def deliver(self, events: Iterable[Event]) -> None:
        """Takes a turn's events; those of streams that are gone are ignored."""
        for event in events:
            session = self._sessions.get(event.stream)
            if session is None:
                continue
            if isinstance(event, Ended):
                del self._sessions[event.stream]
                self._give_back(session)
            session.deliver(event)

    def fail_all(self, error: AsrError) -> None:
        """Ends every stream with this error at once, whether the engine still runs or not."""
        sessions, self._sessions = self._sessions, {}
        self._by_client.clear()
        for session in sessions.values():
            session.cancel()
            session.deliver(Ended(session.id, error))

    def _give_back(self, session: Session) -> None:
        self._by_client[session.client] -= 1
        if not self._by_client[session.client]:
            del self._by_client[session.client]


class Session:
    """One stream. One task may send, one may receive.

    Args:
        stream: the engine's id of the stream, never reused.
        submit: hands a command to the engine.
        inbox_bytes: the inbox's high-water mark.
        max_unread: finals that may wait to be fetched; one more ends the stream with LimitReached.
        client: name of the key it came with, "" without keys.

    Attributes:
        id: the engine's id of the stream.
        client: as given.
        ended: the end, once it has come.
        coalesced: interims that a later one replaced before they were fetched.
        on_end: called once, when the end has come, whether or not anybody fetches it.
    """

    def __init__(
        self,
        stream: int,
        submit: Callable[[Command], None],
        inbox_bytes: int,
        max_unread: int = MAX_UNREAD,
        client: str = "",
    ) -> None:
        self.id = stream
        self.client = client
        self.ended: Ended | None = None
        self.coalesced = 0
        self.on_end: Callable[[Ended], None] = _nobody
        self._submit = submit
        self._inbox_bytes = inbox_bytes
        self._max_unread = max_unread
        self._held = Held()
        self._closed = False  # by half_close or cancel
        self._open_finalizes = 0
        self._room: asyncio.Future[None] | None = None  # the sender waits for it
        self._finals: deque[Result] = deque()
        self._interim: Result | None = None
        self._news: asyncio.Future[None] | None = None  # the receiver waits for it

    # --------------------------------------------------------------------------------------------------------- sending

    async def send_audio(self, data: bytes) -> None:
        """Sends audio; returns at once unless more than the high-water mark waits on its way in.

        Packets are held back until they complete a chunk, so that the engine is not woken by each of them.

        A stream that has ended takes no more audio: it is dropped, and `next` tells why.

        Raises:
            OutOfOrder: after `half_close`.
        """
        if self.ended is not None or not data:
            return
        if self._closed:
            raise OutOfOrder("audio after the end of the stream's input")
        if self._held.add(data) or self._held.waiting > self._inbox_bytes:
            self._let_go()
        while self._held.waiting > self._inbox_bytes and self.ended is None:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def finalize(self, tag: str) -> None:
        """Asks for a final now.

        Raises:
            OutOfOrder: after `half_close`.
            LimitReached: too many earlier ones were answered and not fetched.
        """
        if self.ended is not None:
            return
        if self._closed:
            raise OutOfOrder("finalize after the end of the stream's input")
        if self._open_finalizes >= MAX_OPEN_FINALIZES:
            message = (
                f"{MAX_OPEN_FINALIZES} finalize requests are open: wait for their finals before sending more"
            )
            raise LimitReached(message, field="finalize")
        self._open_finalizes += 1
        self._let_go()
        self._held.mark()
        self._submit(Finalize(self.id, tag))

    def half_close(self) -> None:
        """No more input: the tail is flushed, the last final and the end follow. Again: nothing."""
        if not self._closed:
            self._closed = True
            self._let_go()
            self._submit(HalfClose(self.id))

    def cancel(self) -> None:
        """The client is gone: the slot comes back by the next tick. After the end: nothing."""
        if self.ended is None:
            self._closed = True
            self._submit(Cancel(self.id))

    def _let_go(self) -> None:
        """Hands over what was held back."""
        if data := self._held.take():
            self._submit(Audio(self.id, data))

    # ------------------------------------------------------------------------------------------------------- receiving

    async def next(self) -> Result | Ended:
        """The next result, finals before the interim that follows them; after all of them, and ever after, the end."""
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
            self._held.consumed(event)
            if self._held.waiting <= self._inbox_bytes:
                _wake(self._room)
            return
        if isinstance(event, Ended):
            self._end(event)
        elif event.reason is None:
            self.coalesced += self._interim is not None
            self._interim = event
        else:
            self._interim = None  # of this utterance or an earlier one
            if len(self._finals) >= self._max_unread and self.ended is None:
                self.cancel()
                message = f"{self._max_unread} results were not read; read them while sending audio"
                self._end(Ended(self.id, LimitReached(message)))
            elif self.ended is None:
                self._finals.append(event)
        _wake(self._news)

    def _end(self, ended: Ended) -> None:
        if self.ended is None:
            self.ended = ended
            self._held.take()
            _wake(self._room)
            self.on_end(ended)


def _nobody(_ended: Ended) -> None:
    """Nobody asked to be told of the end."""


def _wake(future: asyncio.Future[None] | None) -> None:
    """Wakes who waits, unless its task was cancelled meanwhile."""
    if future is not None and not future.done():
        future.set_result(None)
