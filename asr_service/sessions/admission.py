"""Admits streams to the service or refuses them, and knows those that are open here. Lives on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from asr_service.access.api_keys import ApiKey, KeyRing
from asr_service.core.errors import AsrError, AtCapacity, Overloaded, QuotaReached, Unavailable
from asr_service.core.values import StreamConfig
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Tracing
from asr_service.recognition.languages import prompt_index
from asr_service.recognition.stream import Stream
from asr_service.sessions.engines import Engines, LinkedEngine
from asr_service.sessions.multichannel import sample_bytes
from asr_service.sessions.packet_load import PacketLoad
from asr_service.sessions.routes import Room, Routes, Wanted
from asr_service.sessions.session import MAX_UNREAD, Session

STARTING_RETRY_S = 5.0
_RETRY_AFTER_S = 1.0
# The load looks back ten seconds.
_RETRY_BUSY_S = 5.0
# One chunk of a stream is stepped while the next one is on its way.
_READ_AHEAD = 2


class KeyPermits(Protocol):
    """Knows how many streams each API key has open, over all front ends."""

    async def ask(self, key: str, count: int, limit: int) -> bool:
        """Takes permits for so many streams of a key, all or none; a limit of 0 is none. Returns whether it did."""
        ...

    def give_back(self, key: str, count: int) -> None:
        """Gives permits back."""
        ...


class ServiceNumbers(Protocol):
    """What is known of the whole service, as of now."""

    @property
    def streams(self) -> int:
        """Streams that are open."""
        ...

    @property
    def stream_limit(self) -> int:
        """Streams that may be open."""
        ...

    @property
    def measured_streams(self) -> int:
        """Live streams that the engines sustain as measured up to now; 0 if that is not measured."""
        ...

    @property
    def load(self) -> float:
        """The largest load of an engine: how long live chunks take, over their duration."""
        ...


class Admission:
    """Admits streams, whatever protocol they speak: a front end has one.

    Args:
        engines: whose slots streams lease.
        permits: of the API keys.
        numbers: of the whole service.
        metrics: told about who comes, is refused and leaves.
        inbox_s: seconds of audio that a stream may have waiting; at least a few chunks wait all the same.
        max_unread: finals of a stream that may wait for its client to read them.
        max_load: load above which engines admit no stream; 0 for no limit.
        idle_timeout_s: a stream that sends nothing for longer is ended.
        max_stream_s: longest stream, 0 for no limit.
        tracing: makes traces of streams; None for none.
        keys: API keys of which a caller has to show one; None where no key is asked for.
        packets: measures whether this front end keeps up; None where the number of streams is set.
        on_count: told how many streams are open here, each time that this changes.

    Attributes:
        engines, numbers, metrics, idle_timeout_s, max_stream_s, tracing, keys: as given.
        refusal: what new streams are answered with instead of being admitted; None while serving.
        open_calls: calls that were admitted and have not ended; a call of two channels counts once.
    """

    def __init__(
        self,
        engines: Engines,
        permits: KeyPermits,
        numbers: ServiceNumbers,
        metrics: Metrics,
        *,
        inbox_s: float,
        idle_timeout_s: float,
        max_stream_s: float,
        max_unread: int = MAX_UNREAD,
        max_load: float = 0.0,
        tracing: Tracing | None = None,
        keys: KeyRing | None = None,
        packets: PacketLoad | None = None,
        on_count: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.engines = engines
        self.numbers = numbers
        self.refusal: AsrError | None = starting()
        self.metrics = metrics
        self.idle_timeout_s = idle_timeout_s
        self.max_stream_s = max_stream_s
        self.tracing = tracing
        self.keys = keys
        self.open_calls = 0
        self._permits = permits
        self._inbox_s = inbox_s
        self._max_unread = max_unread
        self._max_load = max_load
        self._packets = packets
        self._on_count = on_count
        self._sessions: set[Session] = set()
        self._call_ended = asyncio.Event()

    @property
    def routes(self) -> Routes | None:
        """What is served, for clients to choose from; None until the models are made."""
        return self.engines.routes

    def room(self, engine: int) -> Room:
        """Returns how much room an engine has, by its number."""
        return self.engines.room(engine)

    @property
    def active(self) -> int:
        """Streams that are open here."""
        return len(self._sessions)

    async def admit(
        self, config: StreamConfig, channels: int = 1, key: ApiKey | None = None
    ) -> list[Session]:
        """Starts a session for each channel of a call, or none at all; a call that is admitted has to `leave`.

        Args:
            config: of every channel.
            channels: how many there are.
            key: the API key that the caller showed, None without keys.

        Raises:
            AsrError: why the call is refused; the refusal was counted.
        """
        try:
            self._check_serving()
            await self._take_permits(key, channels)
            try:
                sessions = await self._lease(config, channels, key.name if key else "")
            except BaseException:
                self._give_back(key.name if key else "", channels)
                raise
        except AsrError as refused:
            self._refuse(refused)
        for session in sessions:
            if session.ended is None:
                session.on_released = self._released
                self._sessions.add(session)
            else:
                # Its engine was gone before this could go on.
                self._give_back(session.key_name, 1)
        self._on_count(len(self._sessions))
        self.metrics.stream_opened()
        self.open_calls += 1
        if self.refusal is not None:
            # The drain began while the slots were asked for.
            for session in sessions:
                session.end(self.refusal)
        return sessions

    async def check(self, config: StreamConfig, channels: int = 1, key: ApiKey | None = None) -> None:
        """Checks that a call would be admitted now.

        Engines are asked only where none seems to have room: what they tell of themselves may be of a step ago, when
        streams were open that clients know to be over.

        Args:
            config, channels, key: see `admit`.

        Raises:
            AsrError: as `admit` does.
        """
        try:
            self._check_serving()
            await self._take_permits(key, channels)
            self._give_back(key.name if key else "", channels)
            running = self._candidates(config)
            if not any(one.numbers.leased + channels <= one.numbers.limit for one in running):
                for session in await self._lease(config, channels, key.name if key else ""):
                    session.cancel()
            elif all(0 < self._max_load < one.numbers.load for one in running):
                raise self._overloaded(min(one.numbers.load for one in running))
        except AsrError as refused:
            self._refuse(refused)

    def _check_serving(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self._packets is not None and self._packets.is_full:
            raise Overloaded(
                f"no time for one more stream: the packets of {self.active} take {self._packets.busy:.2f} of a core",
                retry_after_s=_RETRY_BUSY_S,
            )

    def _candidates(self, config: StreamConfig) -> list[LinkedEngine]:
        """Returns the engines that may take a stream, the one with most room first.

        Raises:
            InvalidArgument: nobody serves what it asks for.
            Unavailable: those that do are away.
        """
        if self.routes is None:
            raise starting()
        route = self.routes.find(Wanted(config.model, config.language, config.look_ahead_ms))
        candidates = self.engines.running(route.engines)
        if not candidates:
            raise Unavailable(
                "no engine for this stream runs now; it is being started again",
                retry_after_s=STARTING_RETRY_S,
            )
        return candidates

    async def _take_permits(self, key: ApiKey | None, count: int) -> None:
        if key and not await self._permits.ask(key.name, count, key.max_streams):
            message = f"all {key.max_streams} streams of key {key.name!r} are open"
            raise QuotaReached(message, retry_after_s=_RETRY_AFTER_S)

    def _give_back(self, key_name: str, count: int) -> None:
        if key_name:
            self._permits.give_back(key_name, count)

    async def _lease(self, config: StreamConfig, channels: int, key_name: str) -> list[Session]:
        """Asks one engine that fits after the other for slots.

        Raises:
            AsrError: none of them has any.
        """
        refusals: list[AsrError] = []
        candidates = self._candidates(config)
        for engine in candidates:
            sessions = [self._new_session(engine, config, key_name) for _ in range(channels)]
            prompt = prompt_index(config.language, engine.info)
            try:
                with self.engines.asking(engine.number, channels):
                    leases = await engine.link.lease(sessions, prompt, config.boosts)
            except (AtCapacity, Unavailable) as refused:
                refusals.append(refused)
                continue
            for session, lease in zip(sessions, leases, strict=True):
                session.start(lease)
            return sessions
        if loads := [one.facts["load"] for one in refusals if isinstance(one, Overloaded)]:
            raise self._overloaded(min(map(float, loads)))
        if any(isinstance(one, AtCapacity) for one in refusals):
            raise _full(candidates, channels)
        raise refusals[0] if refusals else starting()

    def _new_session(self, engine: LinkedEngine, config: StreamConfig, key_name: str) -> Session:
        info = engine.info
        stream = Stream(
            config,
            info,
            engine.vocabulary,
            time.monotonic(),
            engine.finalize_silence_ms,
            read_ahead=_READ_AHEAD,
        )
        # Two chunks at least, since fewer than one would wait for ever.
        inbox_s = max(self._inbox_s, 2 * info.chunk_ms / 1000)
        inbox_bytes = int(inbox_s * config.sample_rate) * sample_bytes(config.encoding)
        session = Session(stream, inbox_bytes, self._max_unread, key_name, interims=config.interim_results)
        if self.engines.count > 1:
            session.engine = engine.number
        return session

    def _overloaded(self, load: float) -> Overloaded:
        message = (
            f"the machine is too busy for one more stream: results of live audio take {load:.2f} times as long as "
            f"the audio they cover, above {self._max_load:g}"
        )
        return Overloaded(message, retry_after_s=_RETRY_BUSY_S)

    def _refuse(self, error: AsrError) -> NoReturn:
        self.metrics.refused(error.reason)
        raise error

    def _released(self, session: Session) -> None:
        self._sessions.discard(session)
        self._give_back(session.key_name, 1)
        self._on_count(len(self._sessions))

    def leave(self) -> None:
        """Tells that an admitted call has ended."""
        self.open_calls -= 1
        self._call_ended.set()

    def end_all(self, error: AsrError) -> None:
        """Ends every stream with its last final and this error, as soon as the engine has answered what was sent."""
        for session in list(self._sessions):
            session.end(error)

    def fail_all(self, error: AsrError) -> None:
        """Ends every stream with this error at once, whether its engine still runs or not."""
        for session in list(self._sessions):
            session.fail(error)

    async def drained(self) -> None:
        """Waits until no admitted call is left; new ones are to be refused by then."""
        while self.open_calls:
            self._call_ended.clear()
            await self._call_ended.wait()


def _full(engines: Sequence[LinkedEngine], channels: int) -> AtCapacity:
    """Says that none of the engines that fit has room."""
    streams = sum(engine.numbers.limit for engine in engines)
    message = f"all {streams} streams are taken"
    if channels > 1:
        where = " in one engine" if len(engines) > 1 else ""
        message = f"fewer than {channels} of {streams} streams are free{where}"
    return AtCapacity(message, retry_after_s=_RETRY_AFTER_S)


def starting() -> Unavailable:
    """What calls are answered with before the model can be used."""
    return Unavailable("the service is starting: its model is not made yet", retry_after_s=STARTING_RETRY_S)
