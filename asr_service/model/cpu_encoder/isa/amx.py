"""Instructions of the tile unit (AMX) of Intel processors, for loops compiled by Numba.

A tile register holds 16 rows of 64 bytes. `TDPBF16PS` adds to a tile of 16 x 16 float32 the product of 16 x 32 and
32 x 16 bfloat16 numbers; the second lies in memory by pairs of its 32 rows (Intel Software Developer's Manual,
volume 1, chapter 18). Here two tiles of 16 columns stand side by side: tiles 0 to 3 are the sums of up to 32 rows and
32 columns, 4 and 5 hold rows, 6 and 7 weights.

Kernels reach these through `tiles.py`. Addresses, strides and planes are int64, in bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa.memory import BYTE_POINTER
from asr_service.model.cpu_encoder.isa.vectors import COLUMNS, ROW_BYTES

TILE = 16
"""Rows of a tile."""
TILE_ROW_BYTES = 64
TILE_BYTES = TILE * TILE_ROW_BYTES
DEPTH = 32
"""Inputs that one tile instruction sums over."""
ROWS = 2 * TILE
"""Rows that are summed at a time."""
SUMS = ROWS * COLUMNS
"""Numbers that `store` writes."""
PART_ORDER = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0))
"""(part of the rows, part of the weights) of the six products of numbers in three parts.

The other three are too small for a float32 sum to notice. In an order that loads five of six times only one side.
"""

_TILES = 8
_PALETTE, _PALETTE_BYTES = 1, 64
# Where the configuration has the bytes of a row and the number of rows of each tile.
_ROW_BYTES_AT, _ROWS_AT = 16, 48
_I8, _I64 = ir.IntType(8), ir.IntType(64)
# The first tile of each kind.
_FIRST_SUM, _FIRST_ROW, _FIRST_WEIGHT = 0, 4, 6


def tile_configuration() -> Array:
    """Palette 1 with eight full tiles, as LDTILECFG reads it: uint8 [64]."""
    configuration = np.zeros(_PALETTE_BYTES, dtype=np.uint8)
    configuration[0] = _PALETTE
    configuration[_ROW_BYTES_AT : _ROW_BYTES_AT + 2 * _TILES].view(np.uint16)[:] = TILE_ROW_BYTES
    configuration[_ROWS_AT : _ROWS_AT + _TILES] = TILE
    return configuration


def _emit(builder: Any, name: str, arguments: list[Any]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _load(builder: Any, tile: int, address: Any, stride: Any) -> None:
    _emit(builder, "tileloadd64", [_I8(tile), builder.inttoptr(address, BYTE_POINTER), stride])


def _load_rows(builder: Any, high: int, address: Any, stride: Any) -> None:
    for i in range(high):
        place = builder.add(address, builder.mul(stride, _I64(TILE * i)))
        _load(builder, _FIRST_ROW + i, place, stride)


def _load_weights(builder: Any, address: Any) -> None:
    for i in range(2):
        _load(builder, _FIRST_WEIGHT + i, builder.add(address, _I64(TILE_BYTES * i)), _I64(TILE_ROW_BYTES))


def _multiply(builder: Any, high: int) -> None:
    for i in range(high):
        for j in range(2):
            tiles = (_FIRST_SUM + 2 * i + j, _FIRST_ROW + i, _FIRST_WEIGHT + j)
            _emit(builder, "tdpbf16ps", [_I8(tile) for tile in tiles])


@intrinsic
def configure(typing_context: Any, address: Any) -> Any:
    """LDTILECFG: sets up the calling thread's tiles from `tile_configuration` at the address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, "ldtilecfg", [builder.inttoptr(arguments[0], BYTE_POINTER)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def release(typing_context: Any) -> Any:
    """TILERELEASE: gives the calling thread's tiles back."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def zero(typing_context: Any) -> Any:
    """TILEZERO: all sums = 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(_FIRST_SUM, _FIRST_ROW):
            _emit(builder, "tilezero", [_I8(tile)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def store(typing_context: Any, address: Any) -> Any:
    """TILESTORED: the sums to float32 [32, 32] at the address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for i in range(2):
            for j in range(2):
                place = builder.add(arguments[0], _I64(i * TILE * ROW_BYTES + j * TILE_ROW_BYTES))
                pointer = builder.inttoptr(place, BYTE_POINTER)
                _emit(builder, "tilestored64", [_I8(_FIRST_SUM + 2 * i + j), pointer, _I64(ROW_BYTES)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _plain(high: int) -> Any:
    """An intrinsic (rows, stride, weights) for so many tiles of rows."""

    @intrinsic
    def made(typing_context: Any, rows: Any, stride: Any, weights: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, stride, weights = arguments
            _load_rows(builder, high, rows, stride)
            _load_weights(builder, weights)
            _multiply(builder, high)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return made


def _in_parts(high: int) -> Any:
    """An intrinsic (rows, stride, plane, weights) for so many tiles of rows in three parts."""

    @intrinsic
    def made(typing_context: Any, rows: Any, stride: Any, plane: Any, weights: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, stride, plane, weights = arguments
            row_parts = [rows, builder.add(rows, plane), builder.add(rows, builder.mul(plane, _I64(2)))]
            weight_parts = [builder.add(weights, _I64(2 * TILE_BYTES * part)) for part in range(3)]
            for before, (row, weight) in pairwise(((-1, -1), *PART_ORDER)):
                if row != before[0]:
                    _load_rows(builder, high, row_parts[row], stride)
                if weight != before[1]:
                    _load_weights(builder, weight_parts[weight])
                _multiply(builder, high)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), generate

    return made


multiply_16, multiply_32 = _plain(1), _plain(2)
"""TILELOADD and TDPBF16PS: `tiles.multiply_16` and `tiles.multiply_32`."""
multiply_parts_16, multiply_parts_32 = _in_parts(1), _in_parts(2)
"""The same six times: `tiles.multiply_parts_16` and `tiles.multiply_parts_32`."""
