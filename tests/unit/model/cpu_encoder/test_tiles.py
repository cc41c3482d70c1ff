"""The tile unit, the processor's and the emulated one, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa.amx import PART_ORDER, ROWS, SUMS, TILE, tile_configuration
from asr_service.model.cpu_encoder.isa.tiles import (
    TileUnit,
    multiply_16,
    multiply_32,
    multiply_parts_16,
    multiply_parts_32,
    start_tiles,
    stop_tiles,
    store_sums,
    zero_sums,
)
from tests.support.tile_units import TILES
from tests.unit.model.cpu_encoder.intrinsics import aligned, from_bfloat16, to_bfloat16


@njit
def _run_16(tiles: TileUnit, sums: int, rows: int, stride: int, weights: int, times: int) -> None:
    start_tiles(tiles)
    zero_sums(tiles, sums)
    for _ in range(times):
        multiply_16(tiles, sums, rows, stride, weights)
    store_sums(tiles, sums)
    stop_tiles(tiles)


@njit
def _run_32(tiles: TileUnit, sums: int, rows: int, stride: int, weights: int, times: int) -> None:
    start_tiles(tiles)
    zero_sums(tiles, sums)
    for _ in range(times):
        multiply_32(tiles, sums, rows, stride, weights)
    store_sums(tiles, sums)
    stop_tiles(tiles)


@njit
def _run_parts_16(tiles: TileUnit, sums: int, rows: int, stride: int, plane: int, weights: int) -> None:
    start_tiles(tiles)
    zero_sums(tiles, sums)
    multiply_parts_16(tiles, sums, rows, stride, plane, weights)
    store_sums(tiles, sums)
    stop_tiles(tiles)


@njit
def _run_parts_32(tiles: TileUnit, sums: int, rows: int, stride: int, plane: int, weights: int) -> None:
    start_tiles(tiles)
    zero_sums(tiles, sums)
    multiply_parts_32(tiles, sums, rows, stride, plane, weights)
    store_sums(tiles, sums)
    stop_tiles(tiles)


def _numbers(*shape: int) -> Array:
    out = aligned(shape, np.uint16)
    out[:] = to_bfloat16(np.random.default_rng(7).standard_normal(shape).astype(np.float32))
    return out


def _unpacked(weights: Array) -> Array:
    """[half, pair of inputs, column, input of the pair] to float64 [input, column]."""
    return from_bfloat16(weights).astype(np.float64).transpose(1, 3, 0, 2).reshape(32, 32)


def _dirty_sums() -> Array:
    sums = aligned((ROWS, 32), np.float32)
    assert sums.size == SUMS
    sums[:] = 99
    return sums


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(("run", "rows"), [(_run_16, TILE), (_run_32, ROWS)])
def test_tiles_add_products_of_rows_and_weights(tiles: TileUnit, run: Callable[..., Any], rows: int) -> None:
    a, weights, sums = _numbers(ROWS, 48), _numbers(2, 16, 16, 2), _dirty_sums()
    run(tiles, sums.ctypes.data, a.ctypes.data, a.strides[0], weights.ctypes.data, 3)
    expected = 3 * from_bfloat16(a[:, :32]).astype(np.float64) @ _unpacked(weights)
    np.testing.assert_allclose(sums[:rows], expected[:rows], rtol=1e-5, atol=1e-4)
    assert not sums[rows:].any(), "other rows' sums are zero"


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(("run", "rows"), [(_run_parts_16, TILE), (_run_parts_32, ROWS)])
def test_tiles_add_six_products_of_three_parts(tiles: TileUnit, run: Callable[..., Any], rows: int) -> None:
    a, weights, sums = _numbers(3, ROWS, 48), _numbers(3, 2, 16, 16, 2), _dirty_sums()
    run(tiles, sums.ctypes.data, a.ctypes.data, a.strides[1], a.strides[0], weights.ctypes.data)
    parts = from_bfloat16(a[:, :, :32]).astype(np.float64)
    expected = sum(parts[i] @ _unpacked(weights[j]) for i, j in PART_ORDER)
    np.testing.assert_allclose(sums[:rows], expected[:rows], rtol=1e-5, atol=1e-4)
    assert not sums[rows:].any()


def test_the_six_products_are_those_a_float32_can_tell() -> None:
    """Part p is 2^-8p as large as the whole: products of parts whose numbers add up to three or more are lost."""
    assert sorted(PART_ORDER) == [(i, j) for i in range(3) for j in range(3) if i + j < 3]


def test_configuration_is_eight_full_tiles() -> None:
    """As the manual has it: palette, start row, 14 reserved bytes, 16 x bytes of a row, 16 x rows."""
    configuration = tile_configuration()
    assert configuration.nbytes == 64
    assert configuration[:16].tolist() == [1] + 15 * [0]
    assert configuration[16:48].view(np.uint16).tolist() == 8 * [64] + 8 * [0]
    assert configuration[48:].tolist() == 8 * [16] + 8 * [0]
