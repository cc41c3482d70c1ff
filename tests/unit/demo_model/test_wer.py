"""Word errors are counted as usual, and lost endings apart."""

from __future__ import annotations

import pytest

from demo_model.wer import align, compare, total


@pytest.mark.parametrize(
    ("reference", "heard", "operations"),
    [
        ("a b c", "a b c", "==="),
        ("a b c", "a x c", "=s="),
        ("a b c", "a b", "==d"),
        ("a b", "a x b", "=i="),
        ("", "x y", "ii"),
        ("a b", "", "dd"),
    ],
)
def test_alignment(reference: str, heard: str, operations: str) -> None:
    assert align(reference.split(), heard.split()) == operations


def test_tail_deletions_are_those_after_the_last_heard_word() -> None:
    errors = compare("one two three four", "one three")
    assert (errors.deletions, errors.tail) == (2, 1)


def test_rates_add_up_over_words_not_utterances() -> None:
    both = total([compare("a", "b"), compare("a b c", "a b c")])
    assert both.wer == pytest.approx(25.0)
    assert (both.utterances, both.exact) == (2, 1)
