"""The boosting tree against its definition: what each next token is worth after any history."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.values import PhraseBoost
from asr_service.model.decoders.boosting_tree import FIRST_TOKEN, LATER_TOKEN, BoostingTree, TreeMaker
from asr_service.recognition.phrases import Alphabet

VOCABULARY = 5
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=6)
phrase_lists = st.lists(st.tuples(tokens, st.sampled_from([0.5, 1.0, 3.0])), max_size=6)


def bonus(phrases: list[tuple[list[int], float]], history: list[int], token: int) -> float:
    """By trying every beginning of every phrase at the end of the history."""
    heard = [*history, token]
    best = 0.0
    for phrase, boost in phrases:
        for size in range(1, len(phrase) + 1):
            if heard[-size:] == phrase[:size]:
                best = max(best, boost * (LATER_TOKEN if size > 1 else FIRST_TOKEN))
    return best


def at(tree: BoostingTree, node: int) -> list[float]:
    """The bonuses of all tokens at a node."""
    row = tree.root.copy()
    found, values = tree.bonuses(node)
    row[found] = values
    return [float(value) for value in row]


@given(phrase_lists, st.lists(st.integers(0, VOCABULARY - 1), max_size=20))
def test_bonus_is_the_largest_of_any_phrase_that_the_token_goes_on_with(
    phrases: list[tuple[list[int], float]], history: list[int]
) -> None:
    tree = BoostingTree(phrases, VOCABULARY)
    node = 0
    for place, token in enumerate(history):
        assert at(tree, node) == [bonus(phrases, history[:place], t) for t in range(VOCABULARY)]
        node = tree.advance(node, token)
    assert at(tree, node) == [bonus(phrases, history, t) for t in range(VOCABULARY)]


@given(phrase_lists, phrase_lists, tokens)
def test_another_phrase_never_lowers_a_bonus(
    phrases: list[tuple[list[int], float]], more: list[tuple[list[int], float]], history: list[int]
) -> None:
    few, many = BoostingTree(phrases, VOCABULARY), BoostingTree([*phrases, *more], VOCABULARY)
    node_few = node_many = 0
    for token in history:
        node_few, node_many = few.advance(node_few, token), many.advance(node_many, token)
    assert (np.array(at(many, node_many)) >= np.array(at(few, node_few))).all()


@given(phrase_lists)
def test_size_is_bounded_by_the_phrases_tokens(phrases: list[tuple[list[int], float]]) -> None:
    tree = BoostingTree(phrases, VOCABULARY)
    assert len(tree) <= 1 + sum(len(phrase) for phrase, _ in phrases)


def test_streams_with_the_same_phrases_share_a_tree_and_none_is_made_of_nothing() -> None:
    encoded: list[str] = []

    def encode(text: str) -> list[int]:
        encoded.append(text)
        return [ord(char) - ord("a") if char in "abcd" else 4 for char in text]

    maker = TreeMaker(encode, Alphabet(tuple("abcdx")), VOCABULARY, unknown=4)
    groups = (PhraseBoost(("AB", "c"), 2.0),)
    first = maker.tree(groups)
    assert first is not None and first is maker.tree((PhraseBoost(("AB", "c"), 2.0),))
    assert encoded == ["ab", "c"]
    assert at(first, 0) == [2.0, 0.0, 2.0, 0.0, 0.0]
    assert maker.tree(()) is None
    assert maker.tree((PhraseBoost(("ab",), 0.0),)) is None
    assert maker.tree((PhraseBoost(("ax",), 2.0),)) is None  # a phrase with an unknown piece
