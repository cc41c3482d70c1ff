"""Commands that a front end gives an engine, and events that the engine answers with: frozen, plain values."""

from __future__ import annotations

from dataclasses import dataclass

from asr_service.core.values import Result, StreamConfig


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream is over and its slot is free. `error` is None after a flushed half-close or a cancel."""

    stream: int
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Consumed:
    """The engine has consumed bytes of a stream's audio.

    Attributes:
        stream: the engine's id of the stream.
        audio_bytes: bytes consumed since the event before this one.
        next_chunk_end: bytes of the stream, from its first one, that the next chunk needs at least, as long as no
            finalize request comes in between; fewer are of no use to the engine. 0 if all are welcome as they come.
        chunk_bytes: bytes of every chunk after it; then `next_chunk_end` is exact. 0 if that is not known. A later
            event takes the place of both: where the model starts anew, a chunk is shorter.
    """

    stream: int
    audio_bytes: int
    next_chunk_end: int = 0
    chunk_bytes: int = 0


Event = Result | Ended | Consumed
"""What crosses from an engine to a front end; a turn's events cross together."""


@dataclass(frozen=True, slots=True)
class Open:
    """Starts a stream on a free slot. The front end has already taken the stream's permit."""

    stream: int
    config: StreamConfig


@dataclass(frozen=True, slots=True)
class Audio:
    """Carries audio bytes of a stream, as the client sent them."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finalize:
    """Asks for the final of everything that came before; the stream goes on."""

    stream: int
    tag: str


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Ends a stream's input: what is left is flushed, the last final is made, and the stream ends.

    `by_server` says that it is not the client who ends it, which the final's reason tells.
    """

    stream: int
    by_server: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ends a stream whose client is gone: its slot is freed and it gives no more results."""

    stream: int


Command = Open | Audio | Finalize | HalfClose | Cancel
"""What crosses from a front end to an engine."""


TimedCommand = tuple[float, Command | None]
"""A command with the time at which it was given, monotonic seconds; None stops the engine."""
