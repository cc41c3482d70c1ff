"""Reads WAV headers at the start of a stream, and decodes whole files of the kinds that libsndfile reads. Pure."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding

# Bytes.
_LONGEST_HEADER = 65_536
# RIFF chunks before the audio: the header is read again with each packet, so that thousands would take long.
_MOST_CHUNKS = 64
# Bytes of a format: the least there have to be, and the most that are read.
_FORMAT_BYTES = (16, 40)
_EXTENSIBLE = 0xFFFE
_WAV_KINDS = {(1, 16): Encoding.LINEAR16, (6, 8): Encoding.ALAW, (7, 8): Encoding.MULAW}
_BLOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The format of raw audio: its encoding, its sample rate in Hz, and its channels, whose samples alternate."""

    encoding: Encoding
    sample_rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class WavHeader:
    """A WAV header: the format that it gives, and its own length in bytes."""

    format: AudioFormat
    size: int


def may_be_wav(start: bytes) -> bool:
    """Returns whether audio that starts with these bytes may be a WAV file."""
    return (
        bool(start)
        and start[:4] == b"RIFF"[: len(start)]
        and start[8:12] == b"WAVE"[: max(0, len(start) - 8)]
    )


def read_wav_header(start: bytes) -> WavHeader | None:
    """Reads the header at the start of a WAV file (RIFF, Microsoft's "Multimedia Programming Interface", 1991).

    Returns:
        The header; None if it goes on beyond these bytes.

    Raises:
        InvalidArgument: it cannot be read, or its samples are neither 16-bit PCM nor G.711.
    """
    place, audio_format = 12, None
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(start):
            return None
        name, size = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"data":
            if audio_format is None:
                raise _bad_header("has no format before its data")
            return WavHeader(audio_format, place)
        if name == b"fmt ":
            least, most = _FORMAT_BYTES
            if size < least:
                raise _bad_header(f"has a format of {size} bytes; {least} are the least")
            chunk = start[place : place + min(size, most)]
            if len(chunk) < min(size, most):
                return None
            audio_format = _read_format(chunk)
        place += size + size % 2
        if place > _LONGEST_HEADER:
            raise _bad_header(f"is longer than {_LONGEST_HEADER} bytes")
    raise _bad_header(f"has more than {_MOST_CHUNKS} chunks before its data")


def _read_format(chunk: bytes) -> AudioFormat:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack_from("<H", chunk, 24)[0]
    encoding = _WAV_KINDS.get((kind, bits))
    if encoding is None:
        raise _bad_header(
            f"says format {kind} with {bits} bits; streams take 16-bit PCM (1), A-law (6) and mu-law (7)"
        )
    return AudioFormat(encoding, rate, channels)


def _bad_header(problem: str) -> InvalidArgument:
    return InvalidArgument(f"the WAV header of the audio {problem}", field="audio")


def is_audio_file(audio: bytes) -> bool:
    """Returns whether these bytes are a file of a kind that `decode_file` reads: WAV, FLAC or Ogg."""
    return audio[:4] in (b"fLaC", b"OggS") or (len(audio) >= 12 and may_be_wav(audio))


def decode_file(audio: bytes) -> tuple[AudioFormat, Iterator[bytes]]:
    """Decodes an audio file, a block at a time.

    Returns:
        The format of the decoded audio, and the audio in blocks of a second, which are decoded as they are taken.

    Raises:
        InvalidArgument: libsndfile cannot read the file; also while blocks are taken.
    """
    # Takes a while to import, and only uploads of files need it.
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(audio))
    except soundfile.SoundFileError as error:
        raise InvalidArgument(f"audio is no file that can be read: {error}", field="audio") from None

    def blocks() -> Iterator[bytes]:
        try:
            with file:
                while (block := file.read(int(_BLOCK_S * file.samplerate), "int16")).size:
                    yield block.astype("<i2", copy=False).tobytes()
        except soundfile.SoundFileError as error:
            raise InvalidArgument(f"audio cannot be decoded to its end: {error}", field="audio") from None

    return AudioFormat(Encoding.LINEAR16, file.samplerate, file.channels), blocks()
