"""Captions: every word once and in order, short enough to read, long enough to be seen, and as players read them."""

from __future__ import annotations

import html
import itertools
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from clients.captions import (
    LINE_CHARS,
    LINES,
    LONGEST_MS,
    PAUSE_MS,
    SHORTEST_MS,
    Caption,
    Utterance,
    Word,
    as_json,
    as_srt,
    as_text,
    as_vtt,
    captions,
)

LETTERS = st.text("abcdefgh.?!,'é<&>-文", min_size=1, max_size=60)


@st.composite
def speech(draw: st.DrawFn, fastest_ms: int = 0) -> list[Word]:
    """Words as they follow each other, with pauses between some; each takes `fastest_ms` at least."""
    words, at = [], draw(st.integers(0, 100_000))
    for text in draw(st.lists(LETTERS, max_size=60)):
        at += draw(st.sampled_from([0, 0, 80, 240, PAUSE_MS - 1, PAUSE_MS, 5_000]))
        lasts = fastest_ms + draw(st.integers(0, 600) | st.integers(0, 9_000))
        words.append(Word(text, at, at + lasts))
        at += lasts
    return words


def spoken(count: int, every_ms: int = 500, lasts_ms: int = 400, text: str = "word") -> list[Word]:
    return [Word(text, n * every_ms, n * every_ms + lasts_ms) for n in range(count)]


def texts(words: list[Word]) -> list[str]:
    return [" ".join(one.lines) for one in captions(words)]


def letters(shown: list[Caption]) -> str:
    return "".join("".join(one.lines) for one in shown).replace(" ", "")


@given(speech())
def test_every_word_is_shown_once_and_in_order_within_the_limits(words: list[Word]) -> None:
    shown = captions(words)
    assert letters(shown) == "".join(word.word for word in words)
    if all(len(word.word) <= LINE_CHARS for word in words):
        assert [word for one in shown for line in one.lines for word in line.split()] == [
            word.word for word in words
        ]
    for one in shown:
        assert 1 <= len(one.lines) <= LINES
        assert all(0 < len(line) <= LINE_CHARS for line in one.lines)
        assert 0 < one.end_ms - one.start_ms <= LONGEST_MS
    for before, after in itertools.pairwise(shown):
        assert before.end_ms <= after.start_ms


@given(speech(fastest_ms=400))
def test_captions_of_speech_begin_with_their_words_and_stay_a_second(words: list[Word]) -> None:
    """At 0.4 to 5 s a word: all but those whose two lines are full before."""
    words = [Word(w.word[:LINE_CHARS], w.start_ms, min(w.end_ms, w.start_ms + 5_000)) for w in words]
    shown = captions(words)
    starts = {word.start_ms for word in words}
    assert all(one.start_ms in starts for one in shown)
    for one, after in itertools.pairwise(shown):
        full = len(" ".join([*one.lines, after.lines[0].split()[0]])) > LINE_CHARS
        assert one.end_ms - one.start_ms >= SHORTEST_MS or full
    assert all(one.end_ms - one.start_ms >= SHORTEST_MS for one in shown[-1:])


@given(speech())
def test_what_is_written_is_read_back(words: list[Word]) -> None:
    shown = captions(words)
    assert read_srt(as_srt(shown)) == shown
    head, *blocks = as_vtt(shown).split("\n\n")
    assert head.strip() == "WEBVTT"
    assert [read_cue(html.unescape(block), ".") for block in blocks if block.strip()] == shown
    assert all("-->" not in line for line in as_vtt(shown).splitlines() if not line[:2].isdigit())


def read_srt(text: str) -> list[Caption]:
    blocks = [block for block in text.split("\n\n") if block]
    assert [block.split("\n")[0] for block in blocks] == [str(n + 1) for n in range(len(blocks))]
    return [read_cue(block.partition("\n")[2], ",") for block in blocks]


def read_cue(block: str, mark: str) -> Caption:
    times, *lines = block.rstrip("\n").split("\n")
    clock = rf"(\d\d+):(\d\d):(\d\d){re.escape(mark)}(\d\d\d)"
    found = re.fullmatch(rf"{clock} --> {clock}", times)
    assert found, times
    h1, m1, s1, ms1, h2, m2, s2, ms2 = map(int, found.groups())
    return Caption(
        ((h1 * 60 + m1) * 60 + s1) * 1000 + ms1, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2, tuple(lines)
    )


def test_pauses_end_captions() -> None:
    words = [Word("one", 0, 400), Word("two", 500, 900), Word("three", 900 + PAUSE_MS, 2_000)]
    assert captions(words) == [Caption(0, 1_000, ("one two",)), Caption(1_600, 2_600, ("three",))]
    words = [Word("one", 0, 400), Word("two", 500, 900), Word("three", 900 + PAUSE_MS - 1, 2_000)]
    assert texts(words) == ["one two three"]


def test_sentences_end_captions_unless_they_would_flash_by() -> None:
    words = [
        Word("Yes.", 0, 300),
        *(Word(w, 400 + 300 * n, 650 + 300 * n) for n, w in enumerate("It is so.".split())),
    ]
    words += [Word("And", 1_300, 1_500), Word("then?", 1_600, 2_400), Word('"Well!"', 2_500, 2_900)]
    assert texts(words) == ["Yes. It is so.", "And then?", '"Well!"']


def test_what_is_too_long_is_cut_at_its_longest_gap_or_behind_a_clause() -> None:
    words = spoken(30, every_ms=300, lasts_ms=250)
    late = [Word(w.word, w.start_ms + 200 * (n > 11), w.end_ms + 200 * (n > 11)) for n, w in enumerate(words)]
    assert len(texts(late)[0].split()) == 12
    clause = [Word("word," if n == 9 else w.word, w.start_ms, w.end_ms) for n, w in enumerate(late)]
    assert len(texts(clause)[0].split()) == 10
    # Nothing speaks for one place: as much as fits.
    assert len(texts(words)[0].split()) == 16


def test_how_they_are_written() -> None:
    shown = captions([Word("one", 3_723_004, 3_723_900), Word("a<b", 3_725_000, 3_727_000)])
    assert as_srt(shown) == "1\n01:02:03,004 --> 01:02:04,004\none\n\n2\n01:02:05,000 --> 01:02:07,000\na<b\n"
    assert as_vtt(shown) == (
        "WEBVTT\n\n01:02:03.004 --> 01:02:04.004\none\n\n01:02:05.000 --> 01:02:07.000\na&lt;b\n"
    )
    assert (as_srt([]), as_vtt([])) == ("", "WEBVTT\n")


def test_text_and_json() -> None:
    said = [
        Utterance(
            "hello there", (Word("hello", 0, 400, 0.91239), Word("there", 480, 900, 0.5)), 0.7, "endpoint"
        ),
        Utterance(""),
        Utterance("bye", (Word("bye", 2_000, 2_300, 1.0),), 1.0, "end_of_stream", "en-US"),
    ]
    assert as_text(said) == "hello there\nbye\n"
    written = json.loads(as_json(said, {"file": "talk.wav"}))
    assert written["file"] == "talk.wav" and written["text"] == "hello there bye"
    first, second = written["finals"]
    assert (first["start_ms"], first["end_ms"], first["reason"]) == (0, 900, "endpoint")
    assert first["words"][0] == {"word": "hello", "start_ms": 0, "end_ms": 400, "confidence": 0.9124}
    assert second["language_code"] == "en-US"
