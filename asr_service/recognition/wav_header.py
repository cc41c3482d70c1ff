"""Reads WAV headers: at the start of a stream, and at the start of a packet. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding

MAGIC_BYTES = 12
"""So many bytes tell a WAV file from anything else."""

LONGEST_HEADER = 65_536
"""Bytes of a header."""

# RIFF chunks before the audio: the header is read again with each packet, so that thousands would take long.
_MOST_CHUNKS = 64
# Bytes of a format: the least there have to be, and the most that are read.
_FORMAT_BYTES = (16, 40)
_EXTENSIBLE = 0xFFFE
_WAV_KINDS = {(1, 16): Encoding.LINEAR16, (6, 8): Encoding.ALAW, (7, 8): Encoding.MULAW}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The format of raw audio: its encoding, its sample rate in Hz, and its channels, whose samples alternate."""

    encoding: Encoding
    sample_rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class WavHeader:
    """A WAV header: the format that it gives, its own length in bytes, and how many bytes of audio it announces.

    The last is not to be trusted: who writes a header before the audio does not know it, and not everybody comes back.
    """

    format: AudioFormat
    size: int
    data_bytes: int = 0


# Names of chunks that programs write behind the audio; audio does not hold them by chance in one given place.
_TRAILERS = frozenset(
    b"LIST|id3 |ID3 |bext|fact|cue |smpl|inst|iXML|PEAK|JUNK|junk|PAD |_PMX|afsp|cart|axml|chna|umid|DISP|acid|note|"
    b"plst|labl|ltxt|SAUR|LGWV|minf|elm1|regn|DGDA|ResU|FLLR".split(b"|")
)
_NAMES = {1: "PCM", 2: "MS ADPCM", 3: "float", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x55: "MP3"}


def is_trailer(name: bytes) -> bool:
    """Returns whether four bytes behind a WAV file's audio are the name of another chunk."""
    return name in _TRAILERS


def may_be_wav(start: bytes) -> bool:
    """Returns whether audio that starts with these bytes may be a WAV file."""
    return (
        bool(start)
        and start[:4] == b"RIFF"[: len(start)]
        and start[8:12] == b"WAVE"[: max(0, len(start) - 8)]
    )


def read_wav_header(start: bytes, at: int = 0) -> WavHeader | None:
    """Reads the header at the start of a WAV file (RIFF, Microsoft's "Multimedia Programming Interface", 1991).

    Args:
        start: bytes.
        at: where in them the file starts.

    Returns:
        The header; None if it goes on beyond these bytes.

    Raises:
        InvalidArgument: it cannot be read, or its samples are neither 16-bit PCM nor G.711.
    """
    place, audio_format = at + MAGIC_BYTES, None
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(start):
            return None
        name, size = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"data":
            if audio_format is None:
                raise _bad_header("has no format before its data")
            return WavHeader(audio_format, place - at, size)
        if name == b"fmt ":
            least, most = _FORMAT_BYTES
            if size < least:
                raise _bad_header(f"has a format of {size} bytes; {least} are the least")
            chunk = start[place : place + min(size, most)]
            if len(chunk) < min(size, most):
                return None
            audio_format = _read_format(chunk)
        place += size + size % 2
        if place - at > LONGEST_HEADER - 8:
            raise _bad_header(f"is longer than {LONGEST_HEADER} bytes")
    raise _bad_header(f"has more than {_MOST_CHUNKS} chunks before its data")


def _read_format(chunk: bytes) -> AudioFormat:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack_from("<H", chunk, 24)[0]
    encoding = _WAV_KINDS.get((kind, bits))
    if encoding is None:
        raise _bad_header(
            f"says {bits}-bit {_NAMES.get(kind, 'samples')} (format {kind}); streams take 16-bit PCM, mu-law and A-law"
        )
    return AudioFormat(encoding, rate, channels)


def _bad_header(problem: str) -> InvalidArgument:
    return InvalidArgument(f"audio has a WAV header that {problem}", field="audio")
