"""Resampling and G.711 against SoX; golden/make_sox.sh made its side."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_service.core.values import Encoding, Samples
from asr_service.recognition.audio import AudioReader

SOX = Path(__file__).parent / "golden" / "sox"
RATES = [8_000, 11_025, 22_050, 44_100, 48_000]
LAWS = {"mu-law": Encoding.MULAW, "a-law": Encoding.ALAW}
SPEECH_HZ = 3_400
FULL_BAND = 0.85
"""Of the lower rate's Nyquist frequency: above it the two filters begin to fall off, each in its own way.

Their 85 dB of likeness are the limit of the 16-bit source, less a bit and a half.
"""


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Packets of `size` bytes; of any size if that is 0."""
    rng = random.Random(5)
    place = 0
    while place < len(data):
        step = size or rng.randint(1, 3_000)
        yield data[place : place + step]
        place += step


def read_all(reader: AudioReader, packets: Iterator[bytes]) -> Samples:
    """Everything a stream's packets make."""
    return np.concatenate([*(reader.read(packet) for packet in packets), reader.flush()])


def likeness_db(ours: Samples, theirs: Samples, below_hz: float) -> float:
    """Level of their signal over the difference, of what lies below a frequency, in dB."""
    window = np.hanning(len(theirs))
    spectra = [np.fft.rfft(signal * window) for signal in (theirs, ours - theirs)]
    band = np.fft.rfftfreq(len(theirs), 1 / 16_000) <= below_hz
    signal, difference = (float((np.abs(spectrum[band]) ** 2).sum()) for spectrum in spectra)
    return 10 * math.log10(signal / difference)


@pytest.mark.parametrize("rate", RATES)
def test_resampled_speech_is_what_sox_makes(rate: int) -> None:
    """No delay is taken off: a sample lies where it lay."""
    speech, source_rate = soundfile.read(SOX / f"speech-{rate}.flac", dtype="int16")
    theirs, target_rate = soundfile.read(SOX / f"speech-{rate}-at-16000.flac", dtype="float32")
    assert (source_rate, target_rate) == (rate, 16_000)
    data = speech.astype("<i2").tobytes()
    made = [
        read_all(AudioReader(Encoding.LINEAR16, rate, 16_000), pieces(data, size))
        for size in (1, 640, 0, len(data))
    ]
    assert all(np.array_equal(other, made[0]) for other in made[1:]), "packets do not matter"
    assert abs(len(made[0]) - len(theirs)) <= 1  # one rounds the length, the other takes all of it
    count = min(len(made[0]), len(theirs))
    ours, theirs = made[0][:count], theirs[:count]
    assert likeness_db(ours, theirs, SPEECH_HZ) > 85
    assert likeness_db(ours, theirs, FULL_BAND * min(rate, 16_000) / 2) > 85


@pytest.mark.parametrize(("law", "name"), list(itertools.product(LAWS, ["every", "speech"])))
def test_g711_is_decoded_as_sox_decodes_it(law: str, name: str) -> None:
    data = (SOX / f"{name}.{law}").read_bytes()
    assert name == "speech" or data == bytes(range(256))
    theirs = np.frombuffer((SOX / f"{name}.{law}.s16").read_bytes(), "<i2")
    for size in (1, 7, 160, 0, len(data)):
        ours = read_all(AudioReader(LAWS[law], 8_000, 8_000), pieces(data, size)) * 32768
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("law", LAWS)
def test_telephone_speech_at_the_models_rate(law: str) -> None:
    """Decoded and resampled: as near to what SoX makes of the original as G.711 is, for any packets."""
    data = (SOX / f"speech.{law}").read_bytes()
    made = [
        read_all(AudioReader(LAWS[law], 8_000, 16_000), pieces(data, size)) for size in (1, 160, 0, len(data))
    ]
    assert all(np.array_equal(other, made[0]) for other in made[1:])
    theirs, _ = soundfile.read(SOX / "speech-8000-at-16000.flac", dtype="float32")
    assert likeness_db(made[0], theirs, SPEECH_HZ) > 30
