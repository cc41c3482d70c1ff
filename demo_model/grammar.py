"""The text of the demo model: a small grammar, its split, and its vocabulary.

Sentences are lower case, without punctuation except apostrophes. The split is by a hash of the sentence
itself, so that a held-out sentence cannot be trained on whatever the seed or the order of drawing.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable

from demo_model import numbers, words
from demo_model.templates import TEMPLATES

HELD_OUT_SHARE = 0.04
MIN_SPLIT_WORDS = 3  # shorter utterances are lists of words rather than sentences: they all train

_SLOT = re.compile(r"\{(\w+)\}")

LISTS: dict[str, tuple[str, ...]] = {
    "first": words.FIRST_NAMES, "last": words.LAST_NAMES, "city": words.CITIES, "country": words.COUNTRIES,
    "month": words.MONTHS, "day": words.DAYS, "color": words.COLORS, "room": words.ROOMS,
    "device": words.DEVICES, "food": words.FOODS, "drink": words.DRINKS, "animal": words.ANIMALS,
    "thing": words.THINGS, "place": words.PLACES, "person": words.PEOPLE, "adj": words.ADJECTIVES,
    "verb": words.VERBS, "past": words.PAST_VERBS, "adv": words.ADVERBS, "weather": words.WEATHER,
    "subject": words.SUBJECTS, "sport": words.SPORTS, "music": words.MUSIC, "company": words.COMPANIES,
    "item": words.ORDER_ITEMS, "nato": words.SPELLING, "unit": words.UNITS,
    "rank": words.CARD_RANKS, "suit": words.CARD_SUITS, "direction": words.DIRECTIONS,
}  # fmt: skip

RULES: dict[str, Callable[[random.Random], str]] = {
    "digit": lambda r: numbers.digits(r, 1),
    "tens": lambda r: r.choice(numbers.TENS[2:]),
    "scale": lambda r: r.choice(("hundred", "thousand", "million")),
    "num": lambda r: numbers.cardinal(r.choice((r.randrange(2, 21), r.randrange(2, 100), r.randrange(100, 1000)))),
    "small": lambda r: numbers.cardinal(r.randrange(2, 60)),
    "big": lambda r: numbers.cardinal(r.choice((r.randrange(1000, 10000), r.randrange(1, 100) * 1000,
                                                r.randrange(1, 100) * 1_000_000))),
    "digits3": lambda r: numbers.digits(r, 3),
    "digits4": lambda r: numbers.digits(r, 4),
    "digits6": lambda r: numbers.digits(r, r.choice((5, 6, 7))),
    "clock": numbers.clock,
    "money": numbers.money,
    "year": numbers.year,
    "ordinal": lambda r: numbers.ordinal(r.randrange(1, 32)),
    "date": lambda r: r.choice((
        f"{r.choice(words.MONTHS)} {numbers.ordinal(r.randrange(1, 32))}",
        f"the {numbers.ordinal(r.randrange(1, 32))} of {r.choice(words.MONTHS)}")),
    "name": lambda r: f"{r.choice(words.FIRST_NAMES)} {r.choice(words.LAST_NAMES)}",
    "when": lambda r: expand(r, r.choice((
        "today", "tomorrow", "tonight", "this evening", "tomorrow morning", "on {day}", "next {day}",
        "next week", "at {clock}", "on {date}", "in {month}", "this afternoon", "on {day} at {clock}",
        "this weekend", "in {small} minutes", "before {clock}", "after {clock}", "tomorrow at {clock}"))),
}  # fmt: skip


def expand(rng: random.Random, template: str) -> str:
    """Fill the slots of one template."""

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        return RULES[slot](rng) if slot in RULES else rng.choice(LISTS[slot])

    return _SLOT.sub(fill, template)


def is_held_out(sentence: str) -> bool:
    """Tell whether a sentence belongs to the evaluation side of the split."""
    if len(sentence.split()) < MIN_SPLIT_WORDS:
        return False
    value = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big")
    return value < HELD_OUT_SHARE * 2**64


def sentence(rng: random.Random, held_out: bool = False) -> str:
    """Draw one sentence of the grammar from the wanted side of the split."""
    while True:
        text = expand(rng, rng.choice(TEMPLATES))
        if len(text.split()) >= MIN_SPLIT_WORDS and is_held_out(text) == held_out:
            return text


def vocabulary() -> tuple[str, ...]:
    """List every distinct word the text can hold, sorted."""
    found: set[str] = set(words.FUNCTION_WORDS) | set(words.EXTRA_WORDS)
    found |= set(numbers.ONES) | set(numbers.TENS) | set(numbers.ORDINALS) | set(numbers.SCALES)
    for group in LISTS.values():
        for phrase in group:
            found |= set(phrase.split())
    for template in TEMPLATES:
        found |= set(_SLOT.sub(" ", template).split())
    return tuple(sorted(found - {"_"}))


def random_words(rng: random.Random, vocab: tuple[str, ...], low: int, high: int) -> str:
    """Draw words without any grammar, so that every word is heard beside every other."""
    while True:
        text = " ".join(rng.choice(vocab) for _ in range(rng.randint(low, high)))
        if not is_held_out(text):
            return text
