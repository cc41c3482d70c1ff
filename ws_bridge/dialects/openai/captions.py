"""Cuts words into captions, and writes them as SRT and WebVTT. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr.v1 import asr_pb2

LONGEST_CHARS = 84
"""Of a caption: two lines of 42, as broadcasters have them."""
LONGEST_MS = 7_000
PAUSE_MS = 800
"""Silence that ends a caption."""


@dataclass(frozen=True, slots=True)
class Caption:
    """Words that are shown together."""

    start_ms: int
    end_ms: int
    text: str


def captions(words: Iterable[asr_pb2.WordInfo]) -> list[Caption]:
    """Cuts words where someone pauses, and where they would be too many."""
    cut: list[list[asr_pb2.WordInfo]] = []
    for word in words:
        if not cut or not _fits(cut[-1], word):
            cut.append([])
        cut[-1].append(word)
    return [Caption(part[0].start_ms, part[-1].end_ms, _text(part)) for part in cut]


def srt(shown: Iterable[Caption]) -> str:
    """Writes captions as SRT."""
    return "\n".join(
        f"{number}\n{_time(one.start_ms, ',')} --> {_time(one.end_ms, ',')}\n{one.text}\n"
        for number, one in enumerate(shown, 1)
    )


def vtt(shown: Iterable[Caption]) -> str:
    """Writes captions as WebVTT."""
    blocks = (f"{_time(one.start_ms, '.')} --> {_time(one.end_ms, '.')}\n{one.text}\n" for one in shown)
    return "\n".join(("WEBVTT\n", *blocks))


def _fits(part: Sequence[asr_pb2.WordInfo], word: asr_pb2.WordInfo) -> bool:
    return (
        word.start_ms - part[-1].end_ms < PAUSE_MS
        and word.end_ms - part[0].start_ms <= LONGEST_MS
        and len(_text([*part, word])) <= LONGEST_CHARS
    )


def _text(part: Sequence[asr_pb2.WordInfo]) -> str:
    return " ".join(word.word for word in part)


def _time(ms: int, mark: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{ms:03}"
