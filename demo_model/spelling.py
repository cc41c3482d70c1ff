"""Sentences in the phonemes of Kokoro and of the voices distilled from it, and the times of what is said.

The phonemes are those of hibari-tts. A model that speaks them says how long each lasts.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from demo_model import words

PREFIX = "kokoro:"
STEP_MS = 25.0  # of the lengths of phonemes
# The samples run two steps ahead of the lengths: measured for both models over 20 sentences, where s and sh are
# sharpest and vowels loudest.
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
    starts = np.maximum(0.0, np.concatenate(([0.0], np.cumsum(lengths))) - AHEAD) * STEP_MS
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


def package(packages: Path, name: str) -> Any:
    """Import a Python package of the folder that `packages.fetch` made."""
    site = packages / "site"
    if str(site) not in sys.path:
        sys.path.insert(0, str(site))
    return importlib.import_module(name)


def one_thread(runtime: Any) -> Any:
    """Return options under which ONNX Runtime uses one thread and gives equal results to equal calls."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    return options


class Spelling:
    """The two dictionaries and the numbers of the phonemes."""

    def __init__(self, packages: Path) -> None:
        g2p = package(packages, "hibari.g2p")
        self._g2p = {british: g2p.G2P(british=british) for british in (False, True)}
        self._ids: dict[str, int] = json.loads(
            (packages / "site" / "hibari" / "assets" / "vocab.json").read_text(encoding="utf-8")
        )

    def phonemes(self, text: str, british: bool) -> str:
        """Spell a sentence of the grammar."""
        spelt: str = self._g2p[british](written(text, british))
        return "".join(mark for mark in spelt if mark in self._ids)

    def numbers(self, phonemes: str) -> np.ndarray:
        """Return int64 [1, phonemes + 2], with the silence before and after."""
        return np.array([[0, *(self._ids[mark] for mark in phonemes), 0]], np.int64)
