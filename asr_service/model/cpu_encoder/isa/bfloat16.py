"""A float32 in bfloat16: its upper half, rounded or cut; three of them hold a whole float32.

The `emit_` functions work on a number or on a vector of them; the intrinsics give compiled loops the same for one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

HALF_BITS = 16
UPPER_HALF = 0xFFFF0000
ROUND = 0x7FFF
"""Added to a float32's bits, and 1 if the upper half is odd: the upper half is then rounded to nearest even."""


def _as(kind: Any, scalar: Any) -> Any:
    """The scalar's type, or a vector of it as long as `kind`."""
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _bits(builder: Any, x: Any) -> Any:
    return builder.bitcast(x, _as(x.type, ir.IntType(32)))


def emit_upper_half(builder: Any, x: Any) -> Any:
    """The upper halves of float32 numbers, 16 bits each."""
    bits = _bits(builder, x)
    return builder.trunc(builder.lshr(bits, _constant(bits.type, HALF_BITS)), _as(x.type, ir.IntType(16)))


def emit_round(builder: Any, x: Any) -> Any:
    """float32 to bfloat16, to nearest even, as `rows.write_row`."""
    bits = _bits(builder, x)
    odd = builder.and_(builder.lshr(bits, _constant(bits.type, HALF_BITS)), _constant(bits.type, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(bits.type, ROUND)))
    return builder.trunc(builder.lshr(rounded, _constant(bits.type, HALF_BITS)), _as(x.type, ir.IntType(16)))


def emit_cut(builder: Any, x: Any) -> Any:
    """The float32 whose upper half is that of x and whose lower one is zero."""
    bits = _bits(builder, x)
    return builder.bitcast(builder.and_(bits, _constant(bits.type, UPPER_HALF)), x.type)


def emit_parts(builder: Any, x: Any) -> list[Any]:
    """Three float32 whose lower halves are zero and whose sum is x (subnormal remainders apart)."""
    high = emit_cut(builder, x)
    rest = builder.fsub(x, high)
    middle = emit_cut(builder, rest)
    return [high, middle, builder.fsub(rest, middle)]


def emit_pairs(builder: Any, first: Any, second: Any) -> Any:
    """Upper halves side by side in 32 bits: those of `first` in the lower halves, of `second` in the upper ones."""
    bits = _bits(builder, first)
    low = builder.lshr(bits, _constant(bits.type, HALF_BITS))
    high = builder.and_(_bits(builder, second), _constant(bits.type, UPPER_HALF))
    return builder.or_(low, high)


@intrinsic
def cut(typing_context: Any, x: Any) -> Any:
    """The float32 whose upper half is that of x and whose lower one is zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit_cut(builder, arguments[0])

    return types.float32(types.float32), generate


@intrinsic
def upper_half(typing_context: Any, x: Any) -> Any:
    """The upper half of a float32, uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit_upper_half(builder, arguments[0])

    return types.uint16(types.float32), generate
