"""Matrix products in float32 on vectors, by blocks of 32 columns.

They serve so few rows that reading the weights is all there is to a product, and any number of rows where there are no
tiles. Up to five rows go through the weights once or twice; more go in panels, whose sums stay in registers. A row's
sums are added in the same order in either, so that its numbers do not depend on the rows beside it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr_service.model.cpu_encoder.compiling import Array, Int, compiled
from asr_service.model.cpu_encoder.isa.tiles import TileUnit
from asr_service.model.cpu_encoder.isa.vectors import (
    COLUMNS,
    FLOAT_BYTES,
    LANES,
    ROW_BYTES,
    add_row,
    dots,
    panel,
    store_row_fp32,
    swish_row_fp32,
)
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Finish, InputLayout, Product

INPUTS = InputLayout(torch.float32, ())
USES_TILES = False
PANEL = 6
"""Rows whose sums with 16 columns stay in the registers of a processor that has sixteen of eight numbers each."""
_HALF_ROW_BYTES = LANES * FLOAT_BYTES
_panel = panel(PANEL)
_dots_1, _dots_2, _dots_4 = dots(1), dots(2), dots(4)


def pack(weight: Tensor) -> Array:
    """Weights [out, in], multiples of 32 both, as float32 [out / 32, in, 32], flat."""
    out, width = weight.shape
    packed: Array = weight.float().view(out // COLUMNS, COLUMNS, width).permute(0, 2, 1).contiguous().numpy()
    return packed.reshape(-1)


def scratch_bytes(depth: int) -> int:
    """None: weights are used as they lie."""
    return 0


@compiled
def block(tiles: TileUnit, product: Product, which: Int, next_block: Int, scratch: BlockScratch) -> None:
    """One block, as in `gemm.Gemm`, without tiles; inputs and `out` are float32."""
    rows, finish, depth = product.rows, product.finish, np.int64(product.depth)
    size = depth * ROW_BYTES
    column = np.int64(which * COLUMNS)
    base = (
        np.int64(product.weights.ctypes.data)
        + np.int64(product.offset) * FLOAT_BYTES
        + np.int64(which) * size
    )
    sums = np.int64(scratch.sums.ctypes.data)
    bias = np.int64(product.bias.ctypes.data) + column * FLOAT_BYTES
    inputs = np.int64(product.inputs.ctypes.data)
    stride = np.int64(product.inputs.shape[1] * FLOAT_BYTES)
    if finish == Finish.ADD:
        target = np.int64(product.residual.ctypes.data) + column * FLOAT_BYTES
        target_stride = np.int64(product.residual.shape[1] * FLOAT_BYTES)
    else:
        target = np.int64(product.out.ctypes.data) + column * FLOAT_BYTES
        target_stride = np.int64(product.out.shape[1] * FLOAT_BYTES)
    next_base = np.int64(0)
    if next_block >= 0:
        next_base = base + np.int64(next_block - which) * size
    # The next block is prefetched bit by bit: each half of a panel has its share of the lines.
    share = size // (2 * ((rows + PANEL - 1) // PANEL))
    ahead_step = share // depth
    row: Int = 0
    turn = 0
    while row < rows:
        begin, count = row, min(rows - row, 4)
        if rows >= PANEL:
            # The last one may do rows again.
            begin, count = min(row, rows - PANEL), PANEL
        place = inputs + begin * stride
        if rows >= PANEL:
            for half in range(2):
                ahead = next_base + turn * share if next_block >= 0 and ahead_step > 0 else np.int64(0)
                offset = half * _HALF_ROW_BYTES
                _panel(place, stride, base + offset, depth, ahead, ahead_step, sums + offset)
                turn += 1
        elif count == 1:
            _dots_1(place, stride, base, depth, next_base, sums)
        elif count == 2:
            _dots_2(place, stride, base, depth, next_base, sums)
        else:
            # Of three, the scratch row behind them is computed too.
            _dots_4(place, stride, base, depth, next_base, sums)
        for r in range(row - begin, count):
            if finish == Finish.ADD:
                add_row(sums + r * ROW_BYTES, bias, target + (begin + r) * target_stride)
            elif finish == Finish.SWISH:
                swish_row_fp32(sums + r * ROW_BYTES, bias, target + (begin + r) * target_stride)
            else:
                store_row_fp32(sums + r * ROW_BYTES, bias, target + (begin + r) * target_stride)
        row = begin + count
