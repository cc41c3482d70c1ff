"""Sixteen float32 at once, written as vector instructions: for short runs that a compiler would not turn into them.

The functions are Numba intrinsics over addresses: they check nothing. Rows are 32 numbers, two vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
_WORD, _ADDRESS = ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(_WORD, LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)
_LOOSE = ("contract", "nsz", "arcp")


def _floats(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _words(value: int) -> Any:
    return ir.Constant(_WORDS, [value] * LANES)


def _take(builder: Any, address: Any, offset: int) -> Any:
    place = builder.inttoptr(builder.add(address, _ADDRESS(offset)), _FLOATS.as_pointer())
    return builder.load(place, align=4)


def _put(builder: Any, value: Any, address: Any, offset: int, align: int) -> None:
    place = builder.inttoptr(builder.add(address, _ADDRESS(offset)), value.type.as_pointer())
    builder.store(value, place, align=align)


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _exponential(builder: Any, x: Any) -> Any:
    """e to the power of x, as `cpu_rows.exponential`."""

    def fused(a: Any, b: Any, c: Any) -> Any:
        return _call(builder, "llvm.fma.v16f32", a, b, c)

    x = _call(builder, "llvm.maxnum.v16f32", x, _floats(-87.0))
    x = _call(builder, "llvm.minnum.v16f32", x, _floats(88.0))
    n = _call(builder, "llvm.floor.v16f32", fused(x, _floats(1.44269504088896341), _floats(0.5)))
    f = fused(n, _floats(-0.693359375), x)
    f = fused(n, _floats(2.12194440e-4), f)
    y = _floats(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        y = fused(y, f, _floats(factor))
    y = fused(y, builder.fmul(f, f), builder.fadd(f, _floats(1.0)))
    power = builder.shl(builder.add(builder.fptosi(n, _WORDS), _words(127)), _words(23))
    return builder.fmul(y, builder.bitcast(power, _FLOATS))


def _swish(builder: Any, x: Any) -> Any:
    """x * sigmoid(x)."""
    below = builder.fadd(_floats(1.0), _exponential(builder, builder.fneg(x)))
    return builder.fdiv(x, below, flags=_LOOSE)


def _half(builder: Any, x: Any) -> Any:
    """To bfloat16, to nearest even, as `cpu_rows.store`."""
    bits = builder.bitcast(x, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    rounded = builder.add(bits, builder.add(odd, _words(0x7FFF)))
    return builder.trunc(builder.lshr(rounded, _words(16)), _HALVES)


def _row(finish: Callable[[Any, Any, Any, int], None]) -> Any:
    """An intrinsic (sums, bias, target: addresses) that finishes 32 sums."""

    @intrinsic
    def made(typing_context: Any, sums: Any, bias: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, bias, target = arguments
            for half in range(2):
                value = builder.fadd(_take(builder, sums, 64 * half), _take(builder, bias, 64 * half))
                finish(builder, value, target, half)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return made


def _finish_add(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, builder.fadd(value, _take(builder, target, 64 * half)), target, 64 * half, 4)


def _finish_half(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, _half(builder, value), target, 32 * half, 2)


def _finish_swish(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, _half(builder, _swish(builder, value)), target, 32 * half, 2)


add_row = _row(_finish_add)
"""target float32 [32] += sums + bias."""
store_row = _row(_finish_half)
"""target bfloat16 [32] = sums + bias."""
swish_row = _row(_finish_swish)
"""target bfloat16 [32] = swish(sums + bias)."""
