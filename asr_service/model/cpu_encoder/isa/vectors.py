"""Sixteen float32 at once, written as vector instructions: for short runs that a compiler would not turn into them.

The functions are Numba intrinsics over addresses (int64, as are sizes in bytes): they check nothing. A row is 32
numbers, two vectors. LLVM makes of a vector of sixteen what the processor has: one register of AVX-512, two of AVX2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from asr_service.model.cpu_encoder.isa.bfloat16 import emit_pairs, emit_parts, emit_round, emit_upper_half
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
from asr_service.model.cpu_encoder.isa.memory import BYTE_POINTER, CACHE_LINE, emit_prefetch

LANES = 16
"""Numbers of a vector."""
COLUMNS = 2 * LANES
"""Output columns of a block of a product: two vectors, or two tiles side by side."""
FLOAT_BYTES, HALF_BYTES = 4, 2
ROW_BYTES = COLUMNS * FLOAT_BYTES
"""Of a row of float32."""
_VECTOR_BYTES, _HALF_VECTOR_BYTES = LANES * FLOAT_BYTES, LANES * HALF_BYTES
# A tile of weights: 16 pairs of rows by 16 columns in bfloat16.
_TILE_BYTES = LANES * LANES * 2 * HALF_BYTES
_WORD, _ADDRESS = ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(_WORD, LANES)
_LOOSE = ("contract", "nsz", "arcp")


def _floats(value: SupportsFloat) -> Any:
    return ir.Constant(_FLOATS, [float(value)] * LANES)


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
    """e to the power of x, as `rows.exponential`."""

    def fused(a: Any, b: Any, c: Any) -> Any:
        return _call(builder, "llvm.fmuladd.v16f32", a, b, c)

    x = _call(builder, "llvm.maxnum.v16f32", x, _floats(LOWEST))
    x = _call(builder, "llvm.minnum.v16f32", x, _floats(HIGHEST))
    n = _call(builder, "llvm.floor.v16f32", fused(x, _floats(LOG2_E), _floats(0.5)))
    f = fused(n, _floats(-LN2_HIGH), x)
    f = fused(n, _floats(-LN2_LOW), f)
    y = _floats(COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        y = fused(y, f, _floats(coefficient))
    y = fused(y, builder.fmul(f, f), builder.fadd(f, _floats(1.0)))
    exponent = builder.add(builder.fptosi(n, _WORDS), _words(EXPONENT_BIAS))
    power = builder.shl(exponent, _words(EXPONENT_SHIFT))
    return builder.fmul(y, builder.bitcast(power, _FLOATS))


def _swish(builder: Any, x: Any) -> Any:
    """x * sigmoid(x)."""
    below = builder.fadd(_floats(1.0), _exponential(builder, builder.fneg(x)))
    return builder.fdiv(x, below, flags=_LOOSE)


def _row(finish: Callable[[Any, Any, Any, int], None]) -> Any:
    """An intrinsic (sums, bias, target: addresses) that finishes 32 sums."""

    @intrinsic
    def made(typing_context: Any, sums: Any, bias: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, bias, target = arguments
            for half in range(2):
                offset = _VECTOR_BYTES * half
                value = builder.fadd(_take(builder, sums, offset), _take(builder, bias, offset))
                finish(builder, value, target, half)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return made


def _finish_add(builder: Any, value: Any, target: Any, half: int) -> None:
    offset = _VECTOR_BYTES * half
    _put(builder, builder.fadd(value, _take(builder, target, offset)), target, offset, FLOAT_BYTES)


def _finish_bf16(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, emit_round(builder, value), target, _HALF_VECTOR_BYTES * half, HALF_BYTES)


def _finish_swish_bf16(builder: Any, value: Any, target: Any, half: int) -> None:
    _finish_bf16(builder, _swish(builder, value), target, half)


def _finish_fp32(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, value, target, _VECTOR_BYTES * half, FLOAT_BYTES)


def _finish_swish_fp32(builder: Any, value: Any, target: Any, half: int) -> None:
    _finish_fp32(builder, _swish(builder, value), target, half)


add_row = _row(_finish_add)
"""target float32 [32] += sums + bias."""
store_row_bf16 = _row(_finish_bf16)
"""target bfloat16 [32] = sums + bias."""
swish_row_bf16 = _row(_finish_swish_bf16)
"""target bfloat16 [32] = swish(sums + bias)."""
store_row_fp32 = _row(_finish_fp32)
"""target float32 [32] = sums + bias."""
swish_row_fp32 = _row(_finish_swish_fp32)
"""target float32 [32] = swish(sums + bias)."""


@intrinsic
def swish_row_parts(typing_context: Any, sums: Any, bias: Any, target: Any, plane: Any) -> Any:
    """Three targets bfloat16 [32], `plane` bytes apart: the parts of swish(sums + bias)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, bias, target, plane = arguments
        for half in range(2):
            offset = _VECTOR_BYTES * half
            value = builder.fadd(_take(builder, sums, offset), _take(builder, bias, offset))
            place = target
            for part in emit_parts(builder, _swish(builder, value)):
                bits = emit_upper_half(builder, part)
                _put(builder, bits, place, _HALF_VECTOR_BYTES * half, HALF_BYTES)
                place = builder.add(place, plane)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def cut_weights(typing_context: Any, source: Any, target: Any) -> Any:
    """Weights float32 [32, 32] at the source to the parts bfloat16 [3, 2, 16, 16, 2] at the target.

    The order is that of weights on tiles: part, half of the columns, pair of rows, column, row of the pair. The target
    begins at a cache line.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = arguments
        with cgutils.for_range(builder, _ADDRESS(LANES)) as loop:
            pair = builder.add(source, builder.mul(loop.index, _ADDRESS(2 * ROW_BYTES)))
            place = builder.add(target, builder.mul(loop.index, _ADDRESS(CACHE_LINE)))
            for half in range(2):
                first = emit_parts(builder, _take(builder, pair, _VECTOR_BYTES * half))
                second = emit_parts(builder, _take(builder, pair, ROW_BYTES + _VECTOR_BYTES * half))
                for part, (a, b) in enumerate(zip(first, second, strict=True)):
                    pairs = emit_pairs(builder, a, b)
                    _put(builder, pairs, place, _TILE_BYTES * (2 * part + half), CACHE_LINE)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _spread(builder: Any, address: Any) -> Any:
    """A vector of the number at the address."""
    number = builder.load(builder.inttoptr(address, ir.FloatType().as_pointer()))
    vector = builder.insert_element(_floats(0.0), number, _WORD(0))
    return builder.shuffle_vector(vector, vector, _words(0))


def _add_product(builder: Any, total: Any, a: Any, b: Any) -> None:
    """The vector at `total` += a * b."""
    builder.store(_call(builder, "llvm.fmuladd.v16f32", a, b, builder.load(total)), total)


def _totals(builder: Any, count: int) -> list[Any]:
    """Places of so many vectors, zero, which LLVM keeps in registers as far as there are some."""
    totals = [cgutils.alloca_once(builder, _FLOATS) for _ in range(count)]
    for total in totals:
        builder.store(_floats(0.0), total)
    return totals


def dots(count: int) -> Any:
    """An intrinsic (a, stride, weights, depth, next_weights, sums): `count` rows times a block of 32 columns.

    `a` float32, rows `stride` bytes apart; weights float32 [depth, 32]; sums float32 [count, 32]. Prefetches a block of
    the same size at `next_weights` meanwhile, if that is not zero.
    """

    @intrinsic
    def made(
        typing_context: Any, a: Any, stride: Any, weights: Any, depth: Any, next_weights: Any, sums: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, stride, weights, depth, next_weights, sums = arguments
            totals = [_totals(builder, 2) for _ in range(count)]
            with cgutils.for_range(builder, depth) as loop:
                offset = builder.mul(loop.index, _ADDRESS(ROW_BYTES))
                place = builder.add(weights, offset)
                with builder.if_then(builder.icmp_unsigned("!=", next_weights, _ADDRESS(0))):
                    for line in range(ROW_BYTES // CACHE_LINE):
                        address = builder.add(builder.add(next_weights, offset), _ADDRESS(CACHE_LINE * line))
                        emit_prefetch(builder, builder.inttoptr(address, BYTE_POINTER))
                columns = [_take(builder, place, _VECTOR_BYTES * half) for half in range(2)]
                place_of_row = builder.add(a, builder.mul(loop.index, _ADDRESS(FLOAT_BYTES)))
                for r, row in enumerate(totals):
                    spread = _spread(builder, builder.add(place_of_row, builder.mul(stride, _ADDRESS(r))))
                    for total, column in zip(row, columns, strict=True):
                        _add_product(builder, total, spread, column)
            for r, row in enumerate(totals):
                for half, total in enumerate(row):
                    offset_of_sums = ROW_BYTES * r + _VECTOR_BYTES * half
                    _put(builder, builder.load(total), sums, offset_of_sums, FLOAT_BYTES)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return made


def panel(count: int) -> Any:
    """An intrinsic (a, stride, weights, depth, ahead, ahead_step, sums): `count` rows times 16 of a block's 32 columns.

    `a`, `stride` and `depth` as in `dots`; `weights` and `sums` begin at the first of the columns and go on by 32.
    Prefetches a line each `ahead_step` bytes from `ahead` on, as many as there are inputs, if that is not zero.
    """

    @intrinsic
    def made(
        typing_context: Any,
        a: Any,
        stride: Any,
        weights: Any,
        depth: Any,
        ahead: Any,
        ahead_step: Any,
        sums: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, stride, weights, depth, ahead, ahead_step, sums = arguments
            totals = _totals(builder, count)
            rows = [builder.add(a, builder.mul(stride, _ADDRESS(r))) for r in range(count)]
            with cgutils.for_range(builder, depth) as loop:
                with builder.if_then(builder.icmp_unsigned("!=", ahead, _ADDRESS(0))):
                    address = builder.add(ahead, builder.mul(loop.index, ahead_step))
                    emit_prefetch(builder, builder.inttoptr(address, BYTE_POINTER))
                place = builder.add(weights, builder.mul(loop.index, _ADDRESS(ROW_BYTES)))
                column = _take(builder, place, 0)
                for row, total in zip(rows, totals, strict=True):
                    offset = builder.mul(loop.index, _ADDRESS(FLOAT_BYTES))
                    _add_product(builder, total, _spread(builder, builder.add(row, offset)), column)
            for r, total in enumerate(totals):
                _put(builder, builder.load(total), sums, ROW_BYTES * r, FLOAT_BYTES)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return made
