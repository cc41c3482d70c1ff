"""Kokoro's voices: which train, which are only evaluated, and how a speaker is drawn.

A speaker's name is a voice's (`af_bella`) or a blend's (`af_bella+bm_george@0.40`: 0.40 of the first). The first
letter of a voice is its language: a and b are American and British English; the others speak English with an accent.
"""

from __future__ import annotations

import random

TRAIN = (
    "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_nicole", "af_nova", "af_river", "af_sky",
    "am_adam", "am_echo", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_santa",
    "bf_alice", "bf_emma", "bf_lily", "bm_daniel", "bm_fable", "bm_george",
)  # fmt: skip
HELD_OUT = ("af_kore", "af_sarah", "am_eric", "am_puck", "bf_isabella", "bm_lewis")
TRAIN_ACCENTS = (
    "ef_dora", "em_alex", "em_santa", "hf_alpha", "hf_beta", "hm_omega", "if_sara", "im_nicola", "jf_alpha",
    "jf_gongitsune", "jf_nezumi", "jm_kumo", "pf_dora", "pm_alex", "zf_xiaobei", "zf_xiaoxiao", "zf_xiaoyi",
    "zm_yunjian", "zm_yunxi", "zm_yunyang",
)  # fmt: skip
HELD_OUT_ACCENTS = ("ff_siwis", "hm_psi", "jf_tebukuro", "pm_santa", "zf_xiaoni", "zm_yunxia")
ACCENT_SHARE = 0.08
BLEND_SHARE = 0.5
SLOWEST, FASTEST = 0.8, 1.25


def parts(name: str) -> tuple[tuple[str, float], ...]:
    """Split a speaker's name into voices and their weights, which add up to 1."""
    voices, _, weight = name.partition("@")
    first, _, second = voices.partition("+")
    if not second:
        return ((first, 1.0),)
    return ((first, float(weight)), (second, 1.0 - float(weight)))


def is_british(name: str) -> bool:
    """Tell whether a speaker's words are spelt in British sounds; Hindi voices speak that English too."""
    return name[0] in "bh"


def draw(rng: random.Random, held_out: bool = False, blend_share: float = BLEND_SHARE) -> tuple[str, float]:
    """Draw a speaker of the wanted side of the split, and a speed; a blend is of voices of that side only."""
    english = HELD_OUT if held_out else TRAIN
    accents = HELD_OUT_ACCENTS if held_out else TRAIN_ACCENTS
    first = rng.choice(accents if rng.random() < ACCENT_SHARE else english)
    name = first
    if rng.random() < blend_share:
        second = rng.choice([voice for voice in english if voice != first])
        name = f"{first}+{second}@{rng.uniform(0.3, 0.7):.2f}"
    return name, round(rng.uniform(SLOWEST, FASTEST), 2)
