"""What is done to training audio, as samples and as log-mels: of the right strength, in place, equal by the seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from demo_model import augment, lines
from demo_model.features import LOG_FLOOR, RATE, log_mel

Distortion = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def voiced(seconds: float = 1.0) -> np.ndarray:
    """A tone of 125 Hz with its overtones, at -6 dBFS."""
    time = np.arange(round(RATE * seconds)) / RATE
    wave = sum(np.sin(2 * np.pi * 125 * k * time) / k for k in range(1, 40))
    return augment.set_peak(np.asarray(wave, np.float32), -6)


SAMPLES: list[Distortion] = [
    augment.reverberate,
    augment.distort,
    lambda rng, audio: augment.add_noise(rng, audio, 10),
    lambda rng, audio: augment.room(rng, audio, -50),
    lambda rng, audio: augment.drop_packets(rng, audio, 0.3, conceal=True),
    lambda rng, audio: augment.drop_packets(rng, audio, 0.3, conceal=False),
    lambda rng, audio: augment.music(rng, len(audio)),
]


@pytest.mark.parametrize("distortion", SAMPLES)
def test_equal_seeds_give_equal_samples_and_as_many(distortion: Distortion) -> None:
    audio = voiced()
    before = audio.copy()
    one, two = (distortion(np.random.default_rng(4), audio) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(audio, before)
    assert (one.dtype, one.shape) == (np.float32, audio.shape)
    assert np.isfinite(one).all() and not np.array_equal(one, audio)
    assert not np.array_equal(one, distortion(np.random.default_rng(5), audio))


def test_clipping_cuts_what_is_over_and_leaves_the_rest() -> None:
    audio = voiced()
    clipped = augment.clip(audio, 6)
    limit = np.abs(audio).max() * 10 ** (-6 / 20)
    assert np.abs(clipped).max() == pytest.approx(limit)
    quiet = np.abs(audio) < limit
    np.testing.assert_array_equal(clipped[quiet], audio[quiet])
    assert 0.02 < np.mean(~quiet) < 0.5


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.4])
def test_packets_are_lost_as_often_as_asked_for_and_in_runs(rate: float) -> None:
    lost = augment.lost_packets(np.random.default_rng(1), 200_000, rate, burst=2.5)
    assert lost.mean() == pytest.approx(rate, rel=0.1)
    runs = np.count_nonzero(np.diff(lost.astype(int)) == 1)
    assert lost.sum() / runs == pytest.approx(2.5, rel=0.1)
    assert not lost[0]


def test_lost_packets_are_silent_or_go_on_like_the_voice_before_them() -> None:
    audio = voiced(4.0)
    lost = augment.lost_packets(np.random.default_rng(3), 200, 0.2)
    gone = np.repeat(lost, RATE // 50)
    silent, concealed = (
        augment.drop_packets(np.random.default_rng(3), audio, 0.2, conceal=conceal)
        for conceal in (False, True)
    )
    for heard in (silent, concealed):
        np.testing.assert_array_equal(heard[~gone], audio[~gone])
    assert not silent[gone].any()
    # The first lost packet of a run repeats the voice's period of 8 ms, so it falls together with what was lost.
    first = np.repeat(lost & ~np.roll(lost, 1), RATE // 50)
    assert np.corrcoef(concealed[first], audio[first])[0, 1] > 0.9
    # After 60 ms of loss nothing is left.
    long = np.flatnonzero(lost[:-3] & lost[1:-2] & lost[2:-1] & lost[3:])
    assert len(long)
    assert not concealed[(long[0] + 3) * RATE // 50 : (long[0] + 4) * RATE // 50].any()


def test_music_and_a_room_are_as_loud_as_said() -> None:
    rng = np.random.default_rng(2)
    assert np.sqrt(np.mean(augment.music(rng, 5 * RATE) ** 2)) == pytest.approx(1, rel=1e-3)
    room = augment.room(rng, np.zeros(RATE, np.float32), -40)
    assert 20 * np.log10(np.sqrt(np.mean(room**2))) == pytest.approx(-40, abs=0.1)


def test_a_telephone_made_of_log_mels_is_like_one_made_of_samples() -> None:
    rng = np.random.default_rng(6)
    audio = augment.set_peak(augment.noise(rng, RATE, "pink"), -6)
    wanted, found = log_mel(augment.telephone(audio)), lines.telephone(log_mel(audio))
    difference = (found - wanted).mean(axis=0)
    assert np.abs(difference[5:50]).max() < 1.0  # 220 Hz to 3.3 kHz: within 4 dB
    assert found[:, 62:].max() == pytest.approx(LOG_FLOOR, abs=0.7)  # above 4 kHz nothing comes through
    assert (wanted[:, 62:] - LOG_FLOOR).mean() < 3


@pytest.mark.parametrize("conceal", [False, True])
def test_log_mels_of_lost_packets_are_silent_or_fade(conceal: bool) -> None:
    features = np.random.default_rng(0).normal(0, 1, (400, 80)).astype(np.float32)
    before = features.copy()
    found = lines.drop_packets(np.random.default_rng(8), features, 0.2, conceal)
    np.testing.assert_array_equal(features, before)
    lost = np.repeat(augment.lost_packets(np.random.default_rng(8), 200, 0.2), lines.PACKET)
    np.testing.assert_array_equal(found[~lost], features[~lost])
    start = int(np.flatnonzero(lost)[0])
    if conceal:
        fall = features[start - 1] - found[start]
        np.testing.assert_allclose(fall, fall[0], atol=1e-4)
        assert 0 < fall[0] < 1
    else:
        assert (found[lost] == np.float32(LOG_FLOOR)).all()


def test_lines_are_drawn_from_the_seed_alone() -> None:
    features = np.random.default_rng(0).normal(0, 1, (200, 80)).astype(np.float32)

    def drawn(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [lines.line(rng, features) for _ in range(200)]

    one, two = drawn(1), drawn(1)
    assert all(np.array_equal(first, second) for first, second in zip(one, two, strict=True))
    changed = sum(not np.array_equal(first, features) for first in one)
    assert 10 < changed < 60
