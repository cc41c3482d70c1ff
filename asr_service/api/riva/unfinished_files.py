"""Mends files whose header was never finished: their sizes are what they would be with the last byte as the end. Pure.

Who writes a file to a pipe cannot come back to write its sizes. libsndfile takes sizes that are too small as they are,
and would read nothing, or the beginning.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from asr_service.recognition.containers import mp3_frame
from asr_service.recognition.wav_header import MAGIC_BYTES, is_trailer

# Chunks that are looked at.
_MOST_CHUNKS = 64
_ID3_BYTES = 10
# Of MPEG frames.
_SMALLEST_FRAME = 24


class JoinedBytes(io.RawIOBase):
    """A file in memory whose parts lie where they are: nothing is copied but what is read.

    Args:
        parts: of the file, in order.
    """

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts
        self._size = sum(map(len, parts))
        self._place = 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can be moved in: yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves. libsndfile seeks before the start of spoiled files, which should not be told on the console."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """Returns where it is."""
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        """Fills a buffer as far as there are bytes; returns how many."""
        target, filled, start = memoryview(buffer).cast("B"), 0, 0
        for part in self._parts:
            at = self._place - start
            if 0 <= at < len(part) and filled < len(target):
                piece = part[at : at + len(target) - filled]
                target[filled : filled + len(piece)] = piece
                filled += len(piece)
                self._place += len(piece)
            start += len(part)
        return filled


def with_true_sizes(audio: bytes | memoryview) -> JoinedBytes:
    """Returns a file for libsndfile to read to its end."""
    audio = memoryview(audio)
    parts, place = [], 0
    for start, end, instead in _mended(audio):
        parts += [audio[place:start], memoryview(instead)]
        place = end
    return JoinedBytes([*parts, audio[place:]])


def _mended(audio: memoryview) -> Iterator[tuple[int, int, bytes]]:
    """Finds what has to be changed, at most one place: where it starts and ends, and what stands there instead."""
    for place, size in _unknown_sizes(audio):
        yield place, place + len(size), size
    if bytes(audio[:3]) == b"ID3" or bytes(audio[:1]) == b"\xff":
        yield from _frame_count(audio)


def _unknown_sizes(audio: memoryview) -> Iterator[tuple[int, bytes]]:
    """Finds the sizes of audio that cannot be meant; yields where they stand, and what they should be."""
    match bytes(audio[:4]):
        case b"RIFF" | b"RIFX" | b"RF64":
            yield from _unknown_riff_size(audio)
        case b".snd" | b"dns." if not any(audio[8:12]):
            # "Unknown", as the format has it.
            yield 8, b"\xff\xff\xff\xff"
        case b"caff":
            yield from _unknown_caf_size(audio)


def _unknown_riff_size(audio: memoryview) -> Iterator[tuple[int, bytes]]:
    order = ">" if bytes(audio[:4]) == b"RIFX" else "<"
    place = MAGIC_BYTES
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(audio):
            return
        name, size = struct.unpack_from(f"{order}4sI", audio, place)
        place += 8
        if name == b"data":
            break
        place += size + size % 2
    else:
        return
    size_place, form = place - 4, f"{order}I"
    if bytes(audio[:4]) == b"RF64":
        if bytes(audio[12:16]) != b"ds64" or len(audio) < 36:
            return
        size_place, form = 28, "<Q"
        size = struct.unpack_from(form, audio, size_place)[0]
    end = place + size + size % 2
    if end >= len(audio) + 2 or (end < len(audio) and not is_trailer(bytes(audio[end : end + 4]))):
        yield size_place, struct.pack(form, min(len(audio) - place, 0xFFFFFFFF))


def _unknown_caf_size(audio: memoryview) -> Iterator[tuple[int, bytes]]:
    place = 8
    for _ in range(_MOST_CHUNKS):
        if place + 12 > len(audio):
            return
        name, size = struct.unpack_from(">4sq", audio, place)
        place += 12
        if name == b"data":
            # Four of them count edits.
            if size <= 4 or place + size > len(audio):
                yield place - 8, struct.pack(">q", len(audio) - place)
            return
        if size < 0:
            return
        place += size


def _frame_count(audio: memoryview) -> Iterator[tuple[int, int, bytes]]:
    """Puts a count of frames at the start of an MP3 file that has none, as the tag "Xing": as many as there could be.

    Without one, the number is estimated from the first frames, and nothing is read beyond it.
    """
    start = 0
    if bytes(audio[:3]) == b"ID3" and len(audio) >= _ID3_BYTES:
        start = _ID3_BYTES + (audio[6] << 21 | audio[7] << 14 | audio[8] << 7 | audio[9])
    header = bytes(audio[start : start + 4])
    frame = mp3_frame(header) if len(header) == 4 else None
    if frame is None:
        return
    mono, version_1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side_bytes = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}[version_1, mono]
    tag = bytes(audio[start + 4 + side_bytes :][:12])
    # Flags say whether the count is there, and it is 0 where nobody came back.
    if tag[:4] in (b"Xing", b"Info") and tag[7:8] and tag[7] & 1 and any(tag[8:]):
        return
    # A frame of the largest bitrate has room for it.
    header = bytes((header[0], header[1] | 1, 0xE0 | header[2] & 0x0C, header[3]))
    made = mp3_frame(header)
    assert made is not None
    count = len(audio) // _SMALLEST_FRAME + 1
    body = header + bytes(side_bytes) + b"Xing" + struct.pack(">II", 1, count)
    yield start, start, body.ljust(made[0], b"\0")
