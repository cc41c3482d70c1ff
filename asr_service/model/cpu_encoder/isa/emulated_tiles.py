"""A tile unit in loops: what `amx.py` does in instructions, on any machine, with the sums in memory.

As the unit, it multiplies pairs of bfloat16 numbers and adds to float32 (Intel Software Developer's Manual, volume 2,
TDPBF16PS). The unit adds the even and the odd inputs of a row apart and flushes subnormal numbers to zero: sums differ
in their last bits. Addresses, strides and planes are int64, in bytes.
"""

from __future__ import annotations

import numpy as np

from asr_service.model.cpu_encoder.compiling import Int, compiled
from asr_service.model.cpu_encoder.isa.amx import DEPTH, PART_ORDER, ROWS, TILE, TILE_BYTES
from asr_service.model.cpu_encoder.isa.memory import bfloat16_at, float32_at, set_float32
from asr_service.model.cpu_encoder.isa.vectors import COLUMNS, FLOAT_BYTES, HALF_BYTES, ROW_BYTES

_PAIR_BYTES = 2 * HALF_BYTES
# Of a pair of inputs, all columns of a tile.
_PAIRS_BYTES = TILE * _PAIR_BYTES
_PART_BYTES = 2 * TILE_BYTES


@compiled
def zero(sums: Int) -> None:
    """All sums = 0."""
    for place in range(ROWS * COLUMNS):
        set_float32(sums + place * FLOAT_BYTES, np.float32(0.0))


@compiled
def multiply(sums: Int, count: Int, rows: Int, stride: Int, weights: Int) -> None:
    """The sums of `count` rows += rows x 32 inputs times 32 inputs x 32 columns."""
    for r in range(count):
        for column in range(COLUMNS):
            tile = weights + (column // TILE) * TILE_BYTES + (column % TILE) * _PAIR_BYTES
            place = sums + r * ROW_BYTES + column * FLOAT_BYTES
            total: np.float32 = float32_at(place)
            for depth in range(DEPTH):
                weight = tile + (depth // 2) * _PAIRS_BYTES + (depth % 2) * HALF_BYTES
                total += bfloat16_at(rows + r * stride + depth * HALF_BYTES) * bfloat16_at(weight)
            set_float32(place, total)


@compiled
def multiply_parts(sums: Int, count: Int, rows: Int, stride: Int, plane: Int, weights: Int) -> None:
    """As `multiply`, of numbers in three parts."""
    for row_part, weight_part in PART_ORDER:
        multiply(sums, count, rows + row_part * plane, stride, weights + weight_part * _PART_BYTES)
