"""Audio made on the spot."""

from __future__ import annotations

import numpy as np

RATE = 16_000
FULL_SCALE = b"\xff\x7f" * RATE
"""What `faulty_service` fails at."""


def speechlike(seconds: float, seed: int = 0, rate: int = RATE) -> bytes:
    """Bursts of noise with pauses between, 16-bit mono: enough for the null model to have words and pauses to tell."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    loud = np.repeat(rng.random(count // (rate // 5) + 1) < 0.7, rate // 5)[:count]
    return (rng.uniform(-0.3, 0.3, count) * loud * 32767).astype("<i2").tobytes()


def silence(seconds: float, rate: int = RATE) -> bytes:
    """Digital silence, 16-bit mono."""
    return bytes(round(seconds * rate) * 2)


def cut(data: bytes, size: int) -> list[bytes]:
    """Packets of `size` bytes; the last may be shorter."""
    return [data[start : start + size] for start in range(0, len(data), size)]
