"""Captions: cut at pauses and where they would be too long, and written as players read them."""

from __future__ import annotations

from asr.v1 import asr_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from ws_bridge.dialects.openai.captions import LONGEST_CHARS, LONGEST_MS, PAUSE_MS, captions, srt, vtt


def word(text: str, start_ms: int, end_ms: int) -> pb.WordInfo:
    return pb.WordInfo(word=text, start_ms=start_ms, end_ms=end_ms)


def test_pauses_cut() -> None:
    words = [word("one", 0, 400), word("two", 500, 900), word("three", 900 + PAUSE_MS, 2_000)]
    assert [(one.start_ms, one.end_ms, one.text) for one in captions(words)] == [
        (0, 900, "one two"),
        (1_700, 2_000, "three"),
    ]


def test_how_they_are_written() -> None:
    shown = captions([word("one", 3_723_004, 3_723_500), word("two", 3_725_000, 3_726_000)])
    assert srt(shown) == "1\n01:02:03,004 --> 01:02:03,500\none\n\n2\n01:02:05,000 --> 01:02:06,000\ntwo\n"
    assert vtt(shown) == (
        "WEBVTT\n\n01:02:03.004 --> 01:02:03.500\none\n\n01:02:05.000 --> 01:02:06.000\ntwo\n"
    )
    assert (srt([]), vtt([])) == ("", "WEBVTT\n")


@given(st.lists(st.tuples(st.integers(0, 1_500), st.integers(0, 9_000), st.integers(1, 100)), max_size=60))
def test_none_is_too_long_and_no_word_is_lost(steps: list[tuple[int, int, int]]) -> None:
    words, at = [], 0
    for gap, lasts, chars in steps:
        words.append(word("x" * chars, at + gap, at + gap + lasts))
        at += gap + lasts
    shown = captions(words)
    assert " ".join(one.text for one in shown) == " ".join(one.word for one in words)
    for one in shown:
        if " " in one.text:
            assert len(one.text) <= LONGEST_CHARS and one.end_ms - one.start_ms <= LONGEST_MS
