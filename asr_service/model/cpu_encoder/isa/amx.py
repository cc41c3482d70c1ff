"""Instructions of the tile unit (AMX) of Intel processors, for loops compiled by Numba.

A tile register holds 16 rows of 64 bytes. `TDPBF16PS` adds to a tile of 16 x 16 float32 the product of 16 x 32 and
32 x 16 bfloat16 numbers; the second lies in memory by pairs of its 32 rows (Intel Software Developer's Manual,
volume 1, chapter 18). Here two tiles of 16 columns stand side by side: tiles 0 to 3 are the sums of up to 32 rows and
32 columns, 4 and 5 hold rows, 6 and 7 weights.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from asr_service.model.cpu_encoder.kernels.rows import BYTES, Array

COLUMNS = 32
"""Output columns of a block."""
TILE = 16
DEPTH = 32
"""Inputs that one tile instruction sums over."""
TILE_BYTES = 1024
SUMS = 32 * COLUMNS
"""Floats that `keep` writes."""
_ARCH_PRCTL, _ASK_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@cache
def has_tiles() -> bool:
    """Whether this process may use bfloat16 tiles; asks the kernel for the permission (Linux 5.16)."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    if not {"amx_tile", "amx_bf16", "avx512f"} <= set(flags):
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_PERMISSION, _TILE_DATA)) == 0


def tile_config() -> Array:
    """Palette 1 with eight full tiles, as LDTILECFG reads it: uint8 [64]."""
    config = np.zeros(64, dtype=np.uint8)
    config[0] = 1
    config[16:32].view(np.uint16)[:] = 64
    config[48:56] = TILE
    return config


_I8, _I64 = ir.IntType(8), ir.IntType(64)
_ROWS, _WEIGHTS = 4, 6  # the first tile of each


def _emit(builder: Any, name: str, arguments: list[Any]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _load(builder: Any, tile: int, address: Any, stride: Any) -> None:
    _emit(builder, "tileloadd64", [_I8(tile), builder.inttoptr(address, BYTES), stride])


def _load_rows(builder: Any, high: int, address: Any, stride: Any) -> None:
    for i in range(high):
        _load(builder, _ROWS + i, builder.add(address, builder.mul(stride, _I64(TILE * i))), stride)


def _load_weights(builder: Any, address: Any) -> None:
    for i in range(2):
        _load(builder, _WEIGHTS + i, builder.add(address, _I64(TILE_BYTES * i)), _I64(64))


def _multiply(builder: Any, high: int) -> None:
    for i in range(high):
        for j in range(2):
            _emit(builder, "tdpbf16ps", [_I8(2 * i + j), _I8(_ROWS + i), _I8(_WEIGHTS + j)])


@intrinsic
def _configure(typing_context: Any, address: Any) -> Any:
    """LDTILECFG."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, "ldtilecfg", [builder.inttoptr(arguments[0], BYTES)])
        return context.get_dummy_value()

    return types.void(types.uintp), generate


@intrinsic
def _release(typing_context: Any) -> Any:
    """TILERELEASE."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), generate


def _plain(high: int) -> Any:
    @intrinsic
    def made(typing_context: Any, a: Any, stride: Any, w: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, stride, w = arguments
            _load_rows(builder, high, a, stride)
            _load_weights(builder, w)
            _multiply(builder, high)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return made


multiply_16 = _plain(1)
"""(a, stride, w: addresses and bytes): tiles 0, 1 += (16 rows at a) x (two column tiles at w)."""
multiply_32 = _plain(2)
"""Tiles 0 to 3 += (32 rows at a) x (two column tiles at w)."""


def _in_parts(high: int) -> Any:
    @intrinsic
    def made(typing_context: Any, a: Any, stride: Any, plane: Any, w: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, stride, plane, w = arguments
            rows = [a, builder.add(a, plane), builder.add(a, builder.mul(plane, _I64(2)))]
            weights = [builder.add(w, _I64(2 * TILE_BYTES * part)) for part in range(3)]
            # In an order that loads five of six times only one side; the smallest products come first.
            for row, weight in ((0, 2), (None, 1), (1, None), (None, 0), (2, None), (0, None)):
                if row is not None:
                    _load_rows(builder, high, rows[row], stride)
                if weight is not None:
                    _load_weights(builder, weights[weight])
                _multiply(builder, high)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), generate

    return made


multiply_parts_16 = _in_parts(1)
"""(a, stride, plane, w): as `multiply_16`, of numbers in three parts: the six products that float32 can tell.

Part p of the rows lies at a + p x plane, of the weights at w + p x 2 tiles.
"""
multiply_parts_32 = _in_parts(2)
"""As `multiply_parts_16`, for 32 rows."""


@intrinsic
def zero(typing_context: Any) -> Any:
    """Tiles 0 to 3 = 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(4):
            _emit(builder, "tilezero", [_I8(tile)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def keep(typing_context: Any, address: Any) -> Any:
    """Tiles 0 to 3 to float32 [32, 32] at the address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(4):
            place = builder.add(arguments[0], _I64((tile // 2) * TILE * 128 + (tile % 2) * 64))
            _emit(builder, "tilestored64", [_I8(tile), builder.inttoptr(place, BYTES), _I64(128)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit(nogil=True, cache=True)
def start_tiles(config):  # type: ignore[no-untyped-def]
    """Sets up the calling thread's tile registers."""
    _configure(np.uintp(config.ctypes.data))


@njit(nogil=True, cache=True)
def stop_tiles():  # type: ignore[no-untyped-def]
    """Gives the tile registers back, so that the thread's state is small again when it is switched."""
    _release()
