"""Rows of numbers in compiled loops: what the larger loops of the CPU step are made of.

After a change here, delete the `.nbi` and `.nbc` files in `__pycache__` (or NUMBA_CACHE_DIR): Numba looks only at the
date of the file that a compiled function stands in, not at those of the functions it calls.

Arrays are float32, or uint16 where they hold the upper half of a float32 (bfloat16); arithmetic is float32 throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

Array = np.ndarray[Any, Any]
BYTES = ir.IntType(8).as_pointer()

# Sums may be reordered and products fused, but NaN and infinity keep their meaning.
LOOSE = {"reassoc", "contract", "nsz", "arcp"}
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_HALF_WORD = np.uint32(16)


@njit(fastmath=LOOSE, nogil=True, cache=True, inline="never")
def load(source, target):  # type: ignore[no-untyped-def]
    """Copies a row to float32."""
    if source.itemsize == 2:
        bits = target.view(np.uint32)
        for i in range(source.shape[0]):
            bits[i] = np.uint32(source[i]) << _HALF_WORD
    else:
        for i in range(source.shape[0]):
            target[i] = np.float32(source[i])


def emit_prefetch(builder: Any, address: Any) -> None:
    """Asks for the cache line at a pointer: read access, into all cache levels but the first."""
    word = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [BYTES, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, word(0), word(2), word(1)])


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Asks for the cache line that holds array[index], array being one-dimensional and contiguous."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = context.make_array(signature.args[0])(context, builder, arguments[0])
        emit_prefetch(builder, builder.bitcast(builder.gep(memory.data, [arguments[1]]), BYTES))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def ask(typing_context: Any, address: Any) -> Any:
    """Asks for the cache line at an address, int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit_prefetch(builder, builder.inttoptr(arguments[0], BYTES))
        return context.get_dummy_value()

    return types.void(types.int64), generate


def as_float(source: Array, buffer: Array) -> Array:
    """The row itself if it is float32, else its values in the buffer. Decided while compiling."""
    raise AssertionError("only compiled code calls this")


@overload(as_float, inline="always", jit_options={"fastmath": LOOSE})
def _as_float_overload(source, buffer):  # type: ignore[no-untyped-def]
    if source.dtype == types.float32:
        return lambda source, buffer: source

    def widen(source, buffer):  # type: ignore[no-untyped-def]
        bits = buffer.view(np.uint32)
        for i in range(buffer.shape[0]):
            bits[i] = np.uint32(source[i]) << _HALF_WORD
        return buffer

    return widen


@njit(fastmath=LOOSE, nogil=True, cache=True, inline="never")
def store(source, target):  # type: ignore[no-untyped-def]
    """Copies a float32 row to the target's type, rounding to nearest even."""
    if target.itemsize == 2:
        bits = source.view(np.uint32)
        for i in range(target.shape[0]):
            b = bits[i]
            target[i] = np.uint16((b + _ROUND + ((b >> _HALF_WORD) & _ONE)) >> _HALF_WORD)
    else:
        for i in range(target.shape[0]):
            target[i] = source[i]


@njit(fastmath={"contract"}, nogil=True, cache=True, inline="never")
def exponential(row, scratch, count):  # type: ignore[no-untyped-def]
    """e to the power of `count` values, in place, to about 2 units in the last place (after Cephes' expf).

    `scratch` is float32 of the same length.
    """
    power = scratch.view(np.int32)
    for i in range(count):
        x = min(max(row[i], np.float32(-87.0)), np.float32(88.0))
        n = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
        f = x - n * np.float32(0.693359375)
        f = f - n * np.float32(-2.12194440e-4)
        y = np.float32(1.9875691500e-4)
        y = y * f + np.float32(1.3981999507e-3)
        y = y * f + np.float32(8.3334519073e-3)
        y = y * f + np.float32(4.1665795894e-2)
        y = y * f + np.float32(1.6666665459e-1)
        y = y * f + np.float32(5.0000001201e-1)
        row[i] = y * f * f + f + np.float32(1.0)
        power[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
    for i in range(count):
        row[i] = row[i] * scratch[i]


@njit(fastmath=LOOSE, nogil=True, cache=True, inline="never")
def normalise(row, weight, bias, eps):  # type: ignore[no-untyped-def]
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


@njit(fastmath=LOOSE, nogil=True, cache=True, inline="never")
def swish(row, scratch, scratch2):  # type: ignore[no-untyped-def]
    """x * sigmoid(x) of a row in place."""
    n = row.shape[0]
    for i in range(n):
        scratch[i] = -row[i]
    exponential(scratch, scratch2, n)
    for i in range(n):
        row[i] = row[i] / (np.float32(1.0) + scratch[i])


@intrinsic
def _upper(typing_context: Any, x: Any) -> Any:
    """The float32 whose lower half is zero and whose upper one is that of x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.and_(builder.bitcast(arguments[0], word), word(0xFFFF0000))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def _half(typing_context: Any, x: Any) -> Any:
    """The upper half of a float32, uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.lshr(builder.bitcast(arguments[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.trunc(bits, ir.IntType(16))

    return types.uint16(types.float32), generate


def put(row: Array, out: Array, r: int, first: int) -> None:
    """Stores a float32 row to row r of [rows, ...] from column `first` on, or its three parts to [3, rows, ...].

    The parts are bfloat16 numbers whose sum is the float32 one (`cpu_split.py`). Decided while compiling.
    """
    raise AssertionError("only compiled code calls this")


@overload(put, inline="never", jit_options={"fastmath": LOOSE})
def _put_overload(row, out, r, first):  # type: ignore[no-untyped-def]
    if out.ndim == 2:
        return lambda row, out, r, first: store(row, out[r, first : first + row.shape[0]])

    def split(row, out, r, first):  # type: ignore[no-untyped-def]
        high = out[0, r, first : first + row.shape[0]]
        middle = out[1, r, first : first + row.shape[0]]
        low = out[2, r, first : first + row.shape[0]]
        for i in range(row.shape[0]):
            top = _upper(row[i])  # type: ignore[var-annotated]
            rest = row[i] - top
            next_top = _upper(rest)
            high[i] = _half(top)
            middle[i] = _half(next_top)
            low[i] = _half(rest - next_top)

    return split
