"""How phrases are written by a model, and what protocols that reject nothing make of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.values import PhraseBoost
from asr_service.recognition.phrases import Alphabet, PhraseLimits, Spelling, keep_servable

LIMITS = PhraseLimits(
    groups=1_000, phrases=1_000, phrase_chars=100, chars=20_000, min_boost=0.0, max_boost=10.0
)

LOWER = ("<unk>", "<EOU>", "\u2581<en-US>", "\u2581", "\u2581th", *"abcdefghijklmnopqrstuvwxyz'")


@pytest.mark.parametrize(
    ("phrase", "text", "unwritable"),
    [
        ("acme", "acme", ""),
        ("  Patricia   WATSON\n", "patricia watson", ""),
        ("New-York \u2013 Oslo", "new york oslo", ""),
        ("o\u2019neill", "o'neill", ""),
        ("zu\u0308rich 7, 7", "zrich", "\u00fc7,"),
        ("\u2581the<unk>", "theunk", "\u2581<>"),
        ("-", "", ""),
    ],
)
def test_lower_case_vocabulary(phrase: str, text: str, unwritable: str) -> None:
    assert Alphabet(LOWER).spell(phrase) == Spelling(text, unwritable)


def test_what_the_model_writes_stays() -> None:
    both = Alphabet((*"abcABC-", "\u00fc"))
    assert both.spell("Ab-C u\u0308") == Spelling("Ab-C \u00fc", "")
    assert Alphabet(tuple("ABC")).spell("abc") == Spelling("ABC", "")
    assert Alphabet(("<0x41>", "a")).spell("\u65e5 A7") == Spelling("\u65e5 A7", "")


@given(st.text(max_size=30))
def test_what_is_written_can_be_written_again(phrase: str) -> None:
    alphabet = Alphabet(LOWER)
    written = alphabet.spell(phrase)
    assert set(written.text) <= {*"abcdefghijklmnopqrstuvwxyz' "}
    assert alphabet.spell(written.text) == Spelling(written.text, "")


groups = st.lists(
    st.builds(
        PhraseBoost,
        st.lists(st.sampled_from(["a", "", " ", "b7", "c" * 100, "d" * 101, "Nine Lives"]), max_size=300).map(
            tuple
        ),
        st.sampled_from([-5.0, 0.0, 2.0, 10.0, 1e30]),
    ),
    max_size=8,
)


@given(groups)
def test_whatever_is_asked_for_fits(asked: list[PhraseBoost]) -> None:
    kept = keep_servable(asked, LOWER, LIMITS)
    phrases = [phrase for group in kept for phrase in group.phrases]
    assert len(phrases) <= LIMITS.phrases
    assert sum(map(len, phrases)) <= LIMITS.chars
    assert all(0 < len(phrase) <= LIMITS.phrase_chars for phrase in phrases)
    assert not {"b7", "", " ", "d" * 101} & set(phrases)
    assert all(0 <= group.boost <= 10 for group in kept)
    assert keep_servable(list(kept), LOWER, LIMITS) == kept


def test_the_first_of_too_many_are_kept() -> None:
    names = tuple("a" * (1 + number % 9) for number in range(LIMITS.phrases + 5))
    (group,) = keep_servable([PhraseBoost(names, 2.0)], LOWER, LIMITS)
    assert group.phrases == names[: LIMITS.phrases]


@pytest.mark.parametrize(
    "useless", [("7",) * LIMITS.phrases, ("",) * LIMITS.phrases, ("7" * 100,) * (LIMITS.chars // 100)]
)
def test_what_cannot_be_served_counts_too(useless: tuple[str, ...]) -> None:
    """Else looking at what is left out takes as long as the client likes."""
    assert keep_servable([PhraseBoost(useless, 2.0), PhraseBoost(("a",), 2.0)], LOWER, LIMITS) == ()
    assert keep_servable([PhraseBoost(useless[1:], 2.0), PhraseBoost(("a",), 2.0)], LOWER, LIMITS) == (
        PhraseBoost(("a",), 2.0),
    )


def test_no_more_is_looked_at_than_may_be_served() -> None:
    """A group of each kind that takes longest, with nothing behind the limit that may be touched."""

    def groups() -> Iterator[PhraseBoost]:
        for _ in range(LIMITS.groups):
            yield PhraseBoost((), 2.0)
        raise AssertionError("one group too many was looked at")

    assert keep_servable(groups(), LOWER, LIMITS) == ()


def test_an_overlong_phrase_is_not_written_first() -> None:
    tracemalloc.start()
    try:
        assert keep_servable([PhraseBoost(("a" * 4_000_000,), 2.0)], LOWER, LIMITS) == ()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
