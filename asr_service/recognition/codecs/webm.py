"""Takes the packets of Opus out of the bytes of a WebM or Matroska stream (RFC 9559), block by block. Pure.

Recorders write it as they go: segments and clusters then do not say how long they are. What is in them is read as if it
followed each other, since every element's name says by itself where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from asr_service.core.errors import InvalidArgument

_EBML, _SEGMENT, _TRACKS, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK, _DISCARD_PADDING = 0xA3, 0xA0, 0xA1, 0x75A2
_TRACK_ENTRY, _TRACK_NUMBER, _CODEC, _CODEC_HEAD, _CODED = 0xAE, 0xD7, 0x86, 0x63A2, 0x6D80
# Where to look, what it is, cues, chapters, attachments, tags, nothing, checksums; times, sizes and places of clusters.
_LEFT_OUT = frozenset(
    (
        0x114D9B74,
        0x1549A966,
        0x1C53BB6B,
        0x1043A770,
        0x1941A469,
        0x1254C367,
        0xEC,
        0xBF,
        0xE7,
        0xA7,
        0xAB,
        0x5854,
    )
)
_LONGEST_HEAD = 12
# Recorders need a few hundred; other tracks' codecs have some thousands at their start.
_MOST_TRACK_BYTES = 65_536
# Twice what a packet of Opus has at most.
_MOST_BLOCK_BYTES = 131_072
# Of an element. They are read at once, and elements of two bytes that hold nothing would take long.
_MOST_CHILDREN = 100
# A block's first bytes, the number of its track.
_LONGEST_NUMBER = 8
_NS = 1_000_000_000
_OPUS_RATE = 48_000


@dataclass(frozen=True, slots=True)
class Head:
    """The identification header of the track that follows."""

    opus: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of the track, and how many samples at its end do not count."""

    data: bytes
    discard: int = 0


class WebmBlocks:
    """Reads the first track of Opus; other tracks are left out."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._before = 0
        # Bytes of an element that are yet to be left out.
        self._skip = 0
        self._track: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for an element's end."""
        return not self._bytes and not self._skip

    def push(self, data: bytes) -> None:
        """Takes bytes."""
        self._bytes += data

    def next(self) -> Head | Packet | None:
        """Gives the next packet, or the head of a track before its first one; None until it is complete.

        Raises:
            InvalidArgument: the bytes are no WebM, or there is no Opus in it.
        """
        while True:
            if self._skip:
                step = min(self._skip, len(self._bytes))
                self._take(step)
                self._skip -= step
                if self._skip:
                    return None
            element = _element(bytes(self._bytes[:_LONGEST_HEAD]))
            if element is None:
                if len(self._bytes) >= _LONGEST_HEAD or (self._bytes and self._bytes[0] < 0x10):
                    raise self._damaged("no element begins where the one before it ends")
                return None
            name, head, size = element
            if name in (_SEGMENT, _CLUSTER):
                self._take(head)
            elif size is None:
                raise self._damaged("an element does not say where it ends")
            elif name == _EBML or name in _LEFT_OUT:
                self._take(head)
                self._skip = size
            elif name == _SIMPLE_BLOCK and size > _MOST_BLOCK_BYTES:
                if not self._leave_out(head, size):
                    return None
            elif name in (_TRACKS, _SIMPLE_BLOCK, _BLOCK_GROUP):
                if size > (_MOST_TRACK_BYTES if name == _TRACKS else _MOST_BLOCK_BYTES):
                    raise self._damaged("an element is longer than it can be")
                if len(self._bytes) < head + size:
                    return None
                body = bytes(self._bytes[head : head + size])
                self._take(head + size)
                found = self._read(name, body)
                if found is not None:
                    return found
            else:
                raise self._damaged(f"an element with the name {name:X} has no place there")

    def _leave_out(self, head: int, size: int) -> bool:
        """Leaves a large block out as it comes, such as one of video; False until it is known which track's it is."""
        start = bytes(self._bytes[head : head + _LONGEST_NUMBER])
        number = _number(start, 0)
        if number is None:
            if len(start) == _LONGEST_NUMBER:
                raise self._damaged("a block has no head")
            return False
        if number[0] == self._track:
            raise self._damaged("an element is longer than it can be")
        self._take(head)
        self._skip = size
        return True

    def _read(self, name: int, body: bytes) -> Head | Packet | None:
        if name == _TRACKS:
            return self._read_tracks(body)
        if name == _SIMPLE_BLOCK:
            return self._read_block(body, 0)
        parts = dict(self._children(body))
        padding = int.from_bytes(parts.get(_DISCARD_PADDING, b""), "big", signed=True)
        discard = max(0, round(padding * _OPUS_RATE / _NS)) if abs(padding) < _NS else 0
        return self._read_block(parts.get(_BLOCK, b""), discard)

    def _read_tracks(self, body: bytes) -> Head:
        for name, entry in self._children(body):
            if name != _TRACK_ENTRY:
                continue
            parts = dict(self._children(entry))
            if parts.get(_CODEC, b"").rstrip(b"\0") != b"A_OPUS":
                continue
            if _CODED in parts:
                raise self._damaged("its track is compressed or encrypted once more")
            self._track = int.from_bytes(parts.get(_TRACK_NUMBER, b"\1"), "big")
            return Head(parts.get(_CODEC_HEAD, b""))
        raise InvalidArgument(
            "audio is a WebM or Matroska stream without a track of Opus; record it as audio/webm;codecs=opus",
            field="audio",
        )

    def _read_block(self, body: bytes, discard: int) -> Packet | None:
        number = _number(body, 0)
        if number is None or len(body) < number[1] + 3:
            raise self._damaged("a block has no head")
        track, at = number
        if self._track is None:
            raise self._damaged("audio comes before its track")
        if track != self._track:
            return None
        if body[at + 2] & 6:
            raise self._damaged("its blocks hold several packets (lacing), which is not served")
        return Packet(body[at + 3 :], discard)

    def _children(self, body: bytes) -> Iterator[tuple[int, bytes]]:
        at = count = 0
        while at < len(body):
            count += 1
            if count > _MOST_CHILDREN:
                raise self._damaged(f"an element holds more than {_MOST_CHILDREN} others")
            name, head, size = _element(body[at : at + _LONGEST_HEAD]) or (0, 0, None)
            if size is None or at + head + size > len(body):
                raise self._damaged("an element goes beyond the one around it")
            yield name, body[at + head : at + head + size]
            at += head + size

    def _take(self, size: int) -> None:
        del self._bytes[:size]
        self._before += size

    def _damaged(self, what: str) -> InvalidArgument:
        return InvalidArgument(
            f"audio is a WebM stream that is damaged or not served: {what}, {self._before} bytes behind its start; "
            "send the bytes of one recording, from its first on, all of them and in their order",
            field="audio",
        )


def _element(start: bytes) -> tuple[int, int, int | None] | None:
    """Reads an element's name, the bytes of its head, and those of its body (None where it does not say)."""
    if not start or start[0] < 0x10:
        return None
    length = 9 - start[0].bit_length()
    size = _number(start, length)
    if len(start) <= length or size is None:
        return None
    name = int.from_bytes(start[:length], "big")
    value, end = size
    unknown = value == (1 << 7 * (end - length)) - 1
    return name, end, None if unknown else value


def _number(data: bytes, at: int) -> tuple[int, int] | None:
    """Reads a number of 1 to 8 bytes (RFC 8794, 4); returns it and where it ends, None if it is not all there."""
    if at >= len(data) or not data[at]:
        return None
    length = 9 - data[at].bit_length()
    if at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big") & (1 << 7 * length) - 1
    return value, at + length
