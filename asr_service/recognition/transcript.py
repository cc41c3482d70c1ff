"""Makes text and words of tokens, one utterance at a time. Pure; the cost of a step is that of its new tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from asr_service.core.values import Word

# SentencePiece writes a space, and thus a word's start, as this.
_SPACE = "\u2581"
# SentencePiece's surface for an unknown piece.
_UNKNOWN = " \u2047 "
# Control pieces, which are decoded to nothing.
_CONTROL = frozenset({"<s>", "</s>", "<pad>"})
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# Marks of sentences; an apostrophe is part of its word.
_MARKS = '.,?!;:"\u2026\u00bf\u00a1\u201c\u201d\u201e\u00ab\u00bb\u3002\u3001\uff0c\uff1f\uff01\u061f\u060c'


class Vocabulary:
    """What each token id adds to a text; made once for a model.

    Follows `SentencePieceProcessor::Decode` (google/sentencepiece, src/sentencepiece_processor.cc) with its default
    `remove_extra_whitespaces`: a space mark at the text's start is dropped, runs of byte pieces are read as UTF-8 with
    one replacement character for each byte that is none.

    Attributes:
        surface: text of each token; "" for control and byte pieces.
        byte: value of each byte piece, -1 for other pieces.
        starts_word: whether a word begins with the token.
        strippable: whether the token's space is dropped at the start of a text.
        punctuates: whether any token holds a punctuation mark or a capital.
    """

    def __init__(self, pieces: tuple[str, ...]) -> None:
        found = [_BYTE.fullmatch(piece) for piece in pieces]
        self.byte = tuple(int(match[1], 16) if match else -1 for match in found)
        self.surface = tuple(_surface(piece) for piece in pieces)
        self.starts_word = tuple(piece.startswith(_SPACE) or piece == "<unk>" for piece in pieces)
        self.strippable = tuple(piece.startswith(_SPACE) for piece in pieces)
        self.punctuates = any(text != text.lower() or set(text) & set(_MARKS) for text in self.surface)


def unpunctuated(text: str) -> str:
    """Returns a text in lower case without the marks around its words; those inside one stay (3.5, 10:30, o'clock)."""
    return " ".join(filter(None, (word.strip(_MARKS).lower() for word in text.split(" "))))


@dataclass(frozen=True, slots=True)
class Utterance:
    """A finished utterance: its text, its words if they were kept, and the mean confidence of its words."""

    text: str
    words: tuple[Word, ...]
    confidence: float


@dataclass(slots=True)
class _OpenWord:
    """A word that may still grow; frames counted from the segment's start, `end` exclusive."""

    text: str
    start: int
    end: int
    prob_sum: float
    tokens: int

    @property
    def confidence(self) -> float:
        """Mean probability of its tokens."""
        return self.prob_sum / self.tokens


class Transcript:
    """Makes the text and the words of a stream's current utterance.

    A word lasts from the frame of its first token to the end of the frame of its last, each less the model's lag; where
    that makes two words overlap, they meet in the middle. Its confidence is the mean probability of its tokens, the
    utterance's the mean over its words: of the measures that `bench.confidence` compares, the best calibrated.

    Args:
        vocabulary: of the model.
        frame_ms: duration of an encoder frame.
        keep_words: whether `finish` lists the words.
        lag_ms: see `ModelInfo.word_lag_ms`.
        punctuation: whether punctuation and capitals stay, if the model writes any.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        frame_ms: float,
        *,
        keep_words: bool,
        lag_ms: tuple[float, float] = (0.0, 0.0),
        punctuation: bool = True,
    ) -> None:
        self._bare = vocabulary.punctuates and not punctuation
        self._vocabulary = vocabulary
        self._frame_ms = frame_ms
        self._keep_words = keep_words
        self._start_lag_ms, self._end_lag_ms = lag_ms
        self._offset_ms = 0.0
        # Words never overlap, not even across utterances.
        self._last_end_ms = 0
        self._clear()

    def _clear(self) -> None:
        self._text = ""
        # A run of byte pieces that may go on, with its frames and probabilities.
        self._bytes = bytearray()
        self._run = _OpenWord("", 0, 0, 0.0, 0)
        self._word: _OpenWord | None = None
        # The closed words if they are kept, and in any case how many there are and the sum of their confidences.
        self._words: list[_OpenWord] = []
        self._word_count = 0
        self._confidence_sum = 0.0

    def start_segment(self, offset_ms: float) -> None:
        """Starts a segment, whose frames count from this time on the stream's clock. Call between utterances."""
        self._offset_ms = offset_ms

    @property
    def text(self) -> str:
        """The utterance so far, as SentencePiece decodes its tokens; `unpunctuated` without `punctuation`."""
        text = self._text + _utf8(self._bytes) if self._bytes else self._text
        return unpunctuated(text) if self._bare else text

    @property
    def confidence(self) -> float:
        """Mean confidence of the words so far, 0 without words."""
        count, total = self._word_count, self._confidence_sum
        if self._word is not None:
            count, total = count + 1, total + self._word.confidence
        return total / count if count else 0.0

    @property
    def stability(self) -> float:
        """Share of the words so far that are closed: tokens are never taken back, so that only the last may change."""
        return self._word_count / (self._word_count + 1) if self._word is not None or self._bytes else 1.0

    def add(self, token: int, frame: int, prob: float) -> None:
        """Appends a token emitted at a frame of the segment, with its probability."""
        byte = self._vocabulary.byte[token]
        if byte >= 0:
            run = self._run
            if not self._bytes:
                run.start, run.prob_sum, run.tokens = frame, 0.0, 0
            run.end, run.prob_sum, run.tokens = frame + 1, run.prob_sum + prob, run.tokens + 1
            self._bytes.append(byte)
            return
        self._close_bytes()
        surface = self._vocabulary.surface[token]
        if not self._text and self._vocabulary.strippable[token]:
            surface = surface[1:]
        self._append(surface, frame, frame + 1, prob, 1)

    def finish(self, limit_ms: int) -> Utterance:
        """Returns the finished utterance and starts the next.

        Args:
            limit_ms: the stream's audio so far; no word ends after it.
        """
        self._close_bytes()
        self._close_word()
        words = self._timed_words(limit_ms)
        if self._bare:
            bare = (replace(word, text=unpunctuated(word.text)) for word in words)
            words = tuple(word for word in bare if word.text)
        utterance = Utterance(self.text, words, self.confidence)
        self._clear()
        return utterance

    def _close_bytes(self) -> None:
        if self._bytes:
            surface = _utf8(self._bytes)
            self._bytes.clear()
            self._append(surface, self._run.start, self._run.end, self._run.prob_sum, self._run.tokens)

    def _append(self, surface: str, start: int, end: int, prob_sum: float, tokens: int) -> None:
        """Appends the surface of so many tokens to the text, and to the words."""
        self._text += surface
        for number, part in enumerate(surface.split(" ")):
            if number:
                self._close_word()
            if not part:
                continue
            word = self._word
            if word is None:
                self._word = _OpenWord(part, start, end, prob_sum, tokens)
            else:
                word.text, word.end = word.text + part, end
                word.prob_sum, word.tokens = word.prob_sum + prob_sum, word.tokens + tokens

    def _close_word(self) -> None:
        if self._word is not None:
            self._word_count += 1
            self._confidence_sum += self._word.confidence
            if self._keep_words:
                self._words.append(self._word)
            self._word = None

    def _timed_words(self, limit_ms: int) -> tuple[Word, ...]:
        """Gives the closed words their times: from the segment's start or the word before, and to the limit at most."""
        self._last_end_ms = max(self._last_end_ms, min(round(self._offset_ms), limit_ms))
        starts = [self._ms(word.start) - self._start_lag_ms for word in self._words]
        ends = [self._ms(word.end) - self._end_lag_ms for word in self._words]
        for at in range(1, len(starts)):
            if starts[at] < ends[at - 1]:
                starts[at] = ends[at - 1] = (starts[at] + ends[at - 1]) / 2
        words = []
        for word, start, end in zip(self._words, starts, ends, strict=True):
            start_ms = min(max(self._last_end_ms, round(start)), limit_ms)
            self._last_end_ms = end_ms = min(max(start_ms, round(end)), limit_ms)
            words.append(Word(word.text, start_ms, end_ms, word.confidence))
        return tuple(words)

    def _ms(self, frame: int) -> float:
        return self._offset_ms + frame * self._frame_ms


def _surface(piece: str) -> str:
    """Returns the text that a piece stands for; "" for control and byte pieces."""
    if piece == "<unk>":
        return _UNKNOWN
    return "" if piece in _CONTROL or _BYTE.fullmatch(piece) else piece.replace(_SPACE, " ")


def _utf8(data: bytes | bytearray) -> str:
    """Decodes UTF-8, with one replacement character for each byte that is not part of a character."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in text)
