"""The text is drawn deterministically, spelt plainly, and split for good."""

from __future__ import annotations

import random
import re

import pytest

from demo_model import grammar, numbers
from demo_model.corpus import draw_text


def test_same_seed_same_sentences() -> None:
    one, two = random.Random(3), random.Random(3)
    assert [grammar.sentence(one) for _ in range(200)] == [grammar.sentence(two) for _ in range(200)]


def test_training_and_held_out_sentences_never_meet() -> None:
    rng = random.Random(4)
    training = {grammar.sentence(rng) for _ in range(4000)}
    training |= {
        draw_text(rng, kind, grammar.vocabulary()) for kind in ("short", "words") for _ in range(4000)
    }
    held_out = {grammar.sentence(rng, held_out=True) for _ in range(300)}
    assert not training & held_out
    assert all(grammar.is_held_out(text) for text in held_out)
    assert not any(grammar.is_held_out(text) for text in training)


def test_sentences_hold_only_words_of_the_vocabulary() -> None:
    rng = random.Random(5)
    vocabulary = set(grammar.vocabulary())
    assert 1000 <= len(vocabulary) <= 2000
    heard = {word for _ in range(4000) for word in grammar.sentence(rng).split()}
    assert heard <= vocabulary
    assert all(re.fullmatch(r"[a-z']+", word) for word in vocabulary)


@pytest.mark.parametrize(
    ("value", "spoken"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (205, "two hundred five"),
        (7_000, "seven thousand"),
        (1_000_012, "one million twelve"),
    ],
)
def test_numbers_are_spelt(value: int, spoken: str) -> None:
    assert numbers.cardinal(value) == spoken


def test_ordinals_are_spelt() -> None:
    assert [numbers.ordinal(day) for day in (1, 12, 20, 21, 30, 31)] == [
        "first", "twelfth", "twentieth", "twenty first", "thirtieth", "thirty first",
    ]  # fmt: skip
