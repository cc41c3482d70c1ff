"""Reading WAV files as the service wants them, and sending at the pace of a live speaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

BYTES_PER_SAMPLE = 2


class WavError(Exception):
    """The file cannot be read as audio; the message is one line for the person who named it."""


def load_wav(path: str | Path, rate: int = 16_000) -> bytes:
    """Audio of a file as 16-bit little-endian mono PCM at `rate` Hz.

    Channels are averaged and other rates resampled. Whatever libsndfile reads is accepted: WAV of any sample format,
    FLAC, OGG, AIFF.

    Raises:
        WavError: no such file, or not audio.
    """
    file = Path(path)
    if not file.is_file():
        raise WavError(f"{file}: no such file")
    try:
        audio, file_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise WavError(
            f"{file}: not an audio file that can be read ({error.error_string.rstrip('.')})"
        ) from error
    mono: npt.NDArray[np.float32] = audio.mean(axis=1)
    if file_rate != rate:
        mono = soxr.resample(mono, file_rate, rate)
    # Files of 16-bit samples come back bit for bit: libsndfile divides by 32768.
    pcm: bytes = np.clip(np.rint(mono * 32768.0), -32768, 32767).astype("<i2").tobytes()
    return pcm


def packet_bytes(rate: int, ms: float) -> int:
    """Bytes of `ms` of 16-bit mono audio at `rate` Hz, at least one sample."""
    return max(1, round(rate * ms / 1000)) * BYTES_PER_SAMPLE


def packets(pcm: bytes, rate: int, ms: float) -> Iterator[bytes]:
    """Cuts audio into packets of `ms`; the last one may be shorter."""
    size = packet_bytes(rate, ms)
    for start in range(0, len(pcm), size):
        yield pcm[start : start + size]


def duration_s(pcm: bytes, rate: int) -> float:
    """Length of 16-bit mono audio in seconds."""
    return len(pcm) / (BYTES_PER_SAMPLE * rate)


class Pacer:
    """Keeps a sender at the pace of a live speaker.

    Packet n is due when its last sample would have been spoken: at start + (n + 1) periods. Deadlines are absolute,
    so that a late wake-up makes one packet late and shifts none of those after it.
    """

    def __init__(self, start: float | None = None) -> None:
        """`start` on the clock of `time.monotonic`; now if not given."""
        self._due = time.monotonic() if start is None else start

    @property
    def due(self) -> float:
        """When the packet last waited for was due, on the clock of `time.monotonic`."""
        return self._due

    async def wait(self, seconds: float) -> None:
        """Waits until `seconds` of audio more than so far would have been spoken; at once when late."""
        self._due += seconds
        delay = self._due - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
