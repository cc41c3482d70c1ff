"""Kokoro's voices: the split, what is drawn from a seed, and where words and phonemes lie."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from demo_model import kokoro_voices, phones, voices
from demo_model.__main__ import SHIPPED
from demo_model.corpus import DISTILLED, NATURAL, SHARD, SIZES, Job, draws
from demo_model.data import Corpus
from demo_model.spelling import AHEAD, times, written
from demo_model.tokenizer import unpack_tokenizer

SIDES = {
    False: {*kokoro_voices.TRAIN, *kokoro_voices.TRAIN_ACCENTS},
    True: {*kokoro_voices.HELD_OUT, *kokoro_voices.HELD_OUT_ACCENTS},
}


def heard(name: str) -> set[str]:
    return {voice for voice, _ in kokoro_voices.parts(name)}


def test_no_voice_is_on_both_sides() -> None:
    assert not SIDES[False] & SIDES[True]
    assert len(kokoro_voices.TRAIN) + len(kokoro_voices.HELD_OUT) == 28
    assert len(SIDES[False] | SIDES[True]) == 54


@pytest.mark.parametrize("held_out", [False, True])
def test_a_speaker_and_every_blend_stay_on_their_side(held_out: bool) -> None:
    rng = random.Random(1)
    drawn = [kokoro_voices.draw(rng, held_out) for _ in range(4000)]
    assert set().union(*(heard(name) for name, _ in drawn)) == SIDES[held_out]
    blends = [kokoro_voices.parts(name) for name, _ in drawn if "+" in name]
    assert 0.45 < len(blends) / len(drawn) < 0.55
    for (first, weight), (second, rest) in blends:
        assert first != second
        assert weight + rest == pytest.approx(1.0)
        assert 0.3 <= weight <= 0.7
    accented = sum(name[0] not in "ab" for name, _ in drawn) / len(drawn)
    assert 0.05 < accented < 0.11
    assert {0.8, 1.25} < {speed for _, speed in drawn}


@pytest.mark.parametrize("source", SIZES)
def test_what_a_shard_says_depends_on_seed_and_number_alone(source: str) -> None:
    first = list(draws(Job(source, 3, 7, Path("here"))))
    assert first == list(draws(Job(source, 3, 7, Path("there"), Path("packages"))))
    assert len(first) == SIZES[source]
    for other in (Job(source, 4, 7, Path("here")), Job(source, 3, 8, Path("here"))):
        assert first != list(draws(other))


def test_sources_do_not_say_the_same() -> None:
    said = {source: list(draws(Job(source, 2, 7, Path()))) for source in SIZES}
    assert {source: {voice.engine for _, voice in drawn} for source, drawn in said.items()} == {
        SHARD: {"espeak", "flite"}, NATURAL: {"kokoro"}, DISTILLED: {"hibari"},
    }  # fmt: skip
    assert len({tuple(text for text, _ in drawn[:50]) for drawn in said.values()}) == 3


def test_sources_have_their_shares_of_what_is_drawn(tmp_path: Path) -> None:
    unpack_tokenizer(SHIPPED, tmp_path)
    corpus = Corpus(tmp_path, tmp_path / "tokenizer.model")

    def add(source: str, index: int, value: int) -> None:
        frames = np.full((20, 80), value, np.float16)
        np.savez(
            tmp_path / f"{source}_{index:04d}.npz", clean=frames, noisy=frames, phones=np.zeros(20, np.uint8),
            starts=np.array([0, 8, 20]), texts=np.array(["yes", "no"]), voices=np.array(["a", "b"]),
        )  # fmt: skip
        corpus.scan()

    def heard(kind: str, *shares: float) -> list[float]:
        rng = random.Random(5)
        by_source = dict(zip(SIZES, shares, strict=True))
        drawn = [float(corpus.pick(rng, kind, by_source).clean[0, 0]) for _ in range(2000)]
        return [drawn.count(value) / 2000 for value in range(3)]

    add(SHARD, 1, 0)
    assert heard("sentence", 0.4, 0.6, 0) == [1, 0, 0]
    add(NATURAL, 1, 1)
    add(NATURAL, 5, 1)
    assert heard("sentence", 1, 0, 0) == [1, 0, 0]
    assert heard("sentence", 0, 1, 0) == [0, 1, 0]
    assert heard("short", 1, 0, 0) == [0, 1, 0]  # no other source has this kind
    # Of two sources the third one's share falls to both.
    assert heard("sentence", 0.2, 0.3, 0.5) == pytest.approx([0.4, 0.6, 0], abs=0.05)
    add(DISTILLED, 1, 2)
    assert heard("sentence", 0.2, 0.3, 0.5) == pytest.approx([0.2, 0.3, 0.5], abs=0.05)
    assert corpus.scan() == 4


def test_a_sentence_is_written_as_people_write_it() -> None:
    assert written("i'm here and so am i", False) == "I'm here and so am I."
    assert written("what is the time", True) == "what is the time?"
    assert written("call emily", False) == "call Emily."
    assert written("call davis", True) == "call [Davis](/dˈAvɪs/)."


def test_marks_of_stress_and_length_belong_to_their_sounds() -> None:
    phonemes = "kˈɔːl ɐ."
    lengths = np.array([4 + AHEAD, 2, 1, 3, 2, 2, 1, 2, 5, 6], np.float32)
    words, found = times("call a", phonemes, lengths)
    assert words == ((0, 100.0), (5, 375.0))
    assert found == (
        ("kokoro:_", 0.0), ("kokoro:k", 100.0), ("kokoro:ɔ", 150.0), ("kokoro:l", 300.0), ("kokoro: ", 350.0),
        ("kokoro:ɐ", 375.0), ("kokoro:.", 425.0), ("kokoro:_", 550.0),
    )  # fmt: skip


def test_words_without_a_group_of_phonemes_each_have_no_times() -> None:
    words, found = times("one two", "wˈʌn", np.ones(6, np.float32))
    assert words == ()
    assert [name for name, _ in found] == ["kokoro:_", "kokoro:w", "kokoro:ʌ", "kokoro:n", "kokoro:_"]


def test_every_sound_of_the_two_dialects_has_a_class_and_a_space_has_none() -> None:
    for mark in "AIOQTWYabdfhijklmnpstuvwzæðŋɐɑɒɔəɛɜɡɪɹʃʊʌʒʤʧθᵊᵻ":
        assert phones.phone_class(f"kokoro:{mark}") not in (phones.SILENCE, phones.IGNORE), mark
    assert {phones.phone_class(f"kokoro:{mark}") for mark in "_.?,"} == {phones.SILENCE}
    assert phones.phone_class("kokoro: ") == phones.IGNORE


@pytest.mark.parametrize(("engine", "name"), [("kokoro", "af_bella"), ("hibari", "heart")])
def test_a_natural_voice_needs_its_packages(engine: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{engine}:{name} needs the folder"):
        voices.Speaker().say("hello", voices.Voice(engine, name, 1.0, None))
