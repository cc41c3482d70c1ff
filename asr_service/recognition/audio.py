"""Reads audio bytes as samples: decodes them, joins samples split between packets, changes sample rates. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from math import ceil

import numpy as np
import numpy.typing as npt

from asr_service.core.values import Encoding, Samples

_NO_SAMPLES: Samples = np.zeros(0, np.float32)

# Samples, at the lower of the two rates, that the low-pass filter reaches to either side.
_HALF_WIDTH = 32
# Middle of the filter's transition band, over the lower rate's Nyquist frequency.
_CUTOFF = 0.95
# Attenuates by 80 dB: below the noise of 13-bit telephone audio.
_KAISER_BETA = 7.86
# Most samples, at the higher rate, after which the two rates meet again.
_LONGEST_PERIOD = 640
# Output samples made at once where the period is shorter: small products stay on one thread.
_BLOCK = 24


@cache
def _mulaw_table() -> Samples:
    """Makes the table of each mu-law byte's value (ITU-T G.711), float32 [256] in [-1, 1)."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return _scaled(np.where(code & 0x80, -magnitude, magnitude))


@cache
def _alaw_table() -> Samples:
    """Makes the table of each A-law byte's value (ITU-T G.711), float32 [256] in [-1, 1)."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code & 0x70) >> 4
    step = ((code & 0x0F) << 4) + 8
    magnitude = np.where(segment == 0, step, (step + 0x100) << np.maximum(segment - 1, 0))
    return _scaled(np.where(code & 0x80, magnitude, -magnitude))


def _scaled(values: npt.NDArray[np.integer]) -> Samples:
    return (values / 32768).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Filter:
    """A polyphase low-pass filter as one matrix: a block of output is a window of input times it.

    Attributes:
        matrix: float32 [window, outputs].
        inputs: samples by which the window moves from block to block.
        reach: samples that the filter needs on either side of an output's place.
    """

    matrix: Samples
    inputs: int
    reach: int


@lru_cache(maxsize=16)
def _make_filter(ratio: Fraction) -> _Filter:
    """Makes the filter for a ratio of source to target rate.

    It is a Kaiser-windowed sinc (Smith, "Digital Audio Resampling", section 3).
    """
    period_in, period_out = ratio.numerator, ratio.denominator
    periods = max(1, _BLOCK // period_out)
    inputs, outputs = periods * period_in, periods * period_out
    # The filter is wider where the target rate is the lower one.
    stretch = float(max(Fraction(1), ratio))
    reach = ceil(_HALF_WIDTH * stretch)
    # Place of each output, in source samples times period_out.
    place = np.arange(outputs) * period_in
    whole, part = place // period_out, (place % period_out) / period_out
    # Tap t weighs the sample that comes t - reach + 1 after `whole`.
    taps = np.arange(2 * reach)
    distance = (taps - (reach - 1) - part[:, None]) / stretch
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (distance / _HALF_WIDTH) ** 2, 0, None)))
    weights = np.sinc(_CUTOFF * distance) * window * (np.abs(distance) <= _HALF_WIDTH)
    # A constant signal keeps its value.
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((int(whole[-1]) + 2 * reach, outputs), np.float32)
    matrix[whole[:, None] + taps, np.arange(outputs)[:, None]] = weights
    return _Filter(matrix, inputs, reach)


class Resampler:
    """Changes the sample rate of a stream, with the same samples for any split of the input.

    Its output lags by the filter's reach (2 to 4 ms) and at most one block (the ratio's period: 2 ms for 8 and 48 kHz,
    10 ms for 44.1 kHz, 40 ms at worst), where soxr, which works by Fourier transforms of long blocks, lags by up to
    117 ms. Rates that meet too seldom are taken as the nearest that do not, at most 0.08 % off.

    Args:
        source_rate: Hz.
        target_rate: Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        exact = Fraction(source_rate, target_rate)
        self._ratio = exact.limit_denominator(int(_LONGEST_PERIOD / max(Fraction(1), exact)))
        self._filter = _make_filter(self._ratio)
        self._restart()

    def _restart(self) -> None:
        # Input samples from the next block's window on.
        self._pending: Samples = np.zeros(self._filter.reach - 1, np.float32)
        self._input_count = 0
        self._output_count = 0

    def push(self, samples: Samples) -> Samples:
        """Takes input samples and returns the output samples that they complete."""
        self._input_count += samples.size
        return self._make_blocks(samples)

    def flush(self) -> Samples:
        """Returns the remaining output, as if silence followed, to the exact length; the next input is new audio."""
        if not self._input_count:
            return _NO_SAMPLES
        rest = ceil(self._input_count / self._ratio) - self._output_count
        silence = np.zeros(len(self._filter.matrix) + self._filter.inputs, np.float32)
        tail = self._make_blocks(silence)[:rest]
        self._restart()
        return tail

    def _make_blocks(self, samples: Samples) -> Samples:
        """Makes as many whole blocks of output as the input up to these samples allows."""
        matrix, inputs = self._filter.matrix, self._filter.inputs
        window = len(matrix)
        pending = np.concatenate((self._pending, samples))
        count = (pending.size - window) // inputs + 1
        if count <= 0:
            self._pending = pending
            return _NO_SAMPLES
        windows = np.lib.stride_tricks.sliding_window_view(pending, window)[::inputs]
        # One product a block, each of the same shape, so that a sample does not depend on its call (BLAS rounds
        # differently for other shapes).
        made: Samples = np.matmul(windows[:count, None, :], matrix).reshape(-1)
        self._pending = pending[count * inputs :]
        self._output_count += made.size
        return made


class AudioReader:
    """Reads one stream's bytes as samples, which do not depend on how the bytes were split into packets.

    Args:
        encoding: how bytes are to be read; LINEAR16 and FLOAT32 are little-endian. Of floats, what is louder than full
            scale (1) is clipped, and what is no number is 0.
        source_rate: of the bytes, Hz.
        target_rate: of the samples, Hz.

    Raises:
        ValueError: a rate is not positive.
    """

    def __init__(self, encoding: Encoding, source_rate: int, target_rate: int) -> None:
        if source_rate <= 0 or target_rate <= 0:
            raise ValueError(f"sample rates must be positive: {source_rate}, {target_rate}")
        self._width = encoding.sample_bytes
        self._table = {Encoding.MULAW: _mulaw_table, Encoding.ALAW: _alaw_table}.get(encoding)
        self._source_rate = source_rate
        self._target_rate = target_rate
        self._resampler = None if source_rate == target_rate else Resampler(source_rate, target_rate)
        # First bytes of a sample whose last has not come.
        self._odd = b""

    def bytes_for(self, samples: int) -> int:
        """Returns how many more bytes make so many samples: exact without resampling, else at times a few too few."""
        source = -(-samples * self._source_rate // self._target_rate)
        return max(1, source * self._width - len(self._odd))

    def exact_bytes(self, samples: int) -> int:
        """Returns the bytes that so many samples always take; 0 with resampling, where what came before matters."""
        return 0 if self._resampler is not None else samples * self._width

    def read(self, data: bytes) -> Samples:
        """Takes bytes and returns the samples that they complete, float32 [n] at the target rate."""
        if self._width > 1:
            data = self._odd + data if self._odd else data
            whole = len(data) - len(data) % self._width
            self._odd = data[whole:]
            if self._width == 2:
                pcm = np.frombuffer(data, "<i2", whole // 2)
                samples = pcm.astype(np.float32) * np.float32(1 / 32768)
            else:
                samples = np.clip(np.nan_to_num(np.frombuffer(data, "<f4", whole // 4)), -1, 1)
        else:
            assert self._table is not None
            samples = self._table()[np.frombuffer(data, np.uint8)]
        return samples if self._resampler is None else self._resampler.push(samples)

    def flush(self) -> Samples:
        """Returns the samples that the resampler has held back; the next byte starts new audio.

        The first bytes of a split sample stay: the others are the next bytes, whatever lies between them.
        """
        return _NO_SAMPLES if self._resampler is None else self._resampler.flush()
