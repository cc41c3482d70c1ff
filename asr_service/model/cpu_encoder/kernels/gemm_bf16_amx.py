"""Matrix products in bfloat16 on tiles, by blocks of 32 columns.

A call of a product library costs about 15 microseconds, a whole batch-1 product no more than its weights' bytes take
to arrive. Compiled loops that multiply tiles themselves need no call: all layers are one function (`layers.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr_service.model.cpu_encoder.compiling import Array, Int, compiled
from asr_service.model.cpu_encoder.isa.amx import DEPTH, ROWS, TILE, TILE_BYTES
from asr_service.model.cpu_encoder.isa.memory import CACHE_LINE, prefetch
from asr_service.model.cpu_encoder.isa.tiles import TileUnit, multiply_16, multiply_32, store_sums, zero_sums
from asr_service.model.cpu_encoder.isa.vectors import (
    COLUMNS,
    FLOAT_BYTES,
    HALF_BYTES,
    ROW_BYTES,
    add_row,
    store_row_bf16,
    swish_row_bf16,
)
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Finish, InputLayout, Product

INPUTS = InputLayout(torch.bfloat16, ())
USES_TILES = True
# Of a block's weights, for DEPTH inputs.
_STEP_BYTES = 2 * TILE_BYTES
_STEP_LINES = _STEP_BYTES // CACHE_LINE
_TILE_ROW_BYTES = DEPTH * HALF_BYTES


def pack(weight: Tensor) -> Array:
    """Weights [out, in], multiples of 32 both, as uint16 [out / 32, in / 32, 2, 16, 16, 2], flat."""
    out, width = weight.shape
    blocks = weight.to(torch.bfloat16).view(out // COLUMNS, 2, TILE, width // DEPTH, TILE, 2)
    packed = blocks.permute(0, 3, 1, 4, 2, 5).contiguous()
    return packed.view(torch.int16).numpy().view(np.uint16).reshape(-1)


def scratch_bytes(depth: int) -> int:
    """None: weights are used as they lie."""
    return 0


@compiled
def block(tiles: TileUnit, product: Product, which: Int, next_block: Int, scratch: BlockScratch) -> None:
    """One block, as in `gemm.Gemm`; inputs and `out` are uint16."""
    rows, finish = product.rows, product.finish
    turns, row_tiles = (rows + ROWS - 1) // ROWS, product.depth // DEPTH
    inputs = np.int64(product.inputs.ctypes.data)
    stride = np.int64(product.inputs.shape[1] * HALF_BYTES)
    column = np.int64(which * COLUMNS)
    size = np.int64(row_tiles) * _STEP_BYTES
    base = (
        np.int64(product.weights.ctypes.data) + np.int64(product.offset) * HALF_BYTES + np.int64(which) * size
    )
    next_base = base + np.int64(next_block - which) * size
    sums = np.int64(scratch.sums.ctypes.data)
    bias = np.int64(product.bias.ctypes.data) + column * FLOAT_BYTES
    if finish == Finish.ADD:
        target = np.int64(product.residual.ctypes.data) + column * FLOAT_BYTES
        target_stride = np.int64(product.residual.shape[1] * FLOAT_BYTES)
    else:
        target = np.int64(product.out.ctypes.data) + column * HALF_BYTES
        target_stride = np.int64(product.out.shape[1] * HALF_BYTES)
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
            if count > TILE:
                multiply_32(tiles, sums, place + k * _TILE_ROW_BYTES, stride, base + k * _STEP_BYTES)
            else:
                multiply_16(tiles, sums, place + k * _TILE_ROW_BYTES, stride, base + k * _STEP_BYTES)
        store_sums(tiles, sums)
        for r in range(count):
            if finish == Finish.ADD:
                add_row(sums + r * ROW_BYTES, bias, target + (row + r) * target_stride)
            elif finish == Finish.SWISH:
                swish_row_bf16(sums + r * ROW_BYTES, bias, target + (row + r) * target_stride)
            else:
                store_row_bf16(sums + r * ROW_BYTES, bias, target + (row + r) * target_stride)
