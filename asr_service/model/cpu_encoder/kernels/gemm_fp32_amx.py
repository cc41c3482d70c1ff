"""Matrix products in float32 on the bfloat16 tiles (`cpu_amx.py`), by blocks of 32 columns.

A float32 has 24 significant bits, a bfloat16 eight: cut into three bfloat16 numbers it loses nothing. Of the nine
products of two such numbers' parts, six are large enough for a float32 sum to notice; the tile unit does these six in
less time than the vector unit does one in float32 (the idea: Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial
Intelligence Datatype For Higher-Precision Computations", ARITH 2019).

Weights are kept in float32, in the order of a block's rows and columns, and cut when they are used: that costs less
than reading half as many bytes again, and vectors can use the same weights as they are (`cpu_floats.py`).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from asr_service.model.cpu_encoder.isa.amx import (
    COLUMNS,
    DEPTH,
    TILE,
    TILE_BYTES,
    keep,
    multiply_parts_16,
    multiply_parts_32,
    zero,
)
from asr_service.model.cpu_encoder.isa.vectors import (
    ADD,
    SWISH,
    add_row,
    split_pairs,
    store_row_float,
    swish_row_parts,
)
from asr_service.model.cpu_encoder.kernels.rows import LOOSE, Array, ask

_STEP = 4 * DEPTH * COLUMNS  # bytes of a block's weights for DEPTH inputs
PARTS_STEP = 6 * TILE_BYTES
"""The same in three parts."""


def pack_float(weight: Tensor) -> Array:
    """Weights [out, in], multiples of 32 both, as float32 [out / 32, in, 32], flat."""
    out, width = weight.shape
    packed: Array = weight.float().view(out // COLUMNS, COLUMNS, width).permute(0, 2, 1).contiguous().numpy()
    return packed.reshape(-1)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def split_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts):  # type: ignore[no-untyped-def]
    """As `cpu_tiles.tile_block`, in float32.

    Args:
        a: uint16 [3, at least rows, up to a multiple of 32; at least depth], the rows' parts.
        weights: flat, from `pack_float`.
        out: float32 [rows, at least columns] for STORE, uint16 [3, rows, at least columns] for SWISH.
        parts: uint8 [depth / 32 x PARTS_STEP], scratch.
    """
    turns, deep = (rows + 31) // 32, depth // DEPTH
    stride, plane = np.int64(a.shape[2] * 2), np.int64(a.shape[1] * a.shape[2] * 2)
    start = np.int64(a.ctypes.data)
    first = np.int64(block * COLUMNS)
    here = np.int64(weights.ctypes.data) + np.int64(base) * 4 + np.int64(block) * deep * _STEP
    there = here + np.int64(coming - block) * deep * _STEP
    total, cut = np.int64(sums.ctypes.data), np.int64(parts.ctypes.data)
    shift = np.int64(bias.ctypes.data) + first * 4
    if kind == ADD:
        result, width = np.int64(x.ctypes.data) + first * 4, np.int64(x.shape[1] * 4)
    else:
        result = np.int64(out.ctypes.data) + first * out.itemsize
        width = np.int64(out.strides[out.ndim - 2])
    apart = np.int64(out.strides[0])
    split_pairs(here, cut)
    for turn in range(turns):
        row = turn * 32
        count = min(32, rows - row)
        low, high = 64 * turn // turns, 64 * (turn + 1) // turns
        if coming < 0:
            low = high
        place = start + row * stride
        zero()
        for k in range(deep):
            for line in range(low, high):
                ask(there + k * _STEP + line * 64)
            # One ahead: the vector unit cuts while the tile unit multiplies.
            if turn == 0 and k + 1 < deep:
                split_pairs(here + (k + 1) * _STEP, cut + (k + 1) * PARTS_STEP)
            if count > TILE:
                multiply_parts_32(place + k * 64, stride, plane, cut + k * PARTS_STEP)
            else:
                multiply_parts_16(place + k * 64, stride, plane, cut + k * PARTS_STEP)
        keep(total)
        for r in range(count):
            if kind == ADD:
                add_row(total + r * 128, shift, result + (row + r) * width)
            elif kind == SWISH:
                swish_row_parts(total + r * 128, shift, result + (row + r) * width, apart)
            else:
                store_row_float(total + r * 128, shift, result + (row + r) * width)
