"""Kokoro-82M: natural speech, with the times of words and phonemes.

Text becomes phonemes (hibari-tts), phonemes and a voice's style become samples (ONNX Runtime, one thread), and the
model's own lengths of its phonemes give the times. Nothing in it is random: equal calls give equal samples on machines
whose processors have the same instructions.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from demo_model import words
from demo_model.espeak import Spoken
from demo_model.kokoro_model import LENGTHS, RATE, STEP
from demo_model.kokoro_voices import is_british, parts

PREFIX = "kokoro:"
STYLE = 256  # numbers a style has; a voice's file holds one style for every number of phonemes
_STEP_MS = 1000.0 * STEP / RATE
# The samples run two steps ahead of the lengths: measured over 20 sentences, where s and sh are sharpest and vowels
# loudest.
AHEAD = 2
_STRESS, _LONGER, _SPACE = "ˈˌ", "ː", " "
_NAMES = frozenset((*words.FIRST_NAMES, *words.LAST_NAMES))
_QUESTIONS = frozenset(
    "what what's when where where's which who who's whom why how can could do does did is are will would may".split()
)
# Names that the dictionaries lack and whose letters mislead: American and British.
_SAID = {
    "campbell": ("kˈæmbᵊl", "kˈambᵊl"), "davis": ("dˈAvəs", "dˈAvɪs"), "evans": ("ˈɛvənz", "ˈɛvənz"),
    "garcia": ("ɡɑɹsˈiə", "ɡɑːsˈɪə"), "gibson": ("ɡˈɪbsən", "ɡˈɪbsən"), "lucas": ("lˈukəs", "lˈuːkəs"),
    "martinez": ("mɑɹtˈinɛz", "mɑːtˈiːnɛz"),
}  # fmt: skip


def written(text: str, british: bool) -> str:
    """Write a sentence of the grammar as people do, which the phonemes and the melody depend on."""
    tokens = text.split()
    for index, token in enumerate(tokens):
        if token in _SAID:
            tokens[index] = f"[{token.capitalize()}](/{_SAID[token][british]}/)"
        elif token in _NAMES or token == "i" or token.startswith("i'"):
            tokens[index] = token.capitalize()
    question = tokens[0] in _QUESTIONS and len(tokens) > 2
    return " ".join(tokens) + ("?" if question else ".")


def times(
    text: str, phonemes: str, lengths: np.ndarray
) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[str, float], ...]]:
    """Give words (offset in `text`, start ms) and phonemes (mnemonic, start ms) their times.

    `lengths` [phonemes + 2] are steps of 25 ms, with the silence before and after. A mark of stress belongs to the
    sound after it, a mark of length to the one before it. No words where there is not one group of phonemes for each.
    """
    starts = np.maximum(0.0, np.concatenate(([0.0], np.cumsum(lengths))) - AHEAD) * _STEP_MS
    found = [(f"{PREFIX}_", 0.0)]
    groups: list[float] = []
    pending: float | None = None
    fresh = True
    for index, mark in enumerate(phonemes):
        start = float(starts[index + 1])
        if mark == _LONGER:
            continue
        if mark in _STRESS:
            pending = start if pending is None else pending
            continue
        start, pending = (start if pending is None else pending), None
        found.append((PREFIX + mark, start))
        if mark == _SPACE:
            fresh = True
        elif fresh:
            groups.append(start)
            fresh = False
    found.append((f"{PREFIX}_", float(starts[len(phonemes) + 1])))
    tokens = text.split()
    if len(groups) != len(tokens):
        return (), tuple(found)
    offsets: list[int] = []
    for token in tokens:
        offsets.append(text.index(token, offsets[-1] + len(tokens[len(offsets) - 1]) if offsets else 0))
    return tuple(zip(offsets, groups, strict=True)), tuple(found)


class Kokoro:
    """The model and the two dictionaries, opened once in this process from the folder that `packages.fetch` made."""

    def __init__(self, packages: Path) -> None:
        self._voices_folder = packages / "voices"
        site = packages / "site"
        if str(site) not in sys.path:
            sys.path.insert(0, str(site))
        runtime: Any = importlib.import_module("onnxruntime")
        g2p: Any = importlib.import_module("hibari.g2p")
        self._g2p = {british: g2p.G2P(british=british) for british in (False, True)}
        self._ids: dict[str, int] = json.loads(
            (site / "hibari" / "assets" / "vocab.json").read_text(encoding="utf-8")
        )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.use_deterministic_compute = True
        self._session = runtime.InferenceSession(
            str(packages / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._styles: dict[str, np.ndarray] = {}

    def phonemes(self, text: str, british: bool) -> str:
        """Spell a sentence of the grammar in the model's phonemes."""
        spelt: str = self._g2p[british](written(text, british))
        return "".join(mark for mark in spelt if mark in self._ids)

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
        phonemes = self.phonemes(text, is_british(voice))
        tokens = np.array([[0, *(self._ids[mark] for mark in phonemes), 0]], np.int64)
        inputs = {
            "tokens": tokens,
            "style": self.style(voice, len(phonemes)),
            "speed": np.array([speed], np.float32),
        }
        audio, lengths = self._session.run(["audio", LENGTHS], inputs)
        if round(float(lengths.sum())) * STEP != len(audio):
            raise RuntimeError(f"Kokoro's phoneme lengths are not those of its samples: {text!r}")
        return Spoken(np.ascontiguousarray(audio, np.float32), RATE, *times(text, phonemes, lengths[0]))
