"""Rows of numbers in compiled loops: what the larger loops of the CPU step are made of.

Arrays are float32, or uint16 where they hold the upper half of a float32 (bfloat16); arithmetic is float32 throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from asr_service.model.cpu_encoder.compiling import LOOSE, Array, Float, Int, compiled
from asr_service.model.cpu_encoder.isa.bfloat16 import HALF_BITS, ROUND, cut, upper_half
from asr_service.model.cpu_encoder.isa.exponential import (
    COEFFICIENTS,
    EXPONENT_BIAS,
    EXPONENT_SHIFT,
    HIGHEST,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    LOWEST,
)

_ROUND = np.uint32(ROUND)
_ONE = np.uint32(1)
_HALF_WORD = np.uint32(HALF_BITS)
_BIAS, _SHIFT = np.int32(EXPONENT_BIAS), np.int32(EXPONENT_SHIFT)
_OPTIONS: Any = {"fastmath": set(LOOSE)}


@compiled
def read_row(source: Array, target: Array) -> None:
    """Copies a row to float32."""
    if source.itemsize == 2:
        bits = target.view(np.uint32)
        for i in range(source.shape[0]):
            bits[i] = np.uint32(source[i]) << _HALF_WORD
    else:
        for i in range(source.shape[0]):
            target[i] = np.float32(source[i])


def as_float(source: Array, buffer: Array) -> Array:
    """The row itself if it is float32, else its values in the buffer. Decided while compiling."""
    raise AssertionError("only compiled code calls this")


@overload(as_float, inline="always", jit_options=_OPTIONS)
def _as_float_overload(source, buffer):  # type: ignore[no-untyped-def]
    if source.dtype == types.float32:
        return lambda source, buffer: source

    def widen(source, buffer):  # type: ignore[no-untyped-def]
        bits = buffer.view(np.uint32)
        for i in range(buffer.shape[0]):
            bits[i] = np.uint32(source[i]) << _HALF_WORD
        return buffer

    return widen


@compiled
def write_row(source: Array, target: Array) -> None:
    """Copies a float32 row to the target's type, rounding to nearest even."""
    if target.itemsize == 2:
        bits = source.view(np.uint32)
        for i in range(target.shape[0]):
            b = bits[i]
            target[i] = np.uint16((b + _ROUND + ((b >> _HALF_WORD) & _ONE)) >> _HALF_WORD)
    else:
        for i in range(target.shape[0]):
            target[i] = source[i]


@compiled(fastmath=frozenset({"contract"}))
def exponential(row: Array, scratch: Array, count: Int) -> None:
    """e to the power of `count` values, in place, to about 2 units in the last place, as `vectors` does.

    `scratch` is float32 of the same length.
    """
    power = scratch.view(np.int32)
    for i in range(count):
        x = min(max(row[i], LOWEST), HIGHEST)
        n = np.floor(x * LOG2_E + np.float32(0.5))
        f = x - n * LN2_HIGH
        f = f - n * LN2_LOW
        y = COEFFICIENTS[0]
        y = y * f + COEFFICIENTS[1]
        y = y * f + COEFFICIENTS[2]
        y = y * f + COEFFICIENTS[3]
        y = y * f + COEFFICIENTS[4]
        y = y * f + COEFFICIENTS[5]
        row[i] = y * f * f + f + np.float32(1.0)
        power[i] = (np.int32(n) + _BIAS) << _SHIFT
    for i in range(count):
        row[i] = row[i] * scratch[i]


@compiled
def normalise(row: Array, weight: Array, bias: Array, eps: Float) -> None:
    """Layer normalisation of a row in place."""
    n = row.shape[0]
    total = np.float32(0.0)
    for i in range(n):
        total += row[i]
    mean = total / np.float32(n)
    squares = np.float32(0.0)
    for i in range(n):
        d = row[i] - mean
        squares += d * d
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(n) + eps)
    for i in range(n):
        row[i] = (row[i] - mean) * scale * weight[i] + bias[i]


@compiled
def swish(row: Array, scratch: Array, scratch2: Array) -> None:
    """x * sigmoid(x) of a row in place."""
    n = row.shape[0]
    for i in range(n):
        scratch[i] = -row[i]
    exponential(scratch, scratch2, n)
    for i in range(n):
        row[i] = row[i] / (np.float32(1.0) + scratch[i])


def put(row: Array, out: Array, r: Int, first: Int) -> None:
    """Stores a float32 row to row r of [rows, ...] from column `first` on, or its three parts to [3, rows, ...].

    The parts are bfloat16 numbers whose sum is the float32 one (`gemm_fp32_amx.py`). Decided while compiling.
    """
    raise AssertionError("only compiled code calls this")


@overload(put, inline="never", jit_options=_OPTIONS)
def _put_overload(row, out, r, first):  # type: ignore[no-untyped-def]
    if out.ndim == 2:
        return lambda row, out, r, first: write_row(row, out[r, first : first + row.shape[0]])

    def split(row, out, r, first):  # type: ignore[no-untyped-def]
        high = out[0, r, first : first + row.shape[0]]
        middle = out[1, r, first : first + row.shape[0]]
        low = out[2, r, first : first + row.shape[0]]
        for i in range(row.shape[0]):
            top: np.float32 = cut(row[i])
            rest = row[i] - top
            next_top: np.float32 = cut(rest)
            high[i] = upper_half(top)
            middle[i] = upper_half(next_top)
            low[i] = upper_half(rest - next_top)

    return split
