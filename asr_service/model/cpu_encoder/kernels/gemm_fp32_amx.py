"""Matrix products in float32 on the bfloat16 tiles, by blocks of 32 columns.

A float32 has 24 significant bits, a bfloat16 eight: cut into three bfloat16 numbers it loses nothing. Of the nine
products of two such numbers' parts, six are large enough for a float32 sum to notice; the tile unit does these six in
less time than the vector unit does one in float32 (the idea: Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial
Intelligence Datatype For Higher-Precision Computations", ARITH 2019).

Weights are kept in float32, in the order of a block's rows and columns, and cut when they are used: that costs less
than reading half as many bytes again, and vectors can use the same weights as they are (`gemm_fp32.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr_service.model.cpu_encoder.compiling import Array, Int, compiled
from asr_service.model.cpu_encoder.isa.amx import DEPTH, ROWS, TILE, TILE_BYTES
from asr_service.model.cpu_encoder.isa.memory import CACHE_LINE, prefetch
from asr_service.model.cpu_encoder.isa.tiles import (
    TileUnit,
    multiply_parts_16,
    multiply_parts_32,
    store_sums,
    zero_sums,
)
from asr_service.model.cpu_encoder.isa.vectors import (
    COLUMNS,
    FLOAT_BYTES,
    HALF_BYTES,
    ROW_BYTES,
    add_row,
    cut_weights,
    store_row_fp32,
    swish_row_parts,
)
from asr_service.model.cpu_encoder.kernels import gemm_fp32
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Finish, InputLayout, Product

INPUTS = InputLayout(torch.bfloat16, (3,))
USES_TILES = True
# Of a block's weights, for DEPTH inputs.
_STEP_BYTES = DEPTH * ROW_BYTES
_STEP_LINES = _STEP_BYTES // CACHE_LINE
# The same in three parts.
_PARTS_BYTES = 3 * 2 * TILE_BYTES
_TILE_ROW_BYTES = DEPTH * HALF_BYTES


def pack(weight: Tensor) -> Array:
    """As `gemm_fp32.pack`: a step of few rows uses the same weights on vectors."""
    return gemm_fp32.pack(weight)


def scratch_bytes(depth: int) -> int:
    """Those of a block's weights in three parts."""
    return depth // DEPTH * _PARTS_BYTES


@compiled
def block(tiles: TileUnit, product: Product, which: Int, next_block: Int, scratch: BlockScratch) -> None:
    """One block, as in `gemm.Gemm`.

    Inputs are uint16 [3, rows, depth], the rows' parts; `out` is float32 for STORE, uint16 [3, rows, at least columns]
    for SWISH.
    """
    rows, finish = product.rows, product.finish
    turns, row_tiles = (rows + ROWS - 1) // ROWS, product.depth // DEPTH
    inputs = np.int64(product.inputs.ctypes.data)
    stride = np.int64(product.inputs.shape[2] * HALF_BYTES)
    plane = np.int64(product.inputs.shape[1] * product.inputs.shape[2] * HALF_BYTES)
    column = np.int64(which * COLUMNS)
    size = np.int64(row_tiles) * _STEP_BYTES
    base = (
        np.int64(product.weights.ctypes.data)
        + np.int64(product.offset) * FLOAT_BYTES
        + np.int64(which) * size
    )
    next_base = base + np.int64(next_block - which) * size
    sums, parts = np.int64(scratch.sums.ctypes.data), np.int64(scratch.weights.ctypes.data)
    bias = np.int64(product.bias.ctypes.data) + column * FLOAT_BYTES
    if finish == Finish.ADD:
        target = np.int64(product.residual.ctypes.data) + column * FLOAT_BYTES
        target_stride = np.int64(product.residual.shape[1] * FLOAT_BYTES)
    else:
        target = np.int64(product.out.ctypes.data) + column * product.out.itemsize
        target_stride = np.int64(product.out.strides[product.out.ndim - 2])
    target_plane = np.int64(product.out.strides[0])
    cut_weights(base, parts)
    for turn in range(turns):
        row = turn * ROWS
        count = min(ROWS, rows - row)
        # Each turn prefetches its share of the next block.
        first_line, last_line = _STEP_LINES * turn // turns, _STEP_LINES * (turn + 1) // turns
        if next_block < 0:
            first_line = last_line
        place = inputs + row * stride
        zero_sums(tiles, sums)
        for k in range(row_tiles):
            for line in range(first_line, last_line):
                prefetch(next_base + k * _STEP_BYTES + line * CACHE_LINE)
            # One ahead: the vector unit cuts while the tile unit multiplies.
            if turn == 0 and k + 1 < row_tiles:
                cut_weights(base + (k + 1) * _STEP_BYTES, parts + (k + 1) * _PARTS_BYTES)
            weights = parts + k * _PARTS_BYTES
            if count > TILE:
                multiply_parts_32(tiles, sums, place + k * _TILE_ROW_BYTES, stride, plane, weights)
            else:
                multiply_parts_16(tiles, sums, place + k * _TILE_ROW_BYTES, stride, plane, weights)
        store_sums(tiles, sums)
        for r in range(count):
            if finish == Finish.ADD:
                add_row(sums + r * ROW_BYTES, bias, target + (row + r) * target_stride)
            elif finish == Finish.SWISH:
                swish_row_parts(sums + r * ROW_BYTES, bias, target + (row + r) * target_stride, target_plane)
            else:
                store_row_fp32(sums + r * ROW_BYTES, bias, target + (row + r) * target_stride)
