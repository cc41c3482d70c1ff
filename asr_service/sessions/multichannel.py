"""Streams of several channels: each channel is a session of its own, and the sender sees one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asr_service.core.values import Encoding


class Feed(Protocol):
    """Where a stream's input goes: one session, or those of all its channels."""

    async def send_audio(self, data: bytes) -> None:
        """See `Session.send_audio`."""
        ...

    def add_silence(self, data: bytes) -> bool:
        """See `Session.add_silence`."""
        ...

    def finalize(self, tag: str) -> None:
        """See `Session.finalize`."""
        ...

    def half_close(self) -> None:
        """See `Session.half_close`."""
        ...


class Channel(Feed, Protocol):
    """The session of one channel."""

    @property
    def takes_silence(self) -> bool:
        """See `Session.takes_silence`."""
        ...


class Interleaved:
    """Deals interleaved samples out to a session for each channel.

    Packets may split a sample or a group of samples that belong together; what is incomplete waits for the next packet.

    Args:
        sessions: of the channels, in their order in the audio.
        encoding: tells how many bytes a sample has.
    """

    def __init__(self, sessions: Sequence[Channel], encoding: Encoding) -> None:
        self._sessions = sessions
        self._width = sample_bytes(encoding)
        self._rest = b""

    def set_encoding(self, encoding: Encoding) -> None:
        """Says how many bytes a sample has, where that is known late; before the first of them."""
        self._width = sample_bytes(encoding)

    async def send_audio(self, data: bytes) -> None:
        """Sends the samples that are complete in every channel; waits for the slowest channel's inbox."""
        data = self._rest + data
        whole = len(data) - len(data) % (self._width * len(self._sessions))
        self._rest = data[whole:]
        if whole:
            for session, part in zip(self._sessions, self._dealt(data[:whole]), strict=True):
                await session.send_audio(part)

    def add_silence(self, data: bytes) -> bool:
        """Takes silence for every channel, or for none: see `Session.add_silence`."""
        if not all(session.takes_silence for session in self._sessions):
            return False
        return all(session.add_silence(data) for session in self._sessions)

    def finalize(self, tag: str) -> None:
        """Asks for a final of every channel."""
        for session in self._sessions:
            session.finalize(tag)

    def half_close(self) -> None:
        """Ends every channel's input. A last sample that not every channel has is left out."""
        for session in self._sessions:
            session.half_close()

    def _dealt(self, data: bytes) -> list[bytes]:
        count, width = len(self._sessions), self._width
        if width == 1:
            return [data[channel::count] for channel in range(count)]
        samples = memoryview(data).cast("H" if width == 2 else "I")
        return [samples[channel::count].tobytes() for channel in range(count)]


def sample_bytes(encoding: Encoding) -> int:
    """Bytes of one sample of one channel."""
    return encoding.sample_bytes
