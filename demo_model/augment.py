"""Augmentation of waveforms: level, noise, reverberation and the telephone band. All audio is 16 kHz float32."""

from __future__ import annotations

import numpy as np
import soxr

RATE = 16000


def set_peak(audio: np.ndarray, dbfs: float) -> np.ndarray:
    """Scale so that the largest sample lies at `dbfs` decibels under full scale."""
    return (audio * (10 ** (dbfs / 20) / max(1e-6, float(np.abs(audio).max(initial=0.0))))).astype(np.float32)


def noise(rng: np.random.Generator, samples: int, kind: str = "") -> np.ndarray:
    """Make unit-power noise: white, pink, brown, mains hum, or a band whose level wanders."""
    kind = kind or str(rng.choice(("white", "pink", "brown", "band", "hum")))
    spectrum = np.fft.rfft(rng.standard_normal(samples + samples % 2))
    hertz = np.maximum(20.0, np.fft.rfftfreq(samples + samples % 2, 1 / RATE))
    if kind == "pink":
        spectrum /= np.sqrt(hertz)
    elif kind == "brown":
        spectrum /= hertz
    elif kind == "band":
        centre = rng.uniform(200, 4000)
        spectrum /= 1 + np.abs(np.log2(hertz / centre)) ** 3 * 4
    wave = np.fft.irfft(spectrum)[:samples]
    if kind == "band":
        steps = rng.uniform(0.2, 1.0, max(2, samples // 4000))
        wave *= np.interp(np.arange(samples), np.linspace(0, samples, len(steps)), steps)
    if kind == "hum":
        base = rng.choice((50.0, 60.0))
        time = np.arange(samples) / RATE
        wave = 0.3 * wave / wave.std() + sum(
            np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6)) / k for k in range(1, 6)
        )
    return (wave / max(1e-9, float(np.sqrt(np.mean(wave**2))))).astype(np.float32)


def add_noise(rng: np.random.Generator, audio: np.ndarray, snr_db: float, kind: str = "") -> np.ndarray:
    """Add noise `snr_db` decibels under the speech's power (over its louder parts)."""
    power = float(np.mean(np.sort(audio**2)[len(audio) // 2 :])) if len(audio) else 0.0
    mixed: np.ndarray = audio + noise(rng, len(audio), kind) * np.sqrt(power / 10 ** (snr_db / 10))
    return mixed.astype(np.float32)


def reverberate(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """Convolve with a made-up room: direct sound, a few early reflections, an exponential tail."""
    decay = rng.uniform(0.1, 0.5)  # seconds until the tail has fallen by 60 dB
    length = int(RATE * min(0.4, decay))
    room = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / RATE / decay)
    room *= rng.uniform(0.1, 0.5) / np.sqrt(np.sum(room**2))
    room[0] = 1.0
    for _ in range(rng.integers(1, 5)):
        room[rng.integers(20, max(21, min(length, 600)))] += rng.uniform(-0.4, 0.4)
    size = 1 << (len(audio) + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(room, size), size)[: len(audio)]
    return wet.astype(np.float32)


def mulaw(audio: np.ndarray) -> np.ndarray:
    """Quantise to 8 bit mu-law and back (the companding curve of G.711, mu = 255)."""
    code: np.ndarray = np.sign(audio) * np.log1p(255 * np.minimum(1, np.abs(audio))) / np.log(256)
    code = np.round(code * 127) / 127
    back: np.ndarray = np.sign(code) * np.expm1(np.abs(code) * np.log(256)) / 255
    return back.astype(np.float32)


def telephone(audio: np.ndarray, return_narrow: bool = False) -> np.ndarray:
    """Send through a telephone: 300 to 3400 Hz, 8 kHz, mu-law; back at 16 kHz unless `return_narrow`."""
    narrow = soxr.resample(audio, RATE, 8000, quality="HQ")
    size = len(narrow) + len(narrow) % 2
    hertz = np.fft.rfftfreq(size, 1 / 8000)
    gain = 1 / np.sqrt(1 + (250 / np.maximum(hertz, 1)) ** 6) / np.sqrt(1 + (hertz / 3500) ** 16)
    narrow = mulaw(np.fft.irfft(np.fft.rfft(narrow, size) * gain, size)[: len(narrow)].astype(np.float32))
    return narrow if return_narrow else soxr.resample(narrow, 8000, RATE, quality="HQ").astype(np.float32)


def distort(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """Apply a random mixture of the above to one training utterance."""
    kind = rng.choice(4, p=(0.3, 0.25, 0.25, 0.2))
    audio = set_peak(audio, rng.uniform(-20, -1))
    if kind in (1, 3):
        audio = reverberate(rng, audio)
    if kind in (0, 3):
        audio = add_noise(rng, audio, rng.uniform(3, 25))
    if kind == 2 or (kind != 1 and rng.random() < 0.25):
        audio = telephone(audio)
    return audio
