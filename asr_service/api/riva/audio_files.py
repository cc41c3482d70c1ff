"""Reads uploads as raw audio: WAV files as streams read them, other files as libsndfile decodes them. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr_service.api.riva.unfinished_files import with_true_sizes
from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding
from asr_service.recognition.containers import ENOUGH, identify
from asr_service.recognition.wav_header import (
    LONGEST_HEADER,
    MAGIC_BYTES,
    AudioFormat,
    may_be_wav,
    read_wav_header,
)

_BLOCK_S = 1.0
# Bytes of raw audio that are passed on at once: a second.
_PIECE = 32_768
_FULL_SCALE = 32_768


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded recording.

    Attributes:
        format: of the pieces; None where it is only known from the config.
        pieces: the audio, made as it is taken; a piece is a second at most, in memory and in time.
        rate_is_nominal: whether the file's rate is the decoder's choice (Opus), and no fact of the recording.
    """

    format: AudioFormat | None
    pieces: Iterator[bytes]
    rate_is_nominal: bool = False


def open_upload(audio: bytes | memoryview) -> Upload:
    """Opens a recording: raw audio, or a file of a kind that libsndfile reads. Raw audio is not copied.

    WAV files that streams take (16-bit PCM, G.711) are left as they are: who takes the stream's packets reads their
    headers. What is neither is taken as raw audio too, and refused there.

    Raises:
        InvalidArgument: it is a file, and cannot be read; also while pieces are taken.
    """
    start = bytes(audio[:ENOUGH])
    is_wav = len(start) >= MAGIC_BYTES and may_be_wav(start[:MAGIC_BYTES])
    raw = (bytes(audio[at : at + _PIECE]) for at in range(0, len(audio), _PIECE))
    if is_wav:
        try:
            header = read_wav_header(bytes(audio[:LONGEST_HEADER]))
        except InvalidArgument:
            # Of a kind that only libsndfile reads, or of none: libsndfile will say.
            header = None
        if header is not None:
            return Upload(header.format, raw)
    kind = identify(start).kind
    return _decode(audio) if is_wav or (kind and kind.decodable) else Upload(None, raw)


def _decode(audio: bytes | memoryview) -> Upload:
    # Takes a while to import, and only uploads of files need it.
    import soundfile

    class File(soundfile.SoundFile):  # type: ignore[misc]  # untyped base
        """A file that is read from start to end."""

        def seekable(self) -> bool:
            """Keeps soundfile from seeking to where it is after each block: MP3 is not decoded alike from there, and a
            FLAC file made on the fly, which does not say how long it is, cannot seek to its end."""
            return False

    try:
        file = File(with_true_sizes(audio))
    except soundfile.LibsndfileError as error:
        raise InvalidArgument(
            f"audio is no file that can be read: {error.error_string}", field="audio"
        ) from None

    def blocks() -> Iterator[bytes]:
        try:
            with file:
                # Of most files it is an estimate or a promise; this decoder alone does not know where it ends.
                left = file.frames if file.subtype.startswith("DWVW") else sys.maxsize
                while block := file.read(min(left, int(_BLOCK_S * file.samplerate)), "float32").tobytes():
                    samples = np.frombuffer(block, np.float32)
                    left -= samples.size // file.channels
                    yield as_linear16(samples)
        except soundfile.LibsndfileError as error:
            raise InvalidArgument(
                f"audio cannot be decoded to its end: {error.error_string}", field="audio"
            ) from None

    audio_format = AudioFormat(Encoding.LINEAR16, file.samplerate, file.channels)
    return Upload(audio_format, blocks(), rate_is_nominal=file.subtype == "OPUS")


def as_linear16(samples: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """Rounds samples with full scale at 1 to 16-bit ones; louder ones are clipped, as a player does, and NaN is 0."""
    scaled = np.rint(np.clip(np.nan_to_num(samples), -1, 1) * np.float32(_FULL_SCALE))
    linear16: bytes = np.minimum(scaled, _FULL_SCALE - 1).astype("<i2").tobytes()
    return linear16
