"""Telephone lines in the log-mel domain, where batches are made: what `augment.py` does to samples, done to frames.

Shards hold features, so what happens to a training example anew each time it is drawn has to happen to these. The
functions change nothing in place, move no frame in time, and draw from the generator that is given.
"""

from __future__ import annotations

from functools import cache

import librosa
import numpy as np

from demo_model.augment import lost_packets
from demo_model.features import FLOOR, LOG_FLOOR, MELS, RATE

PACKET = 2  # mel frames of 10 ms
CONCEALED = 3  # packets: what is repeated has fallen to nothing by then
_MULAW_DB = 37.0  # mu-law's noise lies so far under the speech of the moment


@cache
def _gains() -> np.ndarray:
    """Power gains float32 [80] of the line of `augment.telephone`; nothing comes through above 4 kHz."""
    hertz = np.maximum(1.0, librosa.mel_frequencies(MELS + 2, fmin=0, fmax=RATE / 2)[1:-1])
    gains = 1 / (1 + (250 / hertz) ** 6) / (1 + (hertz / 3500) ** 16)
    narrow: np.ndarray = np.where(hertz < 4000, gains, 1e-9).astype(np.float32)
    return narrow


def telephone(features: np.ndarray) -> np.ndarray:
    """Send frames float32 [frames, 80] through a telephone: its band, and the noise of its 8 bits a sample."""
    gains = _gains()
    power = np.exp(features) * gains
    noise = power.mean(axis=1, keepdims=True) * np.float32(10 ** (-_MULAW_DB / 10)) * (gains > 1e-6)
    heard: np.ndarray = np.log(power + noise + np.float32(FLOOR)).astype(np.float32)
    return heard


def drop_packets(rng: np.random.Generator, features: np.ndarray, rate: float, conceal: bool) -> np.ndarray:
    """Lose packets of two frames: silence in their place, or what came last, falling to nothing within 60 ms."""
    lost = lost_packets(rng, -(-len(features) // PACKET), rate)
    out = features.copy()
    run = 0
    for index, gone in enumerate(lost):
        run = run + 1 if gone else 0
        if not gone:
            continue
        here = slice(index * PACKET, (index + 1) * PACKET)
        out[here] = LOG_FLOOR
        if conceal and run <= CONCEALED:
            last = (index - run + 1) * PACKET - 1
            fade = 2 * np.log(1 - (run - 0.5) / CONCEALED)
            out[here] = np.maximum(features[last] + np.float32(fade), LOG_FLOOR)
    return out


def line(rng: np.random.Generator, features: np.ndarray) -> np.ndarray:
    """Send one utterance through a drawn line: most often none, else a telephone, a lossy network, or both."""
    kind = rng.random()
    if kind < 0.12:
        features = telephone(features)
    if kind < 0.06 or 0.12 <= kind < 0.16:
        features = drop_packets(rng, features, rng.uniform(0.01, 0.1), conceal=bool(rng.random() < 0.6))
    return features
