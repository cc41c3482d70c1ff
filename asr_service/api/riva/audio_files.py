"""Audio files: WAV headers at the start of a stream, and whole files of any kind libsndfile reads. Pure."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding

_LONGEST_HEADER = 65_536
_MOST_CHUNKS = (
    64  # before the audio; it is looked at anew with each packet, so that thousands would take long
)
_FORMAT_BYTES = (16, 40)  # of a format: the least, and the most that is looked at
_EXTENSIBLE = 0xFFFE
_WAV_KINDS = {(1, 16): Encoding.LINEAR16, (6, 8): Encoding.ALAW, (7, 8): Encoding.MULAW}
_BLOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How raw audio is to be read: encoding, Hz, and channels whose samples alternate."""

    encoding: Encoding
    sample_rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What a WAV header says, and its length in bytes."""

    format: AudioFormat
    size: int


def may_be_wav(start: bytes) -> bool:
    """Whether audio that starts with these bytes may be a WAV file."""
    return (
        bool(start)
        and start[:4] == b"RIFF"[: len(start)]
        and start[8:12] == b"WAVE"[: max(0, len(start) - 8)]
    )


def wav_header(start: bytes) -> WavHeader | None:
    """The header at the start of a WAV file (RIFF, Microsoft's "Multimedia Programming Interface", 1991).

    Returns:
        None if it goes on beyond these bytes.

    Raises:
        InvalidArgument: it cannot be read, or its samples are neither 16-bit PCM nor G.711.
    """
    place, found = 12, None
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(start):
            return None
        name, size = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"data":
            if found is None:
                raise _bad("has no format before its data")
            return WavHeader(found, place)
        if name == b"fmt ":
            least, most = _FORMAT_BYTES
            if size < least:
                raise _bad(f"has a format of {size} bytes; {least} are the least")
            chunk = start[place : place + min(size, most)]
            if len(chunk) < min(size, most):
                return None
            found = _format(chunk)
        place += size + size % 2
        if place > _LONGEST_HEADER:
            raise _bad(f"is longer than {_LONGEST_HEADER} bytes")
    raise _bad(f"has more than {_MOST_CHUNKS} chunks before its data")


def _format(chunk: bytes) -> AudioFormat:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack_from("<H", chunk, 24)[0]
    encoding = _WAV_KINDS.get((kind, bits))
    if encoding is None:
        raise _bad(
            f"says format {kind} with {bits} bits; streams take 16-bit PCM (1), A-law (6) and mu-law (7)"
        )
    return AudioFormat(encoding, rate, channels)


def _bad(what: str) -> InvalidArgument:
    return InvalidArgument(f"the WAV header of the audio {what}", field="audio")


def is_file(audio: bytes) -> bool:
    """Whether these bytes are a file of a kind that `decoded` reads: WAV, FLAC or Ogg."""
    return audio[:4] in (b"fLaC", b"OggS") or (len(audio) >= 12 and may_be_wav(audio))


def decoded(audio: bytes) -> tuple[AudioFormat, Iterator[bytes]]:
    """A file's format once decoded, and its audio in blocks of a second, decoded as they are taken.

    Raises:
        InvalidArgument: libsndfile cannot read it; also while blocks are taken.
    """
    import soundfile  # takes a while to import, and only uploads of files need it

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
