"""Augmentation of waveforms: level, noise, reverberation, clipping, the telephone band and lost packets.

All audio is 16 kHz float32. All that is random comes from the generator given, so equal seeds give equal samples.
"""

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


def music(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Make unit-power music: chords of plucked, trembling tones over a bass, four beats to a chord, with drums."""
    wave = np.zeros(samples + RATE)
    beat = round(RATE * 60 / rng.uniform(80, 140))
    root = rng.uniform(110, 220)
    steps = {False: (0, 4, 7), True: (0, 3, 7)}
    time = np.arange(RATE) / RATE
    for start in range(0, samples, beat):
        bar = (start // (4 * beat)) % 4
        base = (0, 5, 9, 7)[bar]
        chord = [base + step for step in steps[bar == 2]]
        tones = [
            rng.choice(chord) + 12 * rng.integers(0, 2),
            *((base - 12, *chord) if start // beat % 4 == 0 else ()),
        ]
        for tone in tones:
            hertz = root * 2 ** (tone / 12) * (1 + 0.002 * np.sin(2 * np.pi * 5 * time))
            phase = 2 * np.pi * np.cumsum(hertz) / RATE
            pluck = sum(np.sin(k * phase) * np.exp(-time * (2 + k)) / k for k in range(1, 7))
            wave[start : start + RATE] += pluck * np.minimum(1, time * 200)
        hit = rng.standard_normal(RATE // 8) * np.exp(-np.arange(RATE // 8) / RATE * 60)
        wave[start : start + RATE // 8] += rng.uniform(0.2, 0.8) * hit
    wave = wave[:samples]
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


def clip(audio: np.ndarray, over_db: float) -> np.ndarray:
    """Cut off what a microphone or line that is set `over_db` decibels too loud cannot carry; the level stays."""
    limit = float(np.abs(audio).max(initial=0.0)) * 10 ** (-over_db / 20)
    cut: np.ndarray = np.clip(audio, -limit, limit).astype(np.float32)
    return cut


def lost_packets(rng: np.random.Generator, packets: int, rate: float, burst: float = 2.0) -> np.ndarray:
    """Draw which of a call's packets never arrive, bool [packets]: a share of `rate` in runs of `burst` on average.

    A chain of two states: within a run each packet is the last with probability 1 / burst, and runs begin as often as
    the share asks for. The first packet arrives.
    """
    ends = 1 / max(1.0, burst)
    begins = min(1.0, ends * rate / max(1e-9, 1 - rate))
    draws = rng.random(packets)
    lost = np.zeros(packets, bool)
    for index in range(1, packets):
        lost[index] = draws[index] >= ends if lost[index - 1] else draws[index] < begins
    return lost


def drop_packets(
    rng: np.random.Generator, audio: np.ndarray, rate: float, conceal: bool, packet_ms: int = 20
) -> np.ndarray:
    """Lose packets on the way: silence in their place, or concealed as telephones do it.

    Concealment repeats the last pitch period that arrived, falling to nothing within 60 ms, which is the idea of
    G.711's appendix I without its cross-fades.
    """
    size = RATE * packet_ms // 1000
    lost = lost_packets(rng, -(-len(audio) // size), rate)
    out = audio.copy()
    for index in np.flatnonzero(lost):
        start = int(index) * size
        stop = min(len(out), start + size)
        out[start:stop] = 0
        if not conceal:
            continue
        first = int(index)
        while lost[first - 1]:
            first -= 1
        period = _period(out[max(0, first * size - RATE // 20) : first * size])
        if not len(period):
            continue
        place = np.arange(start, stop) - first * size
        fade = np.clip(1 - place / (0.06 * RATE), 0, 1)
        out[start:stop] = period[place % len(period)] * fade
    return out.astype(np.float32)


def _period(past: np.ndarray) -> np.ndarray:
    """Return the last pitch period (66 to 400 Hz) of what arrived; nothing where too little did."""
    shortest, longest = RATE // 400, RATE // 66
    if len(past) < 2 * longest:
        return past[:0]
    tail = past[-longest:]
    scores = [
        float(tail @ past[len(past) - longest - lag : len(past) - lag]) for lag in range(shortest, longest)
    ]
    return past[-(shortest + int(np.argmax(scores))) :]


def room(rng: np.random.Generator, audio: np.ndarray, dbfs: float) -> np.ndarray:
    """Let a room's own sound go on under the speech and its pauses, at `dbfs` decibels (RMS)."""
    kind = str(rng.choice(("pink", "brown", "band", "hum")))
    return (audio + noise(rng, len(audio), kind) * 10 ** (dbfs / 20)).astype(np.float32)


def distort(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """Apply a random mixture of the above to one training utterance, of which no sample moves in time."""
    kind = rng.choice(4, p=(0.3, 0.25, 0.25, 0.2))
    audio = set_peak(audio, rng.uniform(-20, -1))
    if kind in (1, 3):
        audio = reverberate(rng, audio)
    if rng.random() < 0.15:
        audio = clip(audio, rng.uniform(3, 15))
    if kind in (0, 3):
        audio = add_noise(rng, audio, rng.uniform(3, 25))
    if kind == 2 or (kind != 1 and rng.random() < 0.25):
        audio = telephone(audio)
        if rng.random() < 0.4:
            audio = drop_packets(rng, audio, rng.uniform(0.01, 0.1), conceal=bool(rng.random() < 0.6))
    return audio
