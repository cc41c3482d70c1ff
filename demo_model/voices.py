"""Which voices train, which are only evaluated, and how a voice is drawn.

The held-out espeak-ng variants have no sibling of the same name among those trained on. Variants that
whisper, distort or speak too fast to follow are in neither set.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

from demo_model import flite, hibari, kokoro_voices
from demo_model.espeak import Espeak, Spoken
from demo_model.hibari import Hibari
from demo_model.kokoro import Kokoro
from demo_model.spelling import Spelling

ACCENTS = (
    "en-us", "en-us", "en-us", "en", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd", "en-us-nyc", "en-029",
)  # fmt: skip
TRAIN_VARIANTS = (
    "", "", "m1", "m2", "m4", "m5", "m7", "m8", "f1", "f3", "f5", "Alex", "Andrea", "Andy", "Annie", "Gene",
    "Gene2", "Henrique", "Hugo", "Jacky", "Marco", "Mario", "Michael", "Mike", "Nguyen", "RicishayMax",
    "RicishayMax2", "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed",
    "edward", "edward2", "grandma", "grandpa", "gustave", "iven", "iven2", "iven3", "john", "kaukovalta", "klatt",
    "klatt2", "klatt4", "linda", "marcelo", "max", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob",
    "sandro", "shelby", "steph", "steph2", "steph3", "travis", "robosoft3", "robosoft6",
)  # fmt: skip
HELD_OUT_VARIANTS = (
    "m3",
    "m6",
    "f2",
    "f4",
    "Alicia",
    "Denis",
    "Diogo",
    "Lee",
    "zac",
    "victor",
    "michel",
    "robert",
)
FLITE_SHARE = 0.25


@dataclass(frozen=True)
class Voice:
    """One way of speaking; `rate` is words a minute for espeak-ng, a stretch for flite, a speed for others."""

    engine: str
    name: str
    rate: float
    pitch: float | None
    spread: int = 50

    @property
    def label(self) -> str:
        """Engine and voice in one word, as the manifest has it."""
        return f"{self.engine}:{self.name}"


def draw(rng: random.Random, held_out: bool = False, flite_share: float = FLITE_SHARE) -> Voice:
    """Draw a voice of the wanted side of the split (every flite voice trains)."""
    if not held_out and rng.random() < flite_share:
        pitch = None if rng.random() < 0.5 else rng.uniform(85, 210)
        return Voice("flite", rng.choice(flite.VOICES), round(rng.uniform(0.85, 1.25), 2), pitch)
    variant = rng.choice(HELD_OUT_VARIANTS if held_out else TRAIN_VARIANTS)
    name = rng.choice(ACCENTS) + (f"+{variant}" if variant else "")
    return Voice("espeak", name, rng.randint(130, 200), rng.randint(30, 70), rng.randint(30, 70))


def draw_natural(
    rng: random.Random, held_out: bool = False, blend_share: float = kokoro_voices.BLEND_SHARE
) -> Voice:
    """Draw one of Kokoro's speakers of the wanted side of the split."""
    name, speed = kokoro_voices.draw(rng, held_out, blend_share)
    return Voice("kokoro", name, speed, None)


def draw_distilled(rng: random.Random) -> Voice:
    """Draw one of the speakers that hibari's voice is turned into; all of them train."""
    name, speed = hibari.draw(rng)
    return Voice("hibari", name, speed, None)


@functools.cache
def _espeak() -> Espeak:
    # Kept for the whole process: the library hangs when it is initialised a second time.
    return Espeak()


@functools.cache
def _spelling(packages: Path) -> Spelling:
    return Spelling(packages)


@functools.cache
def _kokoro(packages: Path) -> Kokoro:
    return Kokoro(packages, _spelling(packages))


@functools.cache
def _hibari(packages: Path) -> Hibari:
    return Hibari(packages, _spelling(packages))


class Speaker:
    """Speaks with any voice; a synthesiser is opened when the first of its voices is wanted.

    `packages` is the folder that `packages.fetch` made, without which there are neither Kokoro nor hibari.
    """

    def __init__(self, packages: Path | None = None) -> None:
        self._packages = packages

    def say(self, text: str, voice: Voice) -> Spoken:
        """Speak `text` at the synthesiser's own sampling rate."""
        if voice.engine == "flite":
            return flite.say(text, voice.name, voice.rate, voice.pitch)
        if voice.engine in ("kokoro", "hibari"):
            if self._packages is None:
                raise ValueError(f"{voice.label} needs the folder of the natural voices' packages")
            engine = _kokoro(self._packages) if voice.engine == "kokoro" else _hibari(self._packages)
            return engine.say(text, voice.name, voice.rate)
        return _espeak().say(text, voice.name, int(voice.rate), int(voice.pitch or 50), voice.spread)
