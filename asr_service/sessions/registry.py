"""All streams of a front end that hold a permit: permits are taken here, and the engine's events find their stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count

from asr_service.access.api_keys import ApiKey
from asr_service.core.commands import Command, Ended, Event, Open
from asr_service.core.errors import AsrError, AtCapacity, Overloaded, QuotaReached
from asr_service.core.values import StreamConfig
from asr_service.sessions.session import MAX_UNREAD, Session

_RETRY_AFTER_S = 1.0
# The load looks back ten seconds.
_RETRY_BUSY_S = 5.0


class SessionRegistry:
    """Takes permits for streams and finds the stream that an event of the engine belongs to.

    Args:
        submit: hands a command to the engine.
        max_streams: permits there are; not more than the model has slots.
        inbox_bytes: gives the audio bytes that may wait on the way in of a stream with this config; at least a few
            chunks' worth.
        max_unread: finals of a stream that may wait for its client to read them.
        load: gives how long live chunks take, over their duration.
        max_load: load above which no stream is admitted; 0 for no limit.

    Attributes:
        max_streams: as given; may be changed at any time. Streams that are open beyond it stay.
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
        # By the name of the key that the streams came with, "" without keys.
        self._permits_of: Counter[str] = Counter()

    @property
    def load(self) -> float:
        """How long live chunks take, over their duration; 0 if that is not known."""
        return self._load()

    @property
    def active(self) -> int:
        """Permits taken."""
        return len(self._sessions)

    def open(self, config: StreamConfig, key: ApiKey | None = None) -> Session:
        """Takes a permit and starts a stream; the permit comes back when the engine has ended the stream.

        Args:
            config: of the stream.
            key: the API key that the caller showed, None without keys.

        Raises:
            AsrError: as `check` does.
        """
        self.check(1, key)
        name = key.name if key else ""
        session = Session(
            next(self._ids),
            self._submit,
            self._inbox_bytes(config),
            self._max_unread,
            name,
            interims=config.interim_results,
        )
        self._sessions[session.id] = session
        self._permits_of[name] += 1
        self._submit(Open(session.id, config))
        return session

    def check(self, count: int, key: ApiKey | None = None) -> None:
        """Checks that `count` streams could be opened now.

        Raises:
            QuotaReached: the caller would have more streams than its key allows.
            AtCapacity: there are not so many permits left.
            Overloaded: the streams that are open take more of the time than is allowed.
        """
        if key and key.max_streams and self._permits_of[key.name] + count > key.max_streams:
            message = f"all {key.max_streams} streams of key {key.name!r} are open"
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
        """Hands each event to its stream; events of streams that are gone are ignored."""
        for event in events:
            session = self._sessions.get(event.stream)
            if session is None:
                continue
            if isinstance(event, Ended):
                del self._sessions[event.stream]
                self._give_back(session)
            session.deliver(event)

    def end_all(self, error: AsrError) -> None:
        """Ends every stream with its last final and this error, as soon as the engine has made the final."""
        for session in list(self._sessions.values()):
            session.end(error)

    def fail_all(self, error: AsrError) -> None:
        """Ends every stream with this error at once, whether the engine still runs or not."""
        sessions, self._sessions = self._sessions, {}
        self._permits_of.clear()
        for session in sessions.values():
            session.fail(error)

    def _give_back(self, session: Session) -> None:
        self._permits_of[session.key_name] -= 1
        if not self._permits_of[session.key_name]:
            del self._permits_of[session.key_name]
