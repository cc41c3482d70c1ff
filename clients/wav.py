"""Reads audio files as the service wants them: 16-bit mono samples at a rate of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr


class WavError(Exception):
    """The file cannot be read as audio; the message is one line for the person who named it."""


def read_wav(path: str | Path, rate: int = 16_000) -> bytes:
    """Reads a file's audio as 16-bit little-endian mono PCM at `rate` Hz.

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
