"""Matrix products in float32 on vectors (`cpu_vectors.py`), by blocks of 32 columns.

They serve so few rows that reading the weights is all there is to a product, and any number of rows where there are no
tiles. Up to five rows go through the weights once or twice; more go in panels, whose sums stay in registers. A row's
sums are added in the same order in either, so that its numbers do not depend on the rows beside it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from asr_service.model.cpu_encoder.isa.amx import COLUMNS
from asr_service.model.cpu_encoder.isa.vectors import (
    ADD,
    SWISH,
    add_row,
    dots,
    panel,
    store_row_float,
    swish_row_float,
)
from asr_service.model.cpu_encoder.kernels.rows import LOOSE

PANEL = 6
"""Rows whose sums with 16 columns stay in the registers of a processor that has sixteen of eight numbers each."""
_panel = panel(PANEL)
_dots_1, _dots_2, _dots_4 = dots(1), dots(2), dots(4)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def float_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts):  # type: ignore[no-untyped-def]
    """As `cpu_split.split_block`, on vectors.

    Args:
        a: float32 [rows, at least depth].
        out: float32 [rows, at least columns].
        parts: not used.
    """
    size = np.int64(depth) * COLUMNS * 4
    first = np.int64(block * COLUMNS)
    here = np.int64(weights.ctypes.data) + np.int64(base) * 4 + np.int64(block) * size
    there = here + np.int64(coming - block) * size if coming >= 0 else np.int64(0)
    total = np.int64(sums.ctypes.data)
    shift = np.int64(bias.ctypes.data) + first * 4
    stride = np.int64(a.shape[1] * 4)
    width = np.int64(x.shape[1] * 4)
    result = np.int64(x.ctypes.data) + first * 4
    if kind != ADD:
        width = np.int64(out.shape[1] * 4)
        result = np.int64(out.ctypes.data) + first * 4
    # The next block is asked for bit by bit: each panel of rows has its share of the lines.
    share = size // (2 * ((rows + PANEL - 1) // PANEL))
    step = share // np.int64(depth)
    row = turn = 0
    while row < rows:
        begin, count = row, min(rows - row, 4)
        if rows >= PANEL:
            begin, count = min(row, rows - PANEL), PANEL  # the last one may do rows again
        place = np.int64(a.ctypes.data) + begin * stride
        if rows >= PANEL:
            for half in range(2):
                ahead = there + turn * share if coming >= 0 and step > 0 else np.int64(0)
                _panel(place, stride, here + half * 64, np.int64(depth), ahead, step, total + half * 64)
                turn += 1
        elif count == 1:
            _dots_1(place, stride, here, np.int64(depth), there, total)
        elif count == 2:
            _dots_2(place, stride, here, np.int64(depth), there, total)
        else:
            # Of three, the scratch row behind them is computed too.
            _dots_4(place, stride, here, np.int64(depth), there, total)
        for r in range(row - begin, count):
            if kind == ADD:
                add_row(total + r * 128, shift, result + (begin + r) * width)
            elif kind == SWISH:
                swish_row_float(total + r * 128, shift, result + (begin + r) * width)
            else:
                store_row_float(total + r * 128, shift, result + (begin + r) * width)
        row = begin + count
