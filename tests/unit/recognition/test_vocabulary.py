"""Pieces to text, for each kind of tokenizer that models come with."""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.recognition.transcript import Transcript
from asr_service.recognition.vocabulary import Vocabulary, unpunctuated
from tests.support import sentencepieces
from tests.support.sentencepieces import pieces_of

FRAME_MS = 80.0
LINES = [
    "Book a table for two, at eight. Not seven!",
    "the quick brown fox jumps over the lazy dog",
    "\u00bfQu\u00e9 dices? Na\u00efve caf\u00e9 \u00fcber Stra\u00dfe",
    "\u4eca\u65e5\u306f\u3002\u3044\u3044\u5929\u6c17\u3067\u3059\u306d",
    'hello world, this is a stream of words: it\'s 3.5 "percent"',
]
SIGNALS = ["<en-US>", "<de-DE>", "<EOU>", "<EOB>"]
# What NeMo takes a space from before, as far as it closes something; NeMo counts tabs and line ends as spaces too.
NEMO_MARKS = re.compile(r" ([.,?!;:\u3002])")
# NeMo's `strip_lang_tags`, with the ends of utterances; the same holds there.
NEMO_TAGS = re.compile(r" *<(?:[a-z]{2}-[A-Z]{2}|EO[UB])>")


@cache
def train(kind: str) -> spm.SentencePieceProcessor:
    """A small model of SentencePiece: "bpe" or "unigram", "bytes" for byte fallback, "signals" for the tags."""
    options: dict[str, Any] = {"model_type": kind.split()[0], "vocab_size": 160}
    if "bytes" in kind:
        options |= {"byte_fallback": True, "vocab_size": 400, "character_coverage": 0.98}
    if "signals" in kind:
        options["user_defined_symbols"] = SIGNALS
    return sentencepieces.train(LINES, **options)


KINDS = [
    f"{kind}{more}" for kind in ("bpe", "unigram") for more in ("", " bytes", " signals", " bytes signals")
]


def as_nemo_joins(vocabulary: Vocabulary, text: str) -> str:
    """A text without one space before each mark that closes something and has a piece of its own."""
    return NEMO_MARKS.sub(lambda found: found[1] if found[1] in vocabulary.joins else found[0], text)


def text_of(vocabulary: Vocabulary, tokens: list[int]) -> str:
    """One utterance, whose words are those of its text."""
    made = Transcript(vocabulary, FRAME_MS, keep_words=True)
    for frame, token in enumerate(tokens):
        made.add(token, frame, 0.5)
    utterance = made.finish(10**9)
    assert [word.text for word in utterance.words] == [part for part in utterance.text.split(" ") if part]
    return utterance.text


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(KINDS), st.randoms(use_true_random=False), st.integers(0, 40), st.data())
def test_text_is_what_sentencepiece_decodes_without_the_tags(
    kind: str, rng: random.Random, length: int, data: st.DataObject
) -> None:
    """Over tokens that no speaker says, half of them tags and spaces; after every token; over any utterances."""
    processor = train(kind)
    pieces = pieces_of(processor)
    vocabulary = Vocabulary(pieces)
    often = [
        pieces.index(piece)
        for piece in [*SIGNALS, "\u2581", "\u2581a", "<0xE3>", ".", "?"]
        if piece in pieces
    ]
    tokens = [rng.choice(often) if rng.random() < 0.5 else rng.randrange(len(pieces)) for _ in range(length)]
    ends = [*sorted(data.draw(st.lists(st.integers(0, length), max_size=4))), length]
    made = Transcript(vocabulary, FRAME_MS, keep_words=True)
    start = 0
    for end in ends:
        said = tokens[start:end]
        made.start_segment(start * FRAME_MS)
        for number, token in enumerate(said):
            made.add(token, number, 0.5)
            decoded = processor.decode(said[: number + 1])
            bare = NEMO_TAGS.sub("", as_nemo_joins(vocabulary, decoded))
            # As NeMo does, where there was a tag.
            assert made.text == bare if bare == decoded else made.text.strip(" ") == bare.strip(" ")
        assert made.text == text_of(vocabulary, said)
        made.finish(10**9)
        start = end


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_come_back_as_they_were(kind: str) -> None:
    processor = train(kind)
    vocabulary = Vocabulary(pieces_of(processor))
    for line in LINES:
        tokens = processor.encode(line)
        assert text_of(vocabulary, tokens) == processor.decode(tokens)
        if "signals" in kind:
            assert text_of(vocabulary, processor.encode(f"{line} <en-US> {line}<EOU>")) == processor.decode(
                processor.encode(f"{line} {line}")
            )


def test_an_aggregate_of_tokenizers_is_one_vocabulary() -> None:
    """NeMo joins the pieces of all and replaces the marks of spaces."""
    parts = [pieces_of(train("bpe")), pieces_of(train("unigram"))]
    pieces = parts[0] + parts[1]
    vocabulary = Vocabulary(pieces)
    rng = random.Random(5)
    words = [token for token, piece in enumerate(pieces) if piece not in ("<unk>", "<s>", "</s>")]
    for _ in range(200):
        tokens = rng.choices(words, k=12)
        joined = "".join(pieces[token] for token in tokens).replace("\u2581", " ")
        assert text_of(vocabulary, tokens).strip(" ") == as_nemo_joins(vocabulary, joined).strip(" ")
    for line in LINES[:2]:
        first, second = train("bpe").encode(line), train("unigram").encode(line)
        shifted = [token + len(parts[0]) for token in second]
        assert text_of(vocabulary, first + shifted) == f"{line} {line}"


def test_a_character_model_writes_its_spaces_itself() -> None:
    labels = ("\u2581", *"abcdefghijklmnopqrstuvwxyz'")
    vocabulary = Vocabulary(labels)
    said = "don't say hello"
    tokens = [labels.index(char.replace(" ", "\u2581")) for char in f" {said}"]
    assert text_of(vocabulary, tokens) == said
    assert [vocabulary.starts_word[token] for token in tokens[:3]] == [True, False, False]
    assert [vocabulary.is_spoken[token] for token in tokens[:3]] == [False, True, True]
    assert not vocabulary.punctuates


def test_what_pieces_say() -> None:
    pieces = (
        *("<unk>", "<s>", "</s>", "<pad>", "<0x0A>", "<EOU>", "\u2581<EOB>", "<en-US>", "\u2581<fil-PH>"),
        *("<EOS>", "<en>", "<EN-us>", "\u2581the", "lo", "?", "\u2581?", "\u2581\u00bf"),
        *('"', '\u2581"', "\u2581'", ".com"),
    )
    vocabulary = Vocabulary(pieces)

    def those(holds: tuple[bool, ...]) -> list[str]:
        return [piece for piece, held in zip(pieces, holds, strict=True) if held]

    assert those(vocabulary.ends_utterance) == ["<EOU>", "\u2581<EOB>"]
    assert [language for language in vocabulary.language if language] == ["en-US", "fil-PH"]
    silent = ["<s>", "</s>", "<pad>", "<EOU>", "\u2581<EOB>", "<en-US>", "\u2581<fil-PH>"]
    assert those(tuple(not is_text for is_text in vocabulary.is_text)) == silent
    assert those(vocabulary.starts_word) == ["<unk>", "\u2581the", "\u2581\u00bf", '\u2581"', "\u2581'"]
    spoken = ["<unk>", "<0x0A>", "<EOS>", "<en>", "<EN-us>", "\u2581the", "lo", "\u2581'", ".com"]
    assert those(vocabulary.is_spoken) == spoken
    assert vocabulary.punctuates
    assert not Vocabulary(("<unk>", "<EOU>", "<en-US>", "\u2581the", "'s")).punctuates, (
        "tags have no capitals"
    )


def test_marks_of_every_language_are_marks() -> None:
    said = ["\u0939\u093e\u0964", "\u0646\u0639\u0645\u061f", "\u597d\u3002"]
    assert unpunctuated(" ".join(said)) == " ".join(word[:-1] for word in said)


def test_a_mark_with_a_piece_of_its_own_joins_the_word_before_it() -> None:
    """As NeMo writes it; where the mark is known with its space only, the space stays."""
    for pieces, text in (
        (("\u2581UK", "\u2581?", "?"), "UK?"),
        (("\u2581UK", "\u2581", "?"), "UK?"),
        (("\u2581UK", "\u2581", "\u2581?", "?"), "UK ?"),
        (("\u2581UK", "\u2581?"), "UK ?"),
        (("\u2581said", "\u2581'", "cause", "'"), "said 'cause'"),
    ):
        tokens = [
            token for token, piece in enumerate(pieces) if piece != "?" or pieces[token - 1] == "\u2581"
        ]
        assert text_of(Vocabulary(pieces), tokens) == text
