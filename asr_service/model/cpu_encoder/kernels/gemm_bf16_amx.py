"""Matrix products in bfloat16 on tiles (`cpu_amx.py`), by blocks of 32 columns.

A call of a product library costs about 15 microseconds, a whole batch-1 product no more than its weights' bytes take
to arrive. Compiled loops that multiply tiles themselves need no call: all layers are one function (`cpu_layers.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from asr_service.model.cpu_encoder.isa.amx import (
    COLUMNS,
    DEPTH,
    TILE,
    TILE_BYTES,
    keep,
    multiply_16,
    multiply_32,
    zero,
)
from asr_service.model.cpu_encoder.isa.vectors import ADD, SWISH, add_row, store_row, swish_row
from asr_service.model.cpu_encoder.kernels.rows import LOOSE, Array, ask

_STEP = 2 * TILE_BYTES  # of a block's weights, for DEPTH inputs


def pack(weight: Tensor) -> Array:
    """Weights [out, in], multiples of 32 both, as uint16 [out / 32, in / 32, 2, 16, 16, 2], flat."""
    out, width = weight.shape
    blocks = weight.to(torch.bfloat16).view(out // COLUMNS, 2, TILE, width // DEPTH, TILE, 2)
    packed = blocks.permute(0, 3, 1, 4, 2, 5).contiguous()
    return packed.view(torch.int16).numpy().view(np.uint16).reshape(-1)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def tile_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts):  # type: ignore[no-untyped-def]
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
        sums: float32 [SUMS], scratch.
        parts: not used.
    """
    turns, deep = (rows + 31) // 32, depth // DEPTH
    stride = np.int64(a.shape[1] * 2)
    start = np.int64(a.ctypes.data)
    first = np.int64(block * COLUMNS)
    here = np.int64(weights.ctypes.data) + np.int64(base) * 2 + np.int64(block) * deep * _STEP
    there = here + np.int64(coming - block) * deep * _STEP
    total = np.int64(sums.ctypes.data)
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
        zero()
        for k in range(deep):
            for line in range(low, high):
                ask(there + k * _STEP + line * 64)
            if count > TILE:
                multiply_32(place + k * 64, stride, here + k * _STEP)
            else:
                multiply_16(place + k * 64, stride, here + k * _STEP)
        keep(total)
        for r in range(count):
            if kind == ADD:
                add_row(total + r * 128, shift, result + (row + r) * width)
            elif kind == SWISH:
                swish_row(total + r * 128, shift, result + (row + r) * width)
            else:
                store_row(total + r * 128, shift, result + (row + r) * width)
