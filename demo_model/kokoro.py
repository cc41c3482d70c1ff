"""Kokoro-82M: natural speech, with the times of words and phonemes.

Text becomes phonemes (`spelling.py`), phonemes and a voice's style become samples (ONNX Runtime, one thread), and the
model's own lengths of its phonemes give the times. Nothing in it is random: equal calls give equal samples on machines
whose processors have the same instructions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from demo_model.espeak import Spoken
from demo_model.kokoro_model import LENGTHS, RATE, STEP
from demo_model.kokoro_voices import is_british, parts
from demo_model.spelling import Spelling, one_thread, package, times

STYLE = 256  # numbers a style has; a voice's file holds one style for every number of phonemes


class Kokoro:
    """The model, opened once in this process from the folder that `packages.fetch` made."""

    def __init__(self, packages: Path, spelling: Spelling) -> None:
        self._voices_folder = packages / "voices"
        self._spelling = spelling
        runtime = package(packages, "onnxruntime")
        self._session = runtime.InferenceSession(
            str(packages / "model.onnx"), one_thread(runtime), providers=["CPUExecutionProvider"]
        )
        self._styles: dict[str, np.ndarray] = {}

    def style(self, name: str, count: int) -> np.ndarray:
        """Return the style float32 [1, 256] of a voice or blend for a sentence of `count` phonemes."""
        total = np.zeros((1, STYLE), np.float32)
        for voice, weight in parts(name):
            if voice not in self._styles:
                path = self._voices_folder / f"{voice}.bin"
                if not path.exists():
                    raise ValueError(f"Kokoro has no voice {voice!r}")
                self._styles[voice] = np.fromfile(path, np.float32).reshape(-1, STYLE)
            styles = self._styles[voice]
            total += np.float32(weight) * styles[min(count, len(styles) - 1)]
        return total

    def say(self, text: str, voice: str, speed: float = 1.0) -> Spoken:
        """Speak a sentence of the grammar by a voice or a blend; at `speed` 2 it lasts half as long as at 1."""
        phonemes = self._spelling.phonemes(text, is_british(voice))
        inputs = {
            "tokens": self._spelling.numbers(phonemes),
            "style": self.style(voice, len(phonemes)),
            "speed": np.array([speed], np.float32),
        }
        audio, lengths = self._session.run(["audio", LENGTHS], inputs)
        if round(float(lengths.sum())) * STEP != len(audio):
            raise RuntimeError(f"Kokoro's phoneme lengths are not those of its samples: {text!r}")
        return Spoken(np.ascontiguousarray(audio, np.float32), RATE, *times(text, phonemes, lengths[0]))
