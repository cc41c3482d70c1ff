"""Reads what the first bytes of a file say of its audio, for protocols whose streams begin with one. Pure.

Only as much as a stream's config needs: the service reads the file itself, and is the judge of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from ws_bridge.status import Failure, Refused

LONGEST_START = 65_536
"""Bytes within which a file has to say what its audio is."""

MOST_CHANNELS = 2
"""Channels that a stream may have."""

_WAV_BYTES = 12
_FORMAT_BYTES = 16
_EXTENSIBLE = 0xFFFE
_ENCODINGS = {(1, 16): "linear16", (6, 8): "alaw", (7, 8): "mulaw"}
"""By format tag and bits of a sample, as streams take them."""

_FLAC, _OGG, _WEBM = b"fLaC", b"OggS", b"\x1aE\xdf\xa3"
_FLAC_BYTES = 22
_PAGE_BYTES = 27
_OPUS_HEAD = b"OpusHead"
_OPUS_BYTES = len(_OPUS_HEAD) + 2
_CLUSTER = b"\x1fC\xb6u"
"""Behind it come no more of a WebM file's descriptions."""

_MIXED_BY_THEIR_DECODER = ("ogg_opus", "webm_opus")


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What audio is: `enc` and `sr` as in `Init`, and channels; `enc` is "" for a file that no stream takes."""

    enc: str
    sr: int
    channels: int


_OTHER = AudioFormat("", 0, 0)


def may_be_wav(start: bytes) -> bool:
    """Whether what starts with these bytes may be a WAV file."""
    return (
        bool(start)
        and start[:4] == b"RIFF"[: len(start)]
        and start[8:12] == b"WAVE"[: max(0, len(start) - 8)]
    )


def read_start(start: bytes) -> AudioFormat | None:
    """Reads the first bytes of a file.

    Returns:
        Its format; None if more bytes are needed to say.

    Raises:
        Refused: it is a WAV file whose header does not say what the audio is.
    """
    if may_be_wav(start[:_WAV_BYTES]):
        return _read_wav(start)
    for mark, read in ((_FLAC, _read_flac), (_OGG, _read_ogg), (_WEBM, _read_webm)):
        if start.startswith(mark):
            return read(start)
        if mark.startswith(start):
            return None
    return _OTHER


def as_stream(found: AudioFormat, *, separate_channels: bool) -> AudioFormat | None:
    """The format in which a stream takes such a file as it is; None if it has to be decoded first.

    Args:
        found: what the file says of itself.
        separate_channels: whether each channel is to be recognized by itself; otherwise there should be one.
    """
    if not found.enc or not 1 <= found.channels <= MOST_CHANNELS:
        return None
    if found.channels == 1 or separate_channels:
        return found
    return replace(found, channels=1) if found.enc in _MIXED_BY_THEIR_DECODER else None


def _read_wav(start: bytes) -> AudioFormat | None:
    place = _WAV_BYTES
    while place + 8 <= len(start):
        name, size = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"data" or (name == b"fmt " and size < _FORMAT_BYTES):
            raise _unreadable("does not say what its audio is")
        if name == b"fmt ":
            chunk = start[place : place + min(size, 40)]
            return _read_wav_format(chunk) if len(chunk) == min(size, 40) else None
        place += size + size % 2
        if place > LONGEST_START:
            break
    if max(place, len(start)) > LONGEST_START:
        raise _unreadable(f"is longer than {LONGEST_START} bytes")
    return None


def _read_wav_format(chunk: bytes) -> AudioFormat:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack_from("<H", chunk, 24)[0]
    return AudioFormat(_ENCODINGS.get((kind, bits), ""), rate, channels)


def _read_flac(start: bytes) -> AudioFormat | None:
    if len(start) < _FLAC_BYTES:
        return None
    return AudioFormat("flac", 0, 1 + (start[20] >> 1 & 7))


def _read_ogg(start: bytes) -> AudioFormat | None:
    if len(start) < _PAGE_BYTES:
        return None
    head = start[_PAGE_BYTES + start[26] :]
    if not head.startswith(_OPUS_HEAD[: len(head)]):
        return _OTHER
    return AudioFormat("ogg_opus", 0, head[9]) if len(head) >= _OPUS_BYTES else None


def _read_webm(start: bytes) -> AudioFormat | None:
    place = start.find(_OPUS_HEAD)
    if 0 <= place <= len(start) - _OPUS_BYTES:
        return AudioFormat("webm_opus", 0, start[place + 9])
    if _CLUSTER in start or len(start) > LONGEST_START:
        # As one whose tracks are not described: the service says what is wrong with it.
        return AudioFormat("webm_opus", 0, 1)
    return None


def _unreadable(problem: str) -> Refused:
    return Refused(Failure("invalid_argument", f"audio has a WAV header that {problem}", field="audio"))
