"""Audio bytes to samples: encodings, samples split between packets, other sample rates. Pure."""

from __future__ import annotations

from functools import cache
from math import ceil

import numpy as np
import numpy.typing as npt
import soxr

from asr_service.core import Encoding, Samples

_NO_SAMPLES: Samples = np.zeros(0, np.float32)


@cache
def _mulaw_table() -> Samples:
    """Value of each mu-law byte (ITU-T G.711), float32 [256] in [-1, 1)."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return _scaled(np.where(code & 0x80, -magnitude, magnitude))


@cache
def _alaw_table() -> Samples:
    """Value of each A-law byte (ITU-T G.711), float32 [256] in [-1, 1)."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code & 0x70) >> 4
    step = ((code & 0x0F) << 4) + 8
    magnitude = np.where(segment == 0, step, (step + 0x100) << np.maximum(segment - 1, 0))
    return _scaled(np.where(code & 0x80, magnitude, -magnitude))


def _scaled(values: npt.NDArray[np.integer]) -> Samples:
    return (values / 32768).astype(np.float32)


class AudioReader:
    """Reads one stream's bytes; what it makes of them does not depend on how they were split into packets.

    Args:
        encoding: how bytes are to be read; LINEAR16 is little-endian.
        source_rate: of the bytes, Hz.
        target_rate: of the samples, Hz. Other rates go through soxr's streaming resampler, whose output lags the
            input by up to 0.1 s until `flush`.
    """

    def __init__(self, encoding: Encoding, source_rate: int, target_rate: int) -> None:
        self._width = 2 if encoding is Encoding.LINEAR16 else 1
        self._table = {Encoding.MULAW: _mulaw_table, Encoding.ALAW: _alaw_table}.get(encoding)
        self._ratio = source_rate / target_rate
        self._resampler = (
            None
            if source_rate == target_rate
            else soxr.ResampleStream(source_rate, target_rate, 1, quality="HQ")
        )
        self._resampling = False  # whether the resampler holds audio
        self._odd = b""  # first byte of a sample whose second has not come

    def bytes_for(self, samples: int) -> int:
        """Fewest further bytes that can make this many samples; exact when nothing is resampled."""
        return max(1, ceil(samples * self._ratio) * self._width - len(self._odd))

    def read(self, data: bytes) -> Samples:
        """Samples of the bytes so far, float32 [n] at the target rate."""
        if self._width == 2:
            data = self._odd + data if self._odd else data
            whole = len(data) & ~1
            self._odd = data[whole:]
            pcm = np.frombuffer(data, "<i2", whole // 2)
            samples = pcm.astype(np.float32) * np.float32(1 / 32768)
        else:
            assert self._table is not None
            samples = self._table()[np.frombuffer(data, np.uint8)]
        if self._resampler is None or not samples.size:
            return samples
        self._resampling = True
        return np.asarray(self._resampler.resample_chunk(samples), np.float32)

    def flush(self) -> Samples:
        """Samples still inside the resampler; the next byte starts new audio.

        The first half of a split sample stays: its second half is the next byte, whatever lies between them.
        """
        if self._resampler is None or not self._resampling:
            return _NO_SAMPLES
        tail = np.asarray(self._resampler.resample_chunk(_NO_SAMPLES, last=True), np.float32)
        self._resampler.clear()
        self._resampling = False
        return tail
