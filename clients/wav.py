"""Reads audio files as the service wants them: 16-bit mono samples at a rate of its own."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Samples = npt.NDArray[np.float32]

_BLOCK_S = 10
_MOST_CHUNKS = 64
_LARGEST = 2**32 - 1
"""Size of a chunk that a header can state."""


class WavError(Exception):
    """The file cannot be read as audio; the message is one line for the person who named it."""


def read_wav(path: str | Path, rate: int = 16_000) -> bytes:
    """Reads a file's audio as 16-bit little-endian mono PCM at `rate` Hz.

    Channels are averaged and other rates resampled; what is louder than full scale is clipped. Whatever libsndfile
    reads is accepted: WAV of any sample format, FLAC, OGG, MP3, AIFF. A WAV file whose header was never finished is
    read to its last byte.

    Raises:
        WavError: no such file, or not audio.
    """
    with opened(path) as file:
        parts = [np.zeros((0, file.channels), np.float32), *blocks(file, _BLOCK_S)]
        mono = mixed(np.concatenate(parts))
        return pcm16(soxr.resample(mono, file.samplerate, rate) if file.samplerate != rate else mono)


@contextmanager
def opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Opens a file that libsndfile reads.

    Raises:
        WavError: no such file, or not audio; also where that shows only while the file is read.
    """
    file = Path(path)
    if not file.is_file():
        raise WavError(f"{file}: no such file")
    try:
        with file.open("rb") as data, _Forwards(_finished(data)) as audio:
            yield audio
    except soundfile.LibsndfileError as error:
        raise WavError(
            f"{file}: not an audio file that can be read ({error.error_string.rstrip('.')})"
        ) from error


def blocks(file: soundfile.SoundFile, seconds: float) -> Iterator[Samples]:
    """Yields all there is, float32 [samples, channels] with full scale at 1, so many seconds at a time."""
    # Some say more than there is, some decoders would go on after it.
    left, most = file.frames, max(1, round(seconds * file.samplerate))
    while len(block := file.read(min(left, most), "float32", always_2d=True)):
        yield block
        left -= len(block)


def clipped(audio: Samples) -> Samples:
    """Clips what is louder than full scale; what is no number at all is silence."""
    return np.nan_to_num(audio).clip(-1, 1)


def mixed(audio: Samples) -> Samples:
    """Averages channels: [samples, channels] to [samples], clipped."""
    mono: Samples = clipped(audio).mean(axis=1, dtype=np.float32)
    return mono


def pcm16(audio: Samples) -> bytes:
    """Makes 16-bit samples. Files of such come back bit for bit: libsndfile divides by 32768."""
    pcm: bytes = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2").tobytes()
    return pcm


class _Forwards(soundfile.SoundFile):  # type: ignore[misc]  # untyped base
    def seekable(self) -> bool:
        """Keeps soundfile from looking for the end of a file that does not know it, such as FLAC from a pipe."""
        return False


class _Completed(io.RawIOBase):
    """A file some bytes of which are others: what a header should say, without a copy of what it says it of."""

    def __init__(self, data: BinaryIO, place: int, instead: bytes) -> None:
        self._data = data
        self._place, self._instead = place, instead

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._data.seek(offset, whence)

    def tell(self) -> int:
        return self._data.tell()

    def readinto(self, buffer: Any) -> int:
        start = self._data.tell()
        read = self._data.read(len(buffer))
        view = memoryview(buffer).cast("B")
        view[: len(read)] = read
        for place, byte in enumerate(self._instead, self._place):
            if 0 <= place - start < len(read):
                view[place - start] = byte
        return len(read)


def _finished(data: BinaryIO) -> BinaryIO:
    """Returns a WAV file that says that it has no audio as one whose audio are all bytes behind that."""
    start = data.read(12)
    place = 12
    finished = data
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        for _ in range(_MOST_CHUNKS):
            data.seek(place)
            name, size = struct.unpack("<4sI", data.read(8).ljust(8, b"\0"))
            place += 8
            if name == b"data":
                if not size and data.read(4) not in (b"LIST", b"fact", b"id3 "):
                    behind = min(data.seek(0, io.SEEK_END) - place, _LARGEST)
                    finished = cast(BinaryIO, _Completed(data, place - 4, struct.pack("<I", behind)))
                break
            place += size + size % 2
    data.seek(0)
    return finished
