"""Reads what the header of a WAV file says of its audio, for protocols whose streams begin with one. Pure.

Only as much as a stream's config needs: the service reads the header itself, and is the judge of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ws_bridge.status import Failure, Refused

LONGEST_START = 65_536
"""Bytes within which a header has to say what the audio is."""

_MAGIC_BYTES = 12
_FORMAT_BYTES = 16
_EXTENSIBLE = 0xFFFE
_ENCODINGS = {(1, 16): "linear16", (6, 8): "alaw", (7, 8): "mulaw"}
"""By format tag and bits of a sample, as streams take them."""


@dataclass(frozen=True, slots=True)
class WavFormat:
    """What a WAV file's audio is: `enc` as in `Init`, "" for one that no stream takes."""

    enc: str
    sr: int
    channels: int


def may_be_wav(start: bytes) -> bool:
    """Whether what starts with these bytes may be a WAV file."""
    return (
        bool(start)
        and start[:4] == b"RIFF"[: len(start)]
        and start[8:12] == b"WAVE"[: max(0, len(start) - 8)]
    )


def read_wav_start(start: bytes) -> WavFormat | None:
    """Reads the first bytes of a WAV file.

    Returns:
        Its format; None if more bytes are needed to say.

    Raises:
        Refused: the header does not say what the audio is.
    """
    place = _MAGIC_BYTES
    while place + 8 <= len(start):
        name, size = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"data" or (name == b"fmt " and size < _FORMAT_BYTES):
            raise _unreadable("does not say what its audio is")
        if name == b"fmt ":
            chunk = start[place : place + min(size, 40)]
            return _read_format(chunk) if len(chunk) == min(size, 40) else None
        place += size + size % 2
        if place > LONGEST_START:
            break
    if max(place, len(start)) > LONGEST_START:
        raise _unreadable(f"is longer than {LONGEST_START} bytes")
    return None


def _read_format(chunk: bytes) -> WavFormat:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack_from("<H", chunk, 24)[0]
    return WavFormat(_ENCODINGS.get((kind, bits), ""), rate, channels)


def _unreadable(problem: str) -> Refused:
    return Refused(Failure("invalid_argument", f"audio has a WAV header that {problem}", field="audio"))
