"""What is written twice, in loops and in vector instructions: the exponential, the rounding, the cut in three."""

from __future__ import annotations

import numpy as np
from numba import njit

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa import bfloat16, vectors
from asr_service.model.cpu_encoder.kernels import rows
from tests.unit.model.cpu_encoder.intrinsics import (
    aligned,
    call,
    compiled_call,
    from_bfloat16,
    many_magnitudes,
    to_bfloat16,
)

COLUMNS = vectors.COLUMNS
ZEROS = np.zeros(COLUMNS, np.float32)


@njit
def _put(row: Array, out: Array) -> None:
    rows.put(row, out, 0, 0)


@njit
def _as_float(source: Array, buffer: Array) -> Array:
    return rows.as_float(source, buffer)


def test_exponential_is_right_to_two_units_in_the_last_place() -> None:
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    got = x.copy()
    rows.exponential(got, np.empty_like(got), len(got))
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(got - exact) / np.spacing(exact.astype(np.float32))).max() <= 2


def test_exponential_is_limited_at_both_ends() -> None:
    x = np.array([-1e30, -88, 89, 1e30], np.float32)
    rows.exponential(x, np.empty_like(x), len(x))
    assert (np.isfinite(x) & (x > 0)).all()
    assert x[0] == x[1] and x[2] == x[3]


def test_both_exponentials_make_the_same_swish() -> None:
    """To a unit or two: compilers fuse products and sums in the loop as they like."""
    for low in np.arange(-90, 90, COLUMNS / 8):
        x = (low + np.arange(COLUMNS) / 8).astype(np.float32)
        by_loop, by_vectors = x.copy(), np.empty_like(x)
        rows.swish(by_loop, np.empty_like(x), np.empty_like(x))
        call(vectors.swish_row_fp32, x, ZEROS, by_vectors)
        np.testing.assert_allclose(by_loop, by_vectors, rtol=5e-7, atol=1e-36)


def test_both_roundings_give_the_same_bits() -> None:
    """All that the upper half can be, with lower halves around the middle."""
    upper = np.arange(0, 0x10000, 5, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper | np.uint32(lower)).view(np.float32)
        x = x[np.isfinite(x)]
        x = x[: len(x) // COLUMNS * COLUMNS]
        by_loop, by_vectors = np.empty(len(x), np.uint16), np.empty(len(x), np.uint16)
        rows.write_row(x, by_loop)
        store = compiled_call(vectors.store_row_bf16, 3)
        for n in range(0, len(x), COLUMNS):
            store(x[n:].ctypes.data, ZEROS.ctypes.data, by_vectors[n:].ctypes.data)
        assert (by_loop == to_bfloat16(x)).all()
        # Adding the zero bias makes +0 of -0.
        differ = by_loop != by_vectors
        assert (x[differ] == 0).all()


def test_both_cuts_into_three_parts_give_the_same_bits() -> None:
    x = many_magnitudes(32, COLUMNS)
    by_vectors = aligned((3, 2, 16, 16, 2), np.uint16)
    call(vectors.cut_weights, x, by_vectors)
    in_rows = by_vectors.transpose(0, 2, 4, 1, 3).reshape(3, 32, COLUMNS)
    by_loop = np.zeros((3, 1, COLUMNS), np.uint16)
    for row in range(32):
        _put(x[row], by_loop)
        assert (by_loop[:, 0] == in_rows[:, row]).all()
        assert (from_bfloat16(by_loop).astype(np.float64).sum(axis=0)[0] == x[row]).all()


def test_cut_and_upper_half_of_one_number() -> None:
    for x in many_magnitudes(20):
        bits = int(x.view(np.uint32))
        assert call(bfloat16.upper_half, x) == bits >> 16
        assert np.float32(call(bfloat16.cut, x)).view(np.uint32) == bits & 0xFFFF0000


def test_rows_come_back_from_bfloat16() -> None:
    x = many_magnitudes(48)
    halves, back = to_bfloat16(x), np.empty(48, np.float32)
    rows.read_row(halves, back)
    assert (back == from_bfloat16(halves)).all()
    assert (_as_float(halves, np.empty(48, np.float32)) == back).all()
    rows.read_row(x, back)
    assert (back == x).all()


def test_normalise_is_layer_normalisation() -> None:
    x, weight, bias = many_magnitudes(3, 96)
    mean, variance = x.astype(np.float64).mean(), x.astype(np.float64).var()
    expected = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
    rows.normalise(x, weight, bias, np.float32(1e-5))
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)
