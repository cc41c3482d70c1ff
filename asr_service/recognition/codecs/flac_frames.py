"""Finds the frames of a FLAC stream (RFC 9639) in its bytes, as soon as each is complete. Pure.

FFmpeg's own parser waits for ten frames, two and a half seconds of 16 kHz audio, before it gives out the first. Here a
frame ends where its CRC-16 is right and a header with a right CRC-8 follows, or where a packet ends with a right
CRC-16: what an encoder sends frame by frame is decoded at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr_service.core.errors import InvalidArgument

_BLOCK = 512
# A header's bytes at most, and what has to be there to be sure that one is none.
_LONGEST_HEADER = 16
_RATES = (0, 88_200, 176_400, 192_000, 8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_BITS = (0, 8, 12, None, 16, 20, 24, 32)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a FLAC stream says of itself at its start.

    Attributes:
        block: its 34 bytes, as the decoder wants them.
        sample_rate: Hz.
        channels: 1 to 8.
        bits: of a sample.
    """

    block: bytes
    sample_rate: int
    channels: int
    bits: int


def read_stream_info(block: bytes) -> StreamInfo:
    """Reads a STREAMINFO block of 34 bytes (RFC 9639, 8.2)."""
    packed = int.from_bytes(block[10:18], "big")
    return StreamInfo(block, packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's bytes; `is_guess`: it only seems to end where its packet does, which its decoder has to confirm."""

    data: bytes
    samples: int
    is_guess: bool = False


class FlacFrames:
    """Cuts the bytes behind a stream's metadata into frames.

    Args:
        info: of the stream.
    """

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._bytes = bytearray()
        # Bytes of frames that were cut.
        self._before = 0
        self._restart()

    def _restart(self) -> None:
        # Of the frame at the start: where its successor is looked for, and the CRC-16 of its first bytes.
        self._scan = 0
        self._summed = 0
        self._crc = 0
        self._samples = 0
        self._guesses = 4

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for its frame's end."""
        return not self._bytes

    @property
    def place(self) -> int:
        """Bytes of the frames that were given."""
        return self._before

    def push(self, data: bytes) -> None:
        """Takes bytes."""
        self._bytes += data

    def next(self) -> Frame | None:
        """Gives the next frame; None until it is complete.

        Raises:
            InvalidArgument: the bytes are no frame of this stream.
        """
        data = self._bytes
        if not self._samples:
            header = read_header(bytes(data[:_LONGEST_HEADER]), self._info)
            if header is None:
                if len(data) >= _LONGEST_HEADER:
                    raise damaged("has no frame where the one before it ends", self._before)
                return None
            size, self._samples = header
            self._scan = size
        sync = bytes(data[:2])
        while (place := data.find(sync, self._scan)) >= 0:
            start = bytes(data[place : place + _LONGEST_HEADER])
            header = read_header(start, self._info)
            if header is None and len(start) < _LONGEST_HEADER:
                # It may yet become one.
                break
            if header is not None and self._sum_to(place) == 0:
                return self._cut(place)
            self._scan = place + 1
        else:
            self._scan = max(self._scan, len(data) - 1)
        if len(data) > self._most_bytes():
            raise damaged("has a frame that does not end", self._before)
        # What may be a header's start is not summed yet: a frame may end before it.
        summed = max(self._summed, len(data) - _LONGEST_HEADER)
        crc = self._sum_to(summed)
        if self._guesses and crc16(bytes(data[summed:]), crc) == 0 and len(data) > self._header_end():
            self._guesses -= 1
            return Frame(bytes(data), self._samples, is_guess=True)
        return None

    def confirm(self) -> None:
        """Takes the frame away that was a guess: it has ended where it seemed to."""
        self._cut(len(self._bytes))

    def _header_end(self) -> int:
        header = read_header(bytes(self._bytes[:_LONGEST_HEADER]), self._info)
        return header[0] + 2 if header else _LONGEST_HEADER

    def _cut(self, end: int) -> Frame:
        frame = Frame(bytes(self._bytes[:end]), self._samples)
        del self._bytes[:end]
        self._before += end
        self._restart()
        return frame

    def _sum_to(self, place: int) -> int:
        self._crc = crc16(bytes(self._bytes[self._summed : place]), self._crc)
        self._summed = place
        return self._crc

    def _most_bytes(self) -> int:
        """Bytes that no encoder exceeds: twice those of the samples as they are."""
        return 64 + 2 * self._info.channels * (16 + self._samples * (self._info.bits + 1) // 8)


def read_header(start: bytes, info: StreamInfo) -> tuple[int, int] | None:
    """Reads a frame's header (RFC 9639, 9.1); returns its bytes and the frame's samples, None if it is none."""
    if len(start) < 6 or start[0] != 0xFF or start[1] & 0xFE != 0xF8 or start[3] & 1:
        return None
    block, rate, layout, bits = start[2] >> 4, start[2] & 15, start[3] >> 4, _BITS[start[3] >> 1 & 7]
    channels = layout + 1 if layout < 8 else 2
    if not block or rate == 15 or layout > 10 or channels != info.channels or bits not in (0, info.bits):
        return None
    # A number of 1 to 7 bytes, coded as UTF-8 codes characters.
    ones = 8 - (~start[4] & 0xFF).bit_length()
    if ones == 1 or ones == 8:
        return None
    at = 4 + max(1, ones)
    block_bytes = {6: 1, 7: 2}.get(block, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if len(start) < at + block_bytes + rate_bytes + 1 or any(byte >> 6 != 2 for byte in start[5:at]):
        return None
    written = int.from_bytes(start[at : at + block_bytes], "big")
    at += block_bytes
    hertz = int.from_bytes(start[at : at + rate_bytes], "big") * {12: 1000, 14: 10}.get(rate, 1)
    at += rate_bytes
    hertz = hertz if rate_bytes else _RATES[rate]
    if hertz not in (0, info.sample_rate) or crc8(start[:at]) != start[at]:
        return None
    if block_bytes:
        samples = written + 1
    elif block == 1:
        samples = 192
    else:
        samples = 576 << block - 2 if block < 6 else 1 << block
    return at + 1, samples


def damaged(what: str, place: int) -> InvalidArgument:
    """The error of a stream that is no FLAC from some place on; bytes are counted behind its metadata."""
    return InvalidArgument(
        f"audio is a damaged FLAC stream: it {what}, {place} bytes behind its metadata; send the bytes of one FLAC "
        "file, from its first on, all of them and in their order",
        field="audio",
    )


def crc8(data: bytes) -> int:
    """The CRC of a header: x^8 + x^2 + x + 1."""
    crc, table = 0, _crc8_table()
    for byte in data:
        crc = table[crc ^ byte]
    return crc


@functools.cache
def _crc8_table() -> bytes:
    def shifted(value: int) -> int:
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
        return value

    return bytes(map(shifted, range(256)))


def crc16(data: bytes, crc: int = 0) -> int:
    """The CRC of a frame, which is 0 with its last two bytes: x^16 + x^15 + x^2 + 1. Takes a while per block only."""
    table = _crc16_table()
    for start in range(0, len(data), _BLOCK):
        block = bytearray(data[start : start + _BLOCK])
        if len(block) == 1:
            crc = (crc << 8 & 0xFFFF) ^ int(table[0, block[0] ^ crc >> 8])
            continue
        # A CRC so far is as if it stood in front of the bytes to come.
        block[0] ^= crc >> 8
        block[1] ^= crc & 0xFF
        rows = np.arange(len(block) - 1, -1, -1)
        crc = int(np.bitwise_xor.reduce(table[rows, np.frombuffer(block, np.uint8)]))
    return crc


@functools.cache
def _crc16_table() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The CRC of each byte with so many zeros behind it, [zeros, byte]."""
    table = np.zeros((_BLOCK, 256), np.uint16)
    row = np.arange(256, dtype=np.uint32) << 8
    for _ in range(8):
        row = np.where(row & 0x8000, (row << 1) ^ 0x8005, row << 1) & 0xFFFF
    table[0] = row
    for zeros in range(1, _BLOCK):
        before = table[zeros - 1]
        table[zeros] = (before << 8) ^ table[0][before >> 8]
    return table
