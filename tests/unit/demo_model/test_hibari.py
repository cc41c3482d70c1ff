"""The speakers that hibari's voice is turned into: what is drawn, and what becomes of pitch and spectra."""

from __future__ import annotations

import random

import numpy as np
import pytest

from demo_model import hibari


def test_speakers_go_from_low_and_long_to_high_and_short() -> None:
    rng = random.Random(1)
    drawn = [hibari.draw(rng) for _ in range(4000)]
    pitch, tract, lively = np.array([hibari.parts(name) for name, _ in drawn]).T
    assert len({name for name, _ in drawn}) > 3900
    assert (pitch.min(), pitch.max()) == pytest.approx((0.5, 1.4), abs=0.01)
    assert tract[pitch < 0.6].mean() < 0.9 < 1.1 < tract[pitch > 1.3].mean()
    assert (lively.min(), lively.max()) == pytest.approx((0.5, 1.5), abs=0.01)
    assert {0.75, 1.3} < {speed for _, speed in drawn}


def test_a_name_says_what_is_changed() -> None:
    assert hibari.parts("heart") == (1, 1, 1)
    assert hibari.parts("heart@0.62,0.88,1.10") == (0.62, 0.88, 1.1)
    with pytest.raises(ValueError, match="hibari has no voice 'emma'"):
        hibari.parts("emma@1,1,1")


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_a_peak_moves_with_the_vocal_tract(factor: float) -> None:
    spectra = np.zeros((601, 2), np.float32)
    spectra[100:301] = np.hanning(201)[:, None]  # its peak at bin 200
    moved = hibari.stretch(spectra, factor)
    assert moved.shape == spectra.shape
    assert moved.dtype == np.float32
    assert moved.argmax(axis=0).tolist() == [round(200 * factor)] * 2
    if factor == 1.0:
        np.testing.assert_array_equal(moved, spectra)


def test_pitch_keeps_its_swings_in_octaves() -> None:
    pitch = np.array([0, 100, 200, 0, 400], np.float32)
    same = hibari.repitch(pitch, 1.0, 1.0)
    np.testing.assert_allclose(same, pitch, rtol=1e-6)
    np.testing.assert_allclose(hibari.repitch(pitch, 0.6, 1.0), 0.6 * pitch, rtol=1e-6)
    np.testing.assert_allclose(
        hibari.repitch(pitch, 1.0, 0.5), [0, 200 / 2**0.5, 200, 0, 200 * 2**0.5], rtol=1e-6
    )
    assert hibari.repitch(pitch, 0.2, 1.0)[1] == 55  # no larynx is lower
    assert not hibari.repitch(np.array([0, 12], np.float32), 1.4, 1.0).any()
