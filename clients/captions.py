"""Groups words into captions, and writes transcripts as SRT, WebVTT, JSON and text. Pure; standard library only.

A caption ends at a pause, at the end of a sentence, and where it would be too long to read or to stay on screen; there
it is cut at the longest gap near its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

LINE_CHARS = 42
LINES = 2
SHORTEST_MS = 1_000
LONGEST_MS = 7_000
PAUSE_MS = 700
"""Silence that ends a caption."""

_SENTENCE_ENDS = tuple(".?!…。？！।؟")
_CLAUSE_ENDS = tuple(",;:–—、，；：،؛")
_CLOSING = "\"'”’»)]"
"""What may follow the mark that ends a sentence."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it was spoken. The fields are those of `asr.v1.WordInfo`."""

    word: str
    start_ms: int
    end_ms: int
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Utterance:
    """A final: its text, and the words of it."""

    text: str
    words: tuple[Word, ...] = ()
    confidence: float = 0.0
    reason: str = ""
    language_code: str = ""


@dataclass(frozen=True, slots=True)
class Caption:
    """Lines that are shown together, and when."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def captions(words: Iterable[Word]) -> list[Caption]:
    """Groups words, in the order in which they were spoken, into captions that do not overlap.

    Each has at most two lines of 42 characters and is shown for at most 7 s; and for at least 1 s, unless so much is
    said within that second that it does not fit. A word that is longer than a line is broken.
    """
    pieces = [piece for word in words for piece in _pieces(word)]
    cut: list[Sequence[Word]] = []
    start = 0
    while start < len(pieces):
        end = _end(pieces, start)
        cut.append(pieces[start:end])
        start = end
    return list(_timed(cut))


def as_srt(shown: Iterable[Caption]) -> str:
    """Writes captions as SubRip."""
    return "\n".join(
        f"{number}\n{_clock(one.start_ms, ',')} --> {_clock(one.end_ms, ',')}\n{_joined(one.lines)}\n"
        for number, one in enumerate(shown, 1)
    )


def as_vtt(shown: Iterable[Caption]) -> str:
    """Writes captions as WebVTT."""
    blocks = (
        f"{_clock(one.start_ms, '.')} --> {_clock(one.end_ms, '.')}\n{_escaped(_joined(one.lines))}\n"
        for one in shown
    )
    return "\n".join(("WEBVTT\n", *blocks))


def as_text(utterances: Iterable[Utterance]) -> str:
    """Writes a line for each utterance that has text."""
    return "".join(f"{one.text}\n" for one in utterances if one.text)


def as_json(utterances: Sequence[Utterance], about: dict[str, object]) -> str:
    """Writes finals with their words, and before them what there is to say about the recording."""
    finals = [
        {
            "text": one.text,
            "start_ms": one.words[0].start_ms if one.words else None,
            "end_ms": one.words[-1].end_ms if one.words else None,
            "confidence": round(one.confidence, 4),
            "reason": one.reason,
            "language_code": one.language_code,
            "words": [asdict(replace(word, confidence=round(word.confidence, 4))) for word in one.words],
        }
        for one in utterances
        if one.text
    ]
    text = " ".join(one.text for one in utterances if one.text)
    return json.dumps(about | {"text": text, "finals": finals}, ensure_ascii=False, indent=2) + "\n"


def _end(words: Sequence[Word], start: int) -> int:
    """Finds where the caption ends that begins with the word at `start`: the index behind its last word."""
    end = start + 1
    while end < len(words):
        before, word = words[end - 1], words[end]
        # A caption that would make room for the next one too soon goes on.
        lasted = word.start_ms - words[start].start_ms >= SHORTEST_MS
        if lasted and (word.start_ms - before.end_ms >= PAUSE_MS or _ends(before, _SENTENCE_ENDS)):
            return end
        shown = words[start : end + 1]
        if word.end_ms - words[start].start_ms > LONGEST_MS or len(_wrapped(shown)) > LINES:
            return _best_gap(words, start, end)
        end += 1
    return end


def _best_gap(words: Sequence[Word], start: int, most: int) -> int:
    """Chooses where to cut what is too long: behind a clause or at the longest gap of the second half, or as late."""
    earliest = start + (most - start + 1) // 2

    def lasts(end: int) -> bool:
        return words[end].start_ms - words[start].start_ms >= SHORTEST_MS

    places = [end for end in range(max(earliest, start + 1), most + 1) if lasts(end)] or [most]
    return max(
        places, key=lambda end: (_ends(words[end - 1], _CLAUSE_ENDS), _gap(words[end - 1], words[end]), end)
    )


def _gap(before: Word, after: Word) -> int:
    return max(0, after.start_ms - before.end_ms)


def _ends(word: Word, marks: tuple[str, ...]) -> bool:
    return word.word.rstrip(_CLOSING).endswith(marks)


def _timed(cut: Sequence[Sequence[Word]]) -> Iterator[Caption]:
    """Says how long each caption stays: as long as it is spoken and can be read, up to the next one."""
    earliest = 0
    for number, part in enumerate(cut):
        start = max(part[0].start_ms, earliest)
        spoken = max(word.end_ms for word in part)
        latest = cut[number + 1][0].start_ms if number + 1 < len(cut) else spoken + SHORTEST_MS
        # Players pass over a caption that takes no time.
        end = max(min(max(spoken, start + SHORTEST_MS), start + LONGEST_MS, latest), start + 1)
        yield Caption(start, end, tuple(_wrapped(part)))
        earliest = end


def _wrapped(words: Sequence[Word]) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word.word) <= LINE_CHARS:
            lines[-1] += f" {word.word}"
        else:
            lines.append(word.word)
    return lines


def _pieces(word: Word) -> Iterator[Word]:
    """Breaks a word that is longer than a line; each piece takes its share of the time."""
    text = "".join(word.word.split())
    count = -(-len(text) // LINE_CHARS)
    lasts = word.end_ms - word.start_ms
    for index in range(count):
        yield Word(
            text[index * LINE_CHARS : (index + 1) * LINE_CHARS],
            word.start_ms + lasts * index // count,
            word.start_ms + lasts * (index + 1) // count,
            word.confidence,
        )


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(ms: int, mark: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{ms:03}"
