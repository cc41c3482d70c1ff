"""Every vector intrinsic against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa import vectors
from tests.unit.model.cpu_encoder.intrinsics import aligned, call, from_bfloat16, many_magnitudes, to_bfloat16

COLUMNS = vectors.COLUMNS
RNG = np.random.default_rng(3)


def _normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def _swish(x: Array) -> Array:
    wide = x.astype(np.float64)
    return wide / (1 + np.exp(-wide))


def test_add_row_adds_sums_and_bias_to_the_target() -> None:
    sums, bias, target = _normal(COLUMNS), _normal(COLUMNS), _normal(COLUMNS)
    expected = target + (sums + bias)
    call(vectors.add_row, sums, bias, target)
    assert (target == expected).all()


def test_store_row_fp32_stores_sums_and_bias() -> None:
    sums, bias, target = _normal(COLUMNS), _normal(COLUMNS), np.zeros(COLUMNS + 1, np.float32)
    call(vectors.store_row_fp32, sums, bias, target)
    assert (target[:COLUMNS] == sums + bias).all()
    assert target[COLUMNS] == 0


def test_store_row_bf16_rounds_to_nearest_even() -> None:
    sums = _normal(COLUMNS)
    # Just between two bfloat16 numbers, below an even one and below an odd one, and a little beside the middle.
    sums[:4] = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF], np.uint32).view(np.float32)
    target = np.zeros(COLUMNS + 1, np.uint16)
    call(vectors.store_row_bf16, sums, np.zeros(COLUMNS, np.float32), target)
    assert target[:4].tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F81]
    assert (target[:COLUMNS] == to_bfloat16(sums)).all()
    assert target[COLUMNS] == 0


def test_swish_row_fp32_over_its_whole_range() -> None:
    for low in np.arange(-100, 100, COLUMNS):
        sums = np.arange(low, low + COLUMNS, dtype=np.float32)
        target = np.zeros(COLUMNS, np.float32)
        call(vectors.swish_row_fp32, sums, np.full(COLUMNS, 0.25, np.float32), target)
        np.testing.assert_allclose(target, _swish(sums + np.float32(0.25)), rtol=1e-6, atol=1e-35)


def test_swish_row_bf16_is_the_rounded_one() -> None:
    sums, bias = 4 * _normal(COLUMNS), _normal(COLUMNS)
    whole, target = np.zeros(COLUMNS, np.float32), np.zeros(COLUMNS, np.uint16)
    call(vectors.swish_row_fp32, sums, bias, whole)
    call(vectors.swish_row_bf16, sums, bias, target)
    assert (target == to_bfloat16(whole)).all()


def test_swish_row_parts_add_up_to_the_whole() -> None:
    sums, bias = 4 * _normal(COLUMNS), _normal(COLUMNS)
    whole, target = np.zeros(COLUMNS, np.float32), np.zeros((3, 2 * COLUMNS), np.uint16)
    call(vectors.swish_row_fp32, sums, bias, whole)
    call(vectors.swish_row_parts, sums, bias, target, np.int64(target.strides[0]))
    assert (from_bfloat16(target[:, :COLUMNS]).astype(np.float64).sum(axis=0) == whole).all()
    assert not target[:, COLUMNS:].any()


def test_cut_weights_are_in_the_order_of_tiles_and_add_up() -> None:
    source, target = many_magnitudes(32, COLUMNS), aligned((3, 2, 16, 16, 2), np.uint16)
    call(vectors.cut_weights, source, target)
    parts = from_bfloat16(target).astype(np.float64)
    # [half, pair of inputs, column, input of the pair] back to [input, column].
    whole = parts.sum(axis=0).transpose(1, 3, 0, 2).reshape(32, COLUMNS)
    assert (whole == source).all()
    # Each part has what the one before it left: 8 bits less.
    assert (np.abs(parts[1]) <= np.abs(parts[0]) * 2.0**-7).all()


def _product(a: Array, weights: Array) -> Array:
    return a.astype(np.float64) @ weights.astype(np.float64)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("prefetching", [False, True])
def test_dots_are_rows_times_a_block(count: int, prefetching: bool) -> None:
    depth = 40
    a, weights, sums = (
        _normal(count, depth + 8),
        _normal(depth, COLUMNS),
        np.zeros((count + 1, COLUMNS), np.float32),
    )
    next_weights: Any = weights if prefetching else np.int64(0)
    call(vectors.dots(count), a, np.int64(a.strides[0]), weights, np.int64(depth), next_weights, sums)
    np.testing.assert_allclose(sums[:count], _product(a[:, :depth], weights), atol=1e-5)
    assert not sums[count:].any()


@pytest.mark.parametrize("prefetching", [False, True])
def test_panel_is_rows_times_half_a_block(prefetching: bool) -> None:
    count, depth = 6, 40
    a, weights, sums = (
        _normal(count, depth + 8),
        _normal(depth, COLUMNS),
        np.zeros((count + 1, COLUMNS), np.float32),
    )
    expected = _product(a[:, :depth], weights)
    ahead: Any = weights if prefetching else np.int64(0)
    for half in range(2):
        assert not sums[:, half * 16 :].any()
        offset = np.int64(half * 64)
        call(
            vectors.panel(count), a, np.int64(a.strides[0]), np.int64(weights.ctypes.data) + offset, np.int64(depth),
            ahead, np.int64(64), np.int64(sums.ctypes.data) + offset,
        )  # fmt: skip
    np.testing.assert_allclose(sums[:count], expected, atol=1e-5)
    assert not sums[count:].any()


def test_panel_and_dots_add_in_the_same_order() -> None:
    """So that a row's numbers do not depend on the rows beside it."""
    depth = 96
    a, weights = many_magnitudes(6, depth), _normal(depth, COLUMNS)
    panel, dots = np.zeros((6, COLUMNS), np.float32), np.zeros((1, COLUMNS), np.float32)
    stride, none = np.int64(a.strides[0]), np.int64(0)
    call(vectors.panel(6), a, stride, weights, np.int64(depth), none, none, panel)
    for row in range(6):
        call(vectors.dots(1), a[row], stride, weights, np.int64(depth), none, dots)
        assert (dots[0, :16] == panel[row, :16]).all()
