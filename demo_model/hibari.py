"""Hibari: one of Kokoro's voices, distilled into a small network, and turned into as many speakers as are wanted.

The network gives spectra of the voiced and the unvoiced part and the pitch, from which its package makes samples. In
between, pitch and spectra can be changed: another pitch, livelier or flatter, is another larynx, a stretched frequency
axis another vocal tract. It speaks some fifty times faster than Kokoro on one core.

A speaker's name is `heart@0.62,0.88,1.10`: the voice, how many times its pitch, its frequencies, and its liveliness.
Equal calls give equal samples, noise included.
"""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from demo_model.espeak import Spoken
from demo_model.spelling import Spelling, one_thread, package, times

VOICE = "heart"
RATE = 24000
_LENGTHS = "/Clip_output_0"  # how long each phoneme is, as Kokoro counts it: made an output
_VOICED_HZ = 40.0  # what the network gives where there is no voice is below
_LOWEST_HZ, _HIGHEST_HZ = 55.0, 480.0
# Pitch and vocal tract go together, from low and long to high and short, and vary around that.
_LOW, _HIGH = (0.5, 0.84), (1.4, 1.16)
_TRACT_SPREAD = 0.06
_FLATTEST, _LIVELIEST = 0.5, 1.5
SLOWEST, FASTEST = 0.75, 1.3


def draw(rng: random.Random) -> tuple[str, float]:
    """Draw a speaker and a speed."""
    place = rng.random()
    pitch = _LOW[0] * (_HIGH[0] / _LOW[0]) ** place
    tract = _LOW[1] * (_HIGH[1] / _LOW[1]) ** place + rng.uniform(-_TRACT_SPREAD, _TRACT_SPREAD)
    lively = rng.uniform(_FLATTEST, _LIVELIEST)
    return f"{VOICE}@{pitch:.2f},{tract:.2f},{lively:.2f}", round(rng.uniform(SLOWEST, FASTEST), 2)


def parts(name: str) -> tuple[float, float, float]:
    """Split a speaker's name into pitch, vocal tract and liveliness, each 1 for the voice itself."""
    voice, _, numbers = name.partition("@")
    if voice != VOICE:
        raise ValueError(f"hibari has no voice {voice!r}")
    pitch, tract, lively = (float(number) for number in numbers.split(",")) if numbers else (1.0, 1.0, 1.0)
    return pitch, tract, lively


def stretch(spectra: np.ndarray, factor: float) -> np.ndarray:
    """Move what is at a frequency to `factor` times that; float32 [bins, frames], linear between bins."""
    last = len(spectra) - 1
    place = np.minimum(np.arange(len(spectra)) / factor, last)
    low = np.minimum(place.astype(np.int64), last - 1)
    part = (place - low).astype(np.float32)[:, None]
    stretched: np.ndarray = spectra[low] * (1 - part) + spectra[low + 1] * part
    return stretched


def repitch(pitch_hz: np.ndarray, factor: float, lively: float) -> np.ndarray:
    """Multiply the mean pitch by `factor` and its swings, in octaves, by `lively`; 0 where there is no voice."""
    voiced = pitch_hz > _VOICED_HZ
    if not voiced.any():
        return np.zeros_like(pitch_hz)
    mean = float(np.exp(np.log(pitch_hz[voiced]).mean()))
    changed = mean * factor * (np.maximum(pitch_hz, 1.0) / mean) ** lively
    return np.where(voiced, np.clip(changed, _LOWEST_HZ, _HIGHEST_HZ), 0.0).astype(np.float32)


class Hibari:
    """The network, opened once in this process from the folder that `packages.fetch` made."""

    def __init__(self, packages: Path, spelling: Spelling) -> None:
        self._spelling = spelling
        self._dsp = package(packages, "hibari.dsp")
        runtime = package(packages, "onnxruntime")
        model = onnx.load(str(packages / "site" / "hibari" / "assets" / "hibari.onnx"))
        model.graph.output.append(helper.make_empty_tensor_value_info(_LENGTHS))
        self._session = runtime.InferenceSession(
            model.SerializeToString(), one_thread(runtime), providers=["CPUExecutionProvider"]
        )

    def say(self, text: str, voice: str, speed: float = 1.0) -> Spoken:
        """Speak a sentence of the grammar by a speaker; at `speed` 2 it lasts half as long as at 1."""
        pitch, tract, lively = parts(voice)
        phonemes = self._spelling.phonemes(text, british=False)
        inputs = {"ids": self._spelling.numbers(phonemes), "speed": np.array([speed], np.float32)}
        *spectra, pitch_hz, lengths = self._session.run(None, inputs)
        noise = np.random.default_rng(zlib.crc32(f"{voice} {speed} {text}".encode()))
        audio = self._dsp.synth(
            *(stretch(part[0], tract) for part in spectra), repitch(pitch_hz[0], pitch, lively), noise
        )
        return Spoken(np.ascontiguousarray(audio, np.float32), RATE, *times(text, phonemes, lengths))
