"""Matrix products in bfloat16 on the tile unit (AMX) of Intel processors, for loops compiled by Numba.

A call of a product library costs about 15 microseconds, a whole batch-1 product no more than its weights' bytes take
to arrive. Compiled loops that multiply tiles themselves need no call: all layers are one function (`cpu_layers.py`).

A tile register holds 16 rows of 64 bytes. `TDPBF16PS` adds to a tile of 16 x 16 float32 the product of 16 x 32 and
32 x 16 bfloat16 numbers; the second lies in memory by pairs of its 32 rows (Intel Software Developer's Manual,
volume 1, chapter 18). Here two tiles of 16 columns stand side by side: a block of 32 output columns is one run of
memory.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from asr_service.model.cpu_rows import LOOSE, Array
from asr_service.model.cpu_vectors import add_row, store_row, swish_row

COLUMNS = 32
"""Output columns of a block."""
TILE = 16
DEPTH = 32
"""Inputs that one tile instruction sums over."""
_BLOCK_BYTES = 2 * 1024
STORE, SWISH, ADD = 0, 1, 2
"""What becomes of a product."""
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


def pack(weight: Tensor) -> Array:
    """Weights [out, in], multiples of 32 both, as uint16 [out / 32, in / 32, 2, 16, 16, 2], flat."""
    out, width = weight.shape
    blocks = weight.to(torch.bfloat16).view(out // COLUMNS, 2, TILE, width // DEPTH, TILE, 2)
    packed = blocks.permute(0, 3, 1, 4, 2, 5).contiguous()
    return packed.view(torch.int16).numpy().view(np.uint16).reshape(-1)


_I8, _I64 = ir.IntType(8), ir.IntType(64)
_BYTES = _I8.as_pointer()


def _emit(builder: Any, name: str, arguments: list[Any]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


@intrinsic
def _configure(typing_context: Any, address: Any) -> Any:
    """LDTILECFG."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, "ldtilecfg", [builder.inttoptr(arguments[0], _BYTES)])
        return context.get_dummy_value()

    return types.void(types.uintp), generate


@intrinsic
def _release(typing_context: Any) -> Any:
    """TILERELEASE."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _multiply_1(typing_context: Any, a: Any, stride: Any, w: Any) -> Any:
    """Tiles 0, 1 += (16 rows at a) x (two column tiles at w)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, stride, w = arguments
        _load(builder, 4, a, stride)
        _load(builder, 6, w, _I64(64))
        _load(builder, 7, builder.add(w, _I64(1024)), _I64(64))
        for c, x, y in ((0, 4, 6), (1, 4, 7)):
            _emit(builder, "tdpbf16ps", [_I8(c), _I8(x), _I8(y)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _multiply_2(typing_context: Any, a: Any, stride: Any, w: Any) -> Any:
    """Tiles 0 to 3 += (32 rows at a) x (two column tiles at w)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, stride, w = arguments
        _load(builder, 4, a, stride)
        _load(builder, 6, w, _I64(64))
        _load(builder, 7, builder.add(w, _I64(1024)), _I64(64))
        _load(builder, 5, builder.add(a, builder.mul(stride, _I64(TILE))), stride)
        for c, x, y in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
            _emit(builder, "tdpbf16ps", [_I8(c), _I8(x), _I8(y)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _load(builder: Any, tile: int, address: Any, stride: Any) -> None:
    _emit(builder, "tileloadd64", [_I8(tile), builder.inttoptr(address, _BYTES), stride])


@intrinsic
def _zero(typing_context: Any) -> Any:
    """Tiles 0 to 3 = 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(4):
            _emit(builder, "tilezero", [_I8(tile)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _keep(typing_context: Any, address: Any) -> Any:
    """Tiles 0 to 3 to float32 [32, 32] at the address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(4):
            place = builder.add(arguments[0], _I64((tile // 2) * TILE * 128 + (tile % 2) * 64))
            _emit(builder, "tilestored64", [_I8(tile), builder.inttoptr(place, _BYTES), _I64(128)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def ask(typing_context: Any, address: Any) -> Any:
    """Asks for the cache line at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.inttoptr(arguments[0], _BYTES), word(0), word(2), word(1)])
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


@njit(fastmath=LOOSE, nogil=True, cache=True)
def tile_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums):  # type: ignore[no-untyped-def]
    """One block of 32 columns of a @ weights + bias.

    Args:
        a: uint16 [at least rows, up to a multiple of 32; at least depth].
        rows: how many rows count.
        depth: columns of `a` that count, a multiple of 32.
        weights: flat, from `pack`; those of this product begin at `base`.
        bias: float32 [columns].
        block: which block.
        coming: the block this thread takes next, or -1: its weights are asked for meanwhile.
        kind: STORE or SWISH to `out`, or ADD to `x`.
        out: uint16 [rows, at least columns].
        x: float32 [rows, columns].
        sums: float32 [1024], scratch.
    """
    turns, deep = (rows + 31) // 32, depth // DEPTH
    stride = np.int64(a.shape[1] * 2)
    start = np.int64(a.ctypes.data)
    first = np.int64(block * COLUMNS)
    here = np.int64(weights.ctypes.data) + np.int64(base) * 2 + np.int64(block) * deep * _BLOCK_BYTES
    there = here + np.int64(coming - block) * deep * _BLOCK_BYTES
    keep = np.int64(sums.ctypes.data)
    shift = np.int64(bias.ctypes.data) + first * 4
    if kind == ADD:
        result, width = np.int64(x.ctypes.data) + first * 4, np.int64(x.shape[1] * 4)
    else:
        result, width = np.int64(out.ctypes.data) + first * 2, np.int64(out.shape[1] * 2)
    for turn in range(turns):
        row = turn * 32
        count = min(32, rows - row)
        # Each turn asks for its share of the coming block.
        low, high = 32 * turn // turns, 32 * (turn + 1) // turns
        if coming < 0:
            low = high
        place = start + row * stride
        _zero()
        for k in range(deep):
            for line in range(low, high):
                ask(there + k * _BLOCK_BYTES + line * 64)
            if count > TILE:
                _multiply_2(place + k * 64, stride, here + k * _BLOCK_BYTES)
            else:
                _multiply_1(place + k * 64, stride, here + k * _BLOCK_BYTES)
        _keep(keep)
        for r in range(count):
            if kind == ADD:
                add_row(keep + r * 128, shift, result + (row + r) * width)
            elif kind == SWISH:
                swish_row(keep + r * 128, shift, result + (row + r) * width)
            else:
                store_row(keep + r * 128, shift, result + (row + r) * width)
