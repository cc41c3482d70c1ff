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

from asr_service.model.cpu_encoder.kernels.rows import BYTES, emit_prefetch

LANES = 16
STORE, SWISH, ADD = 0, 1, 2
"""What becomes of a product."""
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
        return _call(builder, "llvm.fmuladd.v16f32", a, b, c)

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


def _upper(builder: Any, x: Any) -> Any:
    """The upper half of each number, the lower one zero."""
    return builder.bitcast(builder.and_(builder.bitcast(x, _WORDS), _words(0xFFFF0000)), _FLOATS)


def _parts(builder: Any, x: Any) -> list[Any]:
    """Three float32 whose lower halves are zero and whose sum is x (subnormal remainders apart)."""
    high = _upper(builder, x)
    rest = builder.fsub(x, high)
    middle = _upper(builder, rest)
    return [high, middle, builder.fsub(rest, middle)]


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


def _finish_float(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, value, target, 64 * half, 4)


def _finish_float_swish(builder: Any, value: Any, target: Any, half: int) -> None:
    _put(builder, _swish(builder, value), target, 64 * half, 4)


add_row = _row(_finish_add)
"""target float32 [32] += sums + bias."""
store_row = _row(_finish_half)
"""target bfloat16 [32] = sums + bias."""
swish_row = _row(_finish_swish)
"""target bfloat16 [32] = swish(sums + bias)."""
store_row_float = _row(_finish_float)
"""target float32 [32] = sums + bias."""
swish_row_float = _row(_finish_float_swish)
"""target float32 [32] = swish(sums + bias)."""


@intrinsic
def swish_row_parts(typing_context: Any, sums: Any, bias: Any, target: Any, plane: Any) -> Any:
    """Three targets bfloat16 [32], `plane` bytes apart: the parts of swish(sums + bias)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, bias, target, plane = arguments
        for half in range(2):
            value = builder.fadd(_take(builder, sums, 64 * half), _take(builder, bias, 64 * half))
            place = target
            for part in _parts(builder, _swish(builder, value)):
                word = builder.lshr(builder.bitcast(part, _WORDS), _words(16))
                _put(builder, builder.trunc(word, _HALVES), place, 32 * half, 2)
                place = builder.add(place, plane)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def split_pairs(typing_context: Any, source: Any, target: Any) -> Any:
    """float32 [32, 32] at the source to the parts [3, 2, 16, 16, 2] in bfloat16 at the target.

    The order is that of weights on tiles: part, half of the columns, pair of rows, column, row of the pair.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = arguments
        with cgutils.for_range(builder, _ADDRESS(LANES)) as loop:
            pair = builder.add(source, builder.mul(loop.index, _ADDRESS(256)))
            place = builder.add(target, builder.mul(loop.index, _ADDRESS(64)))
            for half in range(2):
                first = _parts(builder, _take(builder, pair, 64 * half))
                second = _parts(builder, _take(builder, pair, 128 + 64 * half))
                for part, (a, b) in enumerate(zip(first, second, strict=True)):
                    low = builder.lshr(builder.bitcast(a, _WORDS), _words(16))
                    high = builder.and_(builder.bitcast(b, _WORDS), _words(0xFFFF0000))
                    _put(builder, builder.or_(low, high), place, 2048 * part + 1024 * half, 64)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def dots(count: int) -> Any:
    """An intrinsic (a, stride, weights, depth, coming, sums): `count` rows times a block of 32 columns.

    `a` float32, rows `stride` bytes apart; weights float32 [depth, 32]; sums float32 [count, 32]. Asks for a block of
    the same size at `coming` meanwhile, if that is not zero.
    """

    @intrinsic
    def made(
        typing_context: Any, a: Any, stride: Any, weights: Any, depth: Any, coming: Any, sums: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, stride, weights, depth, coming, sums = arguments
            totals = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(2)] for _ in range(count)]
            for row in totals:
                for total in row:
                    builder.store(_floats(0.0), total)
            with cgutils.for_range(builder, depth) as loop:
                offset = builder.mul(loop.index, _ADDRESS(128))
                place = builder.add(weights, offset)
                with builder.if_then(builder.icmp_unsigned("!=", coming, _ADDRESS(0))):
                    for line in range(2):
                        address = builder.add(builder.add(coming, offset), _ADDRESS(64 * line))
                        emit_prefetch(builder, builder.inttoptr(address, BYTES))
                columns = [_take(builder, place, 0), _take(builder, place, 64)]
                place_of_row = builder.add(a, builder.mul(loop.index, _ADDRESS(4)))
                for r in range(count):
                    number = builder.add(place_of_row, builder.mul(stride, _ADDRESS(r)))
                    number = builder.load(builder.inttoptr(number, ir.FloatType().as_pointer()))
                    spread = builder.insert_element(_floats(0.0), number, _WORD(0))
                    spread = builder.shuffle_vector(spread, spread, _words(0))
                    for total, column in zip(totals[r], columns, strict=True):
                        builder.store(
                            _call(builder, "llvm.fmuladd.v16f32", spread, column, builder.load(total)), total
                        )
            for r in range(count):
                for half in range(2):
                    _put(builder, builder.load(totals[r][half]), sums, 128 * r + 64 * half, 4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return made


def panel(count: int) -> Any:
    """An intrinsic (a, stride, weights, depth, coming, step, sums): `count` rows times 16 of a block's 32 columns.

    `a`, `stride` and `depth` as in `dots`; `weights` and `sums` begin at the first of the columns and go on by 32.
    Asks for a line each `step` bytes from `coming` on, as many as there are inputs, if that is not zero.
    """

    @intrinsic
    def made(
        typing_context: Any, a: Any, stride: Any, weights: Any, depth: Any, coming: Any, step: Any, sums: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, stride, weights, depth, coming, step, sums = arguments
            totals = [cgutils.alloca_once(builder, _FLOATS) for _ in range(count)]
            for total in totals:
                builder.store(_floats(0.0), total)
            rows = [builder.add(a, builder.mul(stride, _ADDRESS(r))) for r in range(count)]
            with cgutils.for_range(builder, depth) as loop:
                with builder.if_then(builder.icmp_unsigned("!=", coming, _ADDRESS(0))):
                    address = builder.add(coming, builder.mul(loop.index, step))
                    emit_prefetch(builder, builder.inttoptr(address, BYTES))
                column = _take(builder, builder.add(weights, builder.mul(loop.index, _ADDRESS(128))), 0)
                for row, total in zip(rows, totals, strict=True):
                    place = builder.add(row, builder.mul(loop.index, _ADDRESS(4)))
                    number = builder.load(builder.inttoptr(place, ir.FloatType().as_pointer()))
                    spread = builder.insert_element(_floats(0.0), number, _WORD(0))
                    spread = builder.shuffle_vector(spread, spread, _words(0))
                    builder.store(
                        _call(builder, "llvm.fmuladd.v16f32", spread, column, builder.load(total)), total
                    )
            for r, total in enumerate(totals):
                _put(builder, builder.load(total), sums, 128 * r, 4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return made
