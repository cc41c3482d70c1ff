from __future__ import annotations

import random

import pytest
import sentencepiece as spm
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.values import Word
from asr_service.recognition.transcript import Transcript
from asr_service.recognition.vocabulary import Vocabulary, unpunctuated
from tests.support.sentencepieces import pieces_of, train

LINES = [
    "book a table for two at eight",
    "the quick brown fox jumps over the lazy dog",
    "hello world this is a stream of words",
    "naïve café über straße",
]
FRAME_MS = 80.0


@pytest.fixture(scope="module", params=["bpe", "unigram", "char", "bpe with bytes"])
def pieces(request: pytest.FixtureRequest) -> spm.SentencePieceProcessor:
    if request.param == "bpe with bytes":
        return train(LINES, model_type="bpe", vocab_size=340, byte_fallback=True)
    return train(LINES, model_type=request.param, vocab_size=80)


def transcript(*pieces: str, keep_words: bool = True) -> Transcript:
    made = Transcript(Vocabulary(pieces), FRAME_MS, keep_words=keep_words)
    for token in range(len(pieces)):
        made.add(token, token, 0.5 + 0.1 * token)
    return made


def words(made: Transcript, limit_ms: int = 10**9) -> list[tuple[str, int, int, float]]:
    told = made.finish(limit_ms).words
    return [(word.text, word.start_ms, word.end_ms, round(word.confidence, 3)) for word in told]


def test_text_equals_sentencepiece_after_every_token(pieces: spm.SentencePieceProcessor) -> None:
    vocabulary, size = Vocabulary(pieces_of(pieces)), pieces.get_piece_size()
    rng = random.Random(3)
    utterances = [pieces.encode(line) for line in LINES]
    utterances += [[rng.randrange(size) for _ in range(12)] for _ in range(300)]  # no speaker says these
    for tokens in utterances:
        made = Transcript(vocabulary, FRAME_MS, keep_words=True)
        for number, token in enumerate(tokens):
            made.add(token, number, 0.5)
            assert made.text == pieces.decode(tokens[: number + 1])
        utterance = made.finish(10**9)
        assert utterance.text == pieces.decode(tokens)
        assert [word.text for word in utterance.words] == [part for part in utterance.text.split(" ") if part]


def test_byte_pieces_make_characters_and_wrong_ones_replacement_characters() -> None:
    made = transcript("▁caf", "<0xC3>", "<0xA9>", "▁x", "<0xE2>", "<0x82>", "y")
    assert made.text == "café x\ufffd\ufffdy"
    assert [word[0] for word in words(made)] == ["café", "x\ufffd\ufffdy"]


def test_a_character_that_is_not_complete_yet_shows_as_replacement() -> None:
    made = transcript("▁", "<0xE2>", "<0x82>", "<0xAC>", "<0xAC>")
    assert made.text == "€\ufffd"


def test_unknown_and_control_pieces() -> None:
    assert transcript("▁a", "<unk>", "▁b").text == "a \u2047  b"
    assert transcript("<s>", "▁a", "</s>").text == "a"


def test_words_last_from_their_first_to_their_last_token() -> None:
    made = transcript("▁wor", "ld", "▁", "is", "▁a▁b")
    assert words(made) == [
        ("world", 0, 160, 0.55),
        ("is", 240, 320, 0.8),
        ("a", 320, 360, 0.9),  # one token, two words: they share its frame
        ("b", 360, 400, 0.9),
    ]


def test_confidence_of_a_word_is_the_mean_of_its_tokens_and_of_an_utterance_that_of_its_words() -> None:
    made = Transcript(Vocabulary(("▁a", "b", "▁c")), FRAME_MS, keep_words=False)
    assert made.confidence == 0
    for token, prob in ((0, 0.9), (1, 0.5), (2, 0.7)):
        made.add(token, token, prob)
    assert made.confidence == pytest.approx(0.7)  # an interim's
    utterance = made.finish(1000)
    assert utterance.confidence == pytest.approx(0.7)
    assert utterance.words == ()


def test_words_never_overlap_nor_pass_the_end_of_the_audio() -> None:
    made = Transcript(Vocabulary(("▁a",)), FRAME_MS, keep_words=True)
    for frame in (0, 0, 1, 3):
        made.add(0, frame, 1.0)
    assert [(word[1], word[2]) for word in words(made, 250)] == [(0, 40), (40, 80), (80, 160), (240, 250)]
    made.add(0, 3, 1.0)
    assert [(word[1], word[2]) for word in words(made, 280)] == [(250, 280)]


def test_the_lag_is_taken_off_and_words_still_follow_each_other() -> None:
    made = Transcript(Vocabulary(("▁a", "b")), FRAME_MS, keep_words=True, lag_ms=(180.0, 90.0))
    for token, frame in ((0, 1), (0, 4), (1, 6), (0, 7)):
        made.add(token, frame, 1.0)
    assert [word[1:3] for word in words(made)] == [(0, 70), (140, 425), (425, 550)]
    made.start_segment(1000.0)
    made.add(0, 1, 1.0)
    assert [word[1:3] for word in words(made)] == [(1000, 1070)], "no word starts before its segment"


def test_the_next_utterance_starts_empty_and_the_next_segment_later() -> None:
    made = transcript("▁a", "b")
    assert made.finish(1000).text == "ab"
    assert (made.text, made.confidence, made.finish(1000).words) == ("", 0.0, ())
    made.start_segment(1000.0)
    made.add(0, 2, 0.5)
    assert made.finish(2000).words == (Word("a", 1160, 1240, 0.5),)


def test_an_utterance_that_starts_inside_a_word_is_text_too() -> None:
    assert words(transcript("stream", "▁of")) == [("stream", 0, 80, 0.5), ("of", 80, 160, 0.6)]


PUNCTUATING = (
    "▁Hello",
    ",",
    "▁3",
    ".",
    "5",
    "▁it",
    "'",
    "s",
    "▁U",
    ".S.",
    "?",
    "▁-",
    "▁.",
    "lo",
    "▁x",
    "▁\u00bfqu\u00e9?",
    "A",
)


@given(st.lists(st.integers(0, len(PUNCTUATING) - 1), max_size=30))
def test_without_punctuation_nothing_else_is_lost(tokens: list[int]) -> None:
    """Also while the utterance grows: only its last word changes, as with punctuation."""
    vocabulary = Vocabulary(PUNCTUATING)
    full = Transcript(vocabulary, FRAME_MS, keep_words=True)
    bare = Transcript(vocabulary, FRAME_MS, keep_words=True, punctuation=False)
    before: list[str] = []
    for frame, token in enumerate(tokens):
        for made in (full, bare):
            made.add(token, frame, 0.5)
        assert bare.text == unpunctuated(full.text)
        now = bare.text.split()
        assert now[: len(before) - 1] == before[:-1]
        before = now
    kept, dropped = full.finish(10**9), bare.finish(10**9)
    assert dropped.text == unpunctuated(kept.text) == unpunctuated(dropped.text)
    assert dropped.text == dropped.text.lower()
    assert [word.text for word in dropped.words] == dropped.text.split()
    letters = [char for char in kept.text.lower() if char.isalnum()]
    assert [char for char in dropped.text if char.isalnum()] == letters
    times = {(word.start_ms, word.end_ms) for word in kept.words}
    assert {(word.start_ms, word.end_ms) for word in dropped.words} <= times


def test_marks_inside_a_word_stay() -> None:
    said = "Hello, it's 3.5 at 10:30... \u00bfQu\u00e9? (Really!) \u2013 \u201cYes.\u201d"
    assert unpunctuated(said) == "hello it's 3.5 at 10:30 qu\u00e9 (really!) \u2013 yes"


def test_a_model_without_punctuation_is_left_as_it_is() -> None:
    made = Transcript(Vocabulary(("▁a", "<unk>", "▁b")), FRAME_MS, keep_words=True, punctuation=False)
    for token in range(3):
        made.add(token, token, 0.5)
    assert made.text == "a \u2047  b"
