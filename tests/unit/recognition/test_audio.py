from __future__ import annotations

import numpy as np
import pytest
import soxr

from asr_service.core.values import Encoding, Samples
from asr_service.recognition.audio import AudioReader, Resampler

RATES = [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000]
NOISE = np.random.default_rng(1).integers(-20_000, 20_000, 48_000).astype("<i2")


def read_all(reader: AudioReader, packets: list[bytes]) -> Samples:
    return np.concatenate([*(reader.read(packet) for packet in packets), reader.flush()])


def tone(rate: int, hertz: float, seconds: float = 1.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_linear16_is_the_integer_divided_by_32768() -> None:
    data = np.array([0, 1, -1, 32767, -32768], "<i2").tobytes()
    samples = AudioReader(Encoding.LINEAR16, 16_000, 16_000).read(data)
    assert samples.dtype == np.float32
    assert samples.tolist() == [0, 1 / 32768, -1 / 32768, 32767 / 32768, -1]


def test_floats_are_themselves_and_what_is_none_or_too_loud_is_mended() -> None:
    data = np.array([0, 0.25, -1, 1, 1.5, -3e38, np.nan, np.inf, -np.inf], "<f4").tobytes()
    reader = AudioReader(Encoding.FLOAT32, 16_000, 16_000)
    pieces = [reader.read(data[at : at + 3]) for at in range(0, len(data), 3)]
    assert np.concatenate(pieces).tolist() == [0, 0.25, -1, 1, 1, -1, 0, 1, -1]
    assert reader.bytes_for(10) == 40


@pytest.mark.parametrize(
    ("encoding", "known"),
    [
        (Encoding.MULAW, {0x00: -32124, 0x7F: 0, 0x80: 32124, 0xFF: 0, 0xFE: 8}),
        (Encoding.ALAW, {0x2A: -32256, 0xAA: 32256, 0x55: -8, 0xD5: 8}),
    ],
)
def test_g711_corner_values(encoding: Encoding, known: dict[int, int]) -> None:
    samples = AudioReader(encoding, 8_000, 8_000).read(bytes(known))
    assert (samples * 32768).tolist() == list(known.values())


def test_half_a_sample_waits_for_the_other_half_across_a_flush() -> None:
    reader = AudioReader(Encoding.LINEAR16, 16_000, 16_000)
    data = NOISE[:3].tobytes()
    first = reader.read(data[:3])
    assert reader.flush().size == 0
    assert np.array_equal(np.concatenate([first, reader.read(data[3:])]), NOISE[:3] / np.float32(32768))


def test_bytes_for_counts_the_half_sample_that_is_there() -> None:
    reader = AudioReader(Encoding.LINEAR16, 16_000, 16_000)
    assert reader.bytes_for(10) == 20
    reader.read(b"\x01")
    assert reader.bytes_for(10) == 19
    assert len(reader.read(bytes(19))) == 10
    assert AudioReader(Encoding.MULAW, 8_000, 16_000).bytes_for(10) == 5


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("packet", [1, 37, 640, 100_000])
def test_packets_do_not_change_what_is_resampled(rate: int, packet: int) -> None:
    data = NOISE[: rate // 4].tobytes()
    whole = read_all(AudioReader(Encoding.LINEAR16, rate, 16_000), [data])
    split = [data[start : start + packet] for start in range(0, len(data), packet)]
    assert np.array_equal(read_all(AudioReader(Encoding.LINEAR16, rate, 16_000), split), whole)
    assert len(whole) == -(-(rate // 4) * 16_000 // rate)


@pytest.mark.parametrize("rate", RATES)
def test_resampled_speech_band_equals_soxr(rate: int) -> None:
    rng = np.random.default_rng(rate)
    tones = [rng.uniform(0.1, 0.2) * tone(rate, hertz) for hertz in rng.uniform(100, 3400, 8)]
    band = np.sum(tones, axis=0)
    ours = Resampler(rate, 16_000)
    made = np.concatenate([ours.push(band), ours.flush()])
    theirs = soxr.resample(band, rate, 16_000, quality="VHQ")
    assert len(made) == len(theirs)
    assert np.abs(made - theirs)[500:-500].max() < 1e-4  # at the edges the two filters see different silence


@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000, 96_000, 192_000])
def test_what_the_lower_rate_cannot_hold_is_removed(rate: int) -> None:
    ours = Resampler(rate, 16_000)
    made = np.concatenate([ours.push(tone(rate, 9_000)), ours.flush()])
    assert np.abs(made)[500:-500].max() < 2e-4  # 68 dB below the tone


@pytest.mark.parametrize("rate", RATES)
def test_a_constant_stays_what_it_is(rate: int) -> None:
    made = Resampler(rate, 16_000).push(np.full(rate, 0.25, np.float32))
    assert np.abs(made[1_000:] - 0.25).max() < 1e-6


@pytest.mark.parametrize(
    ("rate", "lag_ms"), [(8_000, 6), (44_100, 13), (48_000, 4), (192_000, 4), (11_025, 45), (47_999, 45)]
)
def test_the_output_lags_by_milliseconds(rate: int, lag_ms: int) -> None:
    resampler = Resampler(rate, 16_000)
    made, packet = 0, rate // 50
    for number in range(1, 50):
        made += len(resampler.push(np.zeros(packet, np.float32)))
        assert number * packet * 1000 / rate - made / 16 <= lag_ms


@pytest.mark.parametrize("rate", [8_001, 12_345, 16_001, 16_012, 31_999, 47_999, 95_999, 191_999])
def test_odd_rates_are_taken_as_a_near_one(rate: int) -> None:
    resampler = Resampler(rate, 16_000)
    made = len(resampler.push(np.zeros(rate * 10, np.float32))) + len(resampler.flush())
    assert made == pytest.approx(160_000, rel=0.0008)


def test_after_a_flush_the_resampler_is_as_new() -> None:
    used, fresh = Resampler(8_000, 16_000), Resampler(8_000, 16_000)
    used.push(tone(8_000, 700))
    used.flush()
    assert used.flush().size == 0
    assert np.array_equal(used.push(tone(8_000, 300)), fresh.push(tone(8_000, 300)))


def test_a_single_sample_is_resampled() -> None:
    reader = AudioReader(Encoding.MULAW, 8_000, 16_000)
    assert read_all(reader, [b"\x00"]).size == 2


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive: 0"):
        AudioReader(Encoding.LINEAR16, 0, 16_000)
