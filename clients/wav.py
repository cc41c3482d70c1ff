"""Reads audio files as the service wants them: 16-bit mono samples at a rate of its own."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

_BLOCK_S = 10
_MOST_CHUNKS = 64


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
    file = Path(path)
    if not file.is_file():
        raise WavError(f"{file}: no such file")
    try:
        with file.open("rb") as data:
            audio, file_rate = _read(_finished(data))
    except soundfile.LibsndfileError as error:
        raise WavError(
            f"{file}: not an audio file that can be read ({error.error_string.rstrip('.')})"
        ) from error
    # What is no number at all is silence.
    mono: npt.NDArray[np.float32] = np.nan_to_num(audio).clip(-1, 1).mean(axis=1, dtype=np.float32)
    if file_rate != rate:
        mono = soxr.resample(mono, file_rate, rate)
    # Files of 16-bit samples come back bit for bit: libsndfile divides by 32768.
    pcm: bytes = np.clip(np.rint(mono * 32768.0), -32768, 32767).astype("<i2").tobytes()
    return pcm


class _Forwards(soundfile.SoundFile):  # type: ignore[misc]  # untyped base
    def seekable(self) -> bool:
        """Keeps soundfile from looking for the end of a file that does not know it, such as FLAC from a pipe."""
        return False


def _read(data: BinaryIO) -> tuple[npt.NDArray[np.float32], int]:
    """Reads all there is, float32 [samples, channels] with full scale at 1, and the sample rate in Hz."""
    with _Forwards(data) as file:
        blocks = [np.zeros((0, file.channels), np.float32)]
        # Some say more than there is, some decoders would go on after it.
        left, most = file.frames, _BLOCK_S * file.samplerate
        while len(block := file.read(min(left, most), "float32", always_2d=True)):
            blocks.append(block)
            left -= len(block)
        return np.concatenate(blocks), file.samplerate


def _finished(data: BinaryIO) -> BinaryIO:
    """Returns a WAV file that says that it has no audio as one whose audio are all bytes behind that."""
    start = data.read(12)
    place = 12
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        for _ in range(_MOST_CHUNKS):
            data.seek(place)
            name, size = struct.unpack("<4sI", data.read(8).ljust(8, b"\0"))
            place += 8
            if name == b"data":
                behind = data.read()
                if not size and behind[:4] not in (b"LIST", b"fact", b"id3 "):
                    data.seek(0)
                    header = data.read(place - 4)
                    return io.BytesIO(header + struct.pack("<I", len(behind)) + behind)
                break
            place += size + size % 2
    data.seek(0)
    return data
