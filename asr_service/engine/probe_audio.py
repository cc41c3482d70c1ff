"""Holds the audio of steps that nobody waits for: speech, so that they decode as many tokens as live streams do.

Of noise or silence a decoder makes hardly anything, and its rounds, which take a good part of a step, would be missing.
"""

from __future__ import annotations

import wave
from functools import lru_cache
from pathlib import Path

import numpy as np

from asr_service.core.step import Int32
from asr_service.core.values import Samples

_CLIP = Path(__file__).parents[1] / "assets/clips/clip1.wav"


class ProbeAudio:
    """Chunks of speech, one after the other, as `StepBatch` takes them.

    Args:
        rate: of the model, Hz.
        first_chunk_samples, chunk_samples: of the model.

    Attributes:
        memory: float32 [2 chunks, chunk_samples]: each chunk as the first one of a segment, then each as a later one.
        chunks: how many there are.
    """

    def __init__(self, rate: int, first_chunk_samples: int, chunk_samples: int) -> None:
        speech = _speech(rate)
        self.chunks = max(1, len(speech) // chunk_samples)
        later = np.resize(speech, (self.chunks, chunk_samples))
        first = later.copy()
        # A first chunk stands at the end of its row.
        first[:, : chunk_samples - first_chunk_samples] = 0.0
        self.memory: Samples = np.concatenate([first, later])

    def rows(self, streams: int, step: int) -> Int32:
        """Returns the rows of `memory` for a step, int32 [streams]: each stream goes on, each at another place."""
        chunks: Int32 = ((7 * np.arange(streams) + step) % self.chunks).astype(np.int32)
        return chunks if step == 0 else chunks + np.int32(self.chunks)


@lru_cache(4)
def probe_audio(rate: int, first_chunk_samples: int, chunk_samples: int) -> ProbeAudio:
    """Makes a `ProbeAudio`, once for each model."""
    return ProbeAudio(rate, first_chunk_samples, chunk_samples)


def _speech(rate: int) -> Samples:
    """Reads the clip at a sample rate."""
    with wave.open(str(_CLIP)) as file:
        of_clip = file.getframerate()
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    samples: Samples = pcm.astype(np.float32) / np.float32(32768)
    if rate == of_clip:
        return samples
    places = np.arange(0, len(samples), of_clip / rate)
    resampled: Samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
    return resampled
