"""Makes text and words of tokens, one utterance at a time. Pure; the cost of a step is that of its new tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from asr_service.core.values import Word
from asr_service.recognition.vocabulary import Vocabulary, belongs_before, unpunctuated

_NO_CHARACTER = "\ufffd"


@dataclass(frozen=True, slots=True)
class Utterance:
    """A finished utterance: its text, its words if they were kept, and the mean confidence of its words."""

    text: str
    words: tuple[Word, ...]
    confidence: float


@dataclass(slots=True)
class _OpenWord:
    """A word that may still grow.

    Attributes:
        text: so far.
        start_ms: of its first token's frame, on the stream's clock.
        end_ms: of its last token's frame.
        earliest_ms: start of the segment that it begins in.
        prob_sum: sum of its tokens' probabilities.
        tokens: how many there are.
    """

    text: str
    start_ms: float
    end_ms: float
    earliest_ms: float
    prob_sum: float
    tokens: int

    @property
    def confidence(self) -> float:
        """Mean probability of its tokens."""
        return self.prob_sum / self.tokens


class Transcript:
    """Makes the text and the words of a stream's current utterance.

    Where the model goes on after the end of an utterance, marks that it then writes before the next word (`? What`)
    belong to what was final already; they are left out.

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
        # Whether the model goes on after an utterance of the same segment.
        self._goes_on = False
        self._clear()

    def _clear(self) -> None:
        self._text = ""
        # Whether a space was dropped at the text's start.
        self._space_dropped = False
        # A run of byte pieces that may go on, with its times and probabilities.
        self._bytes = bytearray()
        self._run = _OpenWord("", 0.0, 0.0, 0.0, 0.0, 0)
        self._word: _OpenWord | None = None
        # Whether a space has come after the open word, so that the next text is another's.
        self._word_over = False
        # The closed words if they are kept, and in any case how many there are and the sum of their confidences.
        self._words: list[_OpenWord] = []
        self._word_count = 0
        self._confidence_sum = 0.0

    def start_segment(self, offset_ms: float) -> None:
        """Starts a segment, whose frames count from this time on the stream's clock; an utterance may be going on."""
        self._offset_ms = offset_ms
        self._goes_on = False

    @property
    def text(self) -> str:
        """The utterance so far, as SentencePiece decodes its tokens; `unpunctuated` without `punctuation`."""
        text = self._joined(_utf8(self._bytes)) if self._bytes and not self.is_empty else self._text
        return unpunctuated(text) if self._bare else text

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the utterance has come; also while the first bytes may still become a mark left out."""
        return not self._text and (not self._bytes or self._is_late(_utf8(self._bytes).strip(_NO_CHARACTER)))

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
        vocabulary = self._vocabulary
        start_ms = self._offset_ms + frame * self._frame_ms
        end_ms = start_ms + self._frame_ms
        byte = vocabulary.byte[token]
        if byte >= 0:
            run = self._run
            if not self._bytes:
                run.start_ms, run.earliest_ms, run.prob_sum, run.tokens = start_ms, self._offset_ms, 0.0, 0
            run.end_ms, run.prob_sum, run.tokens = end_ms, run.prob_sum + prob, run.tokens + 1
            self._bytes.append(byte)
            return
        self._close_bytes()
        if vocabulary.language[token] or vocabulary.ends_utterance[token]:
            # The space before it is its own: NeMo's `strip_lang_tags` removes both.
            self._text = self._text.rstrip(" ")
            self._word_over = False
            return
        surface = vocabulary.surface[token]
        if not self._text and vocabulary.strippable[token]:
            surface = surface[1:]
            self._space_dropped = True
        self._append(_OpenWord(surface, start_ms, end_ms, self._offset_ms, prob, 1))

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
        self._goes_on = True
        return utterance

    def _close_bytes(self) -> None:
        if self._bytes:
            run = replace(self._run, text=_utf8(self._bytes))
            self._bytes.clear()
            self._append(run)

    def _is_late(self, surface: str) -> bool:
        """Tells whether a surface that would begin the text belongs to the utterance before it."""
        return self._goes_on and not self._text and belongs_before(surface, after_space=self._space_dropped)

    def _joined(self, surface: str) -> str:
        """Returns the text so far and a surface, without the space between them if a mark follows that joins."""
        text, mark = self._text, surface.removeprefix(" ")
        if mark[:1] and mark[0] in self._vocabulary.joins:
            return text + mark if mark != surface else text.removesuffix(" ") + mark
        return text + surface

    def _append(self, run: _OpenWord) -> None:
        """Appends the surface of one or more tokens, at these times, to the text and to the words."""
        if self._is_late(run.text):
            return
        before = len(self._text)
        self._text = self._joined(run.text)
        if len(self._text) < before + len(run.text):
            # A space was dropped; unless there were two, the mark belongs to the word before it.
            run = replace(run, text=run.text.lstrip(" "))
            self._word_over = self._text.removesuffix(run.text).endswith(" ")
        for number, part in enumerate(run.text.split(" ")):
            self._word_over |= number > 0
            if not part:
                continue
            if self._word_over:
                self._close_word()
            word = self._word
            if word is None:
                self._word = replace(run, text=part)
            else:
                word.text, word.end_ms = word.text + part, run.end_ms
                word.prob_sum, word.tokens = word.prob_sum + run.prob_sum, word.tokens + run.tokens

    def _close_word(self) -> None:
        self._word_over = False
        if self._word is not None:
            self._word_count += 1
            self._confidence_sum += self._word.confidence
            if self._keep_words:
                self._words.append(self._word)
            self._word = None

    def _timed_words(self, limit_ms: int) -> tuple[Word, ...]:
        """Gives the closed words their times: from the segment's start or the word before, and to the limit at most."""
        starts = [word.start_ms - self._start_lag_ms for word in self._words]
        ends = [word.end_ms - self._end_lag_ms for word in self._words]
        for at in range(1, len(starts)):
            if starts[at] < ends[at - 1]:
                starts[at] = ends[at - 1] = (starts[at] + ends[at - 1]) / 2
        words = []
        for word, start, end in zip(self._words, starts, ends, strict=True):
            earliest_ms = max(self._last_end_ms, round(word.earliest_ms))
            start_ms = min(max(earliest_ms, round(start)), limit_ms)
            self._last_end_ms = end_ms = min(max(start_ms, round(end)), limit_ms)
            words.append(Word(word.text, start_ms, end_ms, word.confidence))
        return tuple(words)


def _utf8(data: bytes | bytearray) -> str:
    """Decodes UTF-8, with one replacement character for each byte that is not part of a character."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(_NO_CHARACTER if "\udc80" <= char <= "\udcff" else char for char in text)
