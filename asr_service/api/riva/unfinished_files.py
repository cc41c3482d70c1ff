"""Mends files whose header was never finished: their sizes are what they would be with the last byte as the end. Pure.

Who writes a file to a pipe cannot come back to write its sizes. libsndfile takes sizes that are too small as they are,
and would read nothing, or the beginning.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from asr_service.recognition.containers import mp3_frame
from asr_service.recognition.wav_header import MAGIC_BYTES, is_trailer

# Chunks that are looked at.
_MOST_CHUNKS = 64
_ID3_BYTES = 10
# Of MPEG frames.
_SMALLEST_FRAME = 24


class _File(io.BytesIO):
    """A file in memory. libsndfile seeks before the start of spoiled ones, which should not be told on the console."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves, or stays where it is if there is no such place."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def with_true_sizes(audio: bytes | memoryview) -> io.BytesIO:
    """Returns a file for libsndfile to read to its end."""
    audio = bytes(audio)
    file: io.BytesIO = _File(audio)
    for place, size in _unknown_sizes(audio):
        file.seek(place)
        file.write(size)
    if audio[:3] == b"ID3" or audio[:1] == b"\xff":
        file = _with_frame_count(file, audio)
    file.seek(0)
    return file


def _unknown_sizes(audio: bytes) -> Iterator[tuple[int, bytes]]:
    """Finds the sizes of audio that cannot be meant; yields where they stand, and what they should be."""
    match audio[:4]:
        case b"RIFF" | b"RIFX" | b"RF64":
            yield from _unknown_riff_size(audio)
        case b".snd" | b"dns." if audio[8:12] == bytes(4):
            # "Unknown", as the format has it.
            yield 8, b"\xff\xff\xff\xff"
        case b"caff":
            yield from _unknown_caf_size(audio)


def _unknown_riff_size(audio: bytes) -> Iterator[tuple[int, bytes]]:
    order = ">" if audio[:4] == b"RIFX" else "<"
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
    if audio[:4] == b"RF64":
        if audio[12:16] != b"ds64" or len(audio) < 36:
            return
        size_place, form = 28, "<Q"
        size = struct.unpack_from(form, audio, size_place)[0]
    end = place + size + size % 2
    if end >= len(audio) + 2 or (end < len(audio) and not is_trailer(audio[end : end + 4])):
        yield size_place, struct.pack(form, min(len(audio) - place, 0xFFFFFFFF))


def _unknown_caf_size(audio: bytes) -> Iterator[tuple[int, bytes]]:
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


def _with_frame_count(file: io.BytesIO, audio: bytes) -> io.BytesIO:
    """Puts a count of frames at the start of an MP3 file that has none, as the tag "Xing": as many as there could be.

    Without one, the number is estimated from the first frames, and nothing is read beyond it.
    """
    start = 0
    if audio[:3] == b"ID3" and len(audio) >= _ID3_BYTES:
        start = _ID3_BYTES + (audio[6] << 21 | audio[7] << 14 | audio[8] << 7 | audio[9])
    header = audio[start : start + 4]
    frame = mp3_frame(header) if len(header) == 4 else None
    if frame is None:
        return file
    mono, version_1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side_bytes = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}[version_1, mono]
    tag = start + 4 + side_bytes
    counted = audio[tag : tag + 4] in (b"Xing", b"Info") and audio[tag + 7 : tag + 8] > b"\0"
    if counted and audio[tag + 7] & 1 and audio[tag + 8 : tag + 12] != bytes(4):
        return file
    # A frame of the largest bitrate has room for it.
    header = bytes((header[0], header[1] | 1, 0xE0 | header[2] & 0x0C, header[3]))
    made = mp3_frame(header)
    assert made is not None
    count = len(audio) // _SMALLEST_FRAME + 1
    body = header + bytes(side_bytes) + b"Xing" + struct.pack(">II", 1, count)
    return _File(audio[:start] + body.ljust(made[0], b"\0") + audio[start:])
