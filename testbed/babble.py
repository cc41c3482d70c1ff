"""Makes audio for models with random weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=64)
def babble(seconds: float, seed: int, rate: int = 16_000) -> npt.NDArray[np.float32]:
    """Makes a signal with the rhythm of speech, gliding tones in bursts over faint noise: float32 [n], read only."""
    rng = np.random.default_rng(seed)
    n = int(seconds * rate)
    t = np.arange(n) / rate
    bursts = np.repeat(rng.uniform(0, 1, n // 1600 + 1) * (rng.random(n // 1600 + 1) < 0.8), 1600)[:n]
    tones = np.zeros(n)
    for base in rng.uniform(90, 3500, 8):
        tones += np.sin(
            2 * np.pi * base * t + 3 * np.sin(2 * np.pi * rng.uniform(1, 4) * t) + rng.uniform(0, 6)
        )
    signal = (0.03 * tones * bursts + rng.normal(0, 0.002, n)).astype(np.float32)
    # Whoever asks for it again gets the same array.
    signal.flags.writeable = False
    return signal
