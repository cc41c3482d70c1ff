"""One stream: what has come, what its next step takes, and what the step's tokens mean. Pure; clocks are arguments.

A segment is what the model hears as one. At a finalize request the audio is flushed with its true length, so that the
model starts anew after it, while the stream's clock and its utterance count go on. An endpoint ends only the utterance.
Where the model itself says that an utterance is over (`<EOU>`), it starts anew too, with the next chunk and without a
flush: it writes nothing more otherwise. `states.py` has the tables of a stream's states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from asr_service.core.errors import OutOfOrder
from asr_service.core.model import ModelInfo
from asr_service.core.values import Encoding, FinalReason, Result, StreamConfig
from asr_service.recognition.chunk_cutter import Chunk, ChunkCutter
from asr_service.recognition.endpointing import Endpointer, frame_levels
from asr_service.recognition.languages import AUTO, choose_language
from asr_service.recognition.states import INPUT, WORK, Happening, Input, Work
from asr_service.recognition.transcript import Transcript
from asr_service.recognition.vocabulary import Vocabulary, ends_utterances

END_OF_UTTERANCE = FinalReason.END_OF_UTTERANCE


class _CutChunk(NamedTuple):
    """A chunk, whether all audio of its segment was cut with it, and the cutter's clock before it."""

    chunk: Chunk
    in_silence: bool
    clock: float


class Stream:
    """Turns one stream's bytes into chunks for the model, and the model's tokens into results.

    `take_chunks` gives out the chunks that are cut, and `answer` takes the answers to them in the same order.

    Args:
        config: what the client asked for.
        info: of the model.
        vocabulary: of the model.
        now: monotonic seconds.
        finalize_silence_ms: see `ChunkCutter`.
        read_ahead: chunks that may be cut and not answered. With more than one, an answer that makes the model start
            anew comes too late for what was cut ahead: that is put back and cut anew, and its own answer ignored.

    Raises:
        InvalidArgument: the model does not know the config's language.

    Attributes:
        input: state of the input machine.
        work: state of the work machine.
    """

    def __init__(
        self,
        config: StreamConfig,
        info: ModelInfo,
        vocabulary: Vocabulary,
        now: float,
        finalize_silence_ms: int = 0,
        *,
        read_ahead: int = 1,
    ) -> None:
        self.input = Input.OPEN
        self.work = Work.FRESH
        self._info = info
        self._interims = config.interim_results
        language = choose_language(config.language, info)
        # What the model last said that it hears; before that what the client has named.
        self._language = "" if language == AUTO else language
        self._end_tokens = config.end_tokens
        self._vocabulary = vocabulary
        self._cutter = ChunkCutter(config.encoding, config.sample_rate, info, now, finalize_silence_ms)
        self._transcript = Transcript(
            vocabulary,
            info.frame_ms,
            keep_words=config.word_times,
            lag_ms=info.word_lag_ms,
            punctuation=config.punctuation,
        )
        self._endpointer = Endpointer(config.endpointing, info.frame_ms)
        self._utterance = 0
        self._read_ahead = read_ahead
        # Then an answer may change how what follows is cut.
        self._may_restart = ends_utterances(info.pieces)
        # Chunks that are cut and not answered, in their order; those of them that `take_chunks` has not given out yet.
        self._cut_chunks: deque[_CutChunk] = deque()
        self._new_chunks: list[Chunk] = []
        # Answers that are still to come to chunks that were put back.
        self._ignored = 0
        self._next_is_first = True
        # Whether the model has said that the utterance is over, which is final with the next word or the step's end.
        self._is_over = False
        # Of the stream: samples of the client's and encoder frames that were stepped, and frames before the segment.
        self._stepped = 0
        self._frames = 0
        self._segment_start = 0

    # ------------------------------------------------------------------------------------------------- what comes in

    def set_format(self, encoding: Encoding, sample_rate: int) -> None:
        """Says how audio is to be read, where that is known later than the config; before the first of it."""
        self._cutter.set_format(encoding, sample_rate)

    def audio(self, data: bytes, now: float) -> None:
        """Takes audio bytes. Raises OutOfOrder after the input's end."""
        if self.input is not Input.OPEN:
            self._move_input(Happening.AUDIO)
        self._cutter.add(data, now)
        if self._cutter.may_complete:
            self._cut()

    def finalize(self, tag: str, now: float, unix_ms: int) -> list[Result]:
        """Marks a final's place; gives it at once if nothing needs a step. Raises OutOfOrder after the input's end."""
        self._move_input(Happening.FINALIZE)
        self._cutter.add_mark(now, FinalReason.FINALIZE, tag)
        return self._proceed(unix_ms)

    def half_close(self, now: float, unix_ms: int, *, by_server: bool = False) -> list[Result]:
        """Marks the stream's end, as `finalize` does. Raises OutOfOrder after the input's end."""
        self._move_input(Happening.HALF_CLOSE)
        self._cutter.add_mark(now, FinalReason.ENDED_BY_SERVER if by_server else FinalReason.END_OF_STREAM)
        return self._proceed(unix_ms)

    def cancel(self) -> None:
        """Ends the stream at once; nothing more comes of it."""
        self._move_input(Happening.CANCEL)
        self._move_work(Happening.CANCEL)
        self._cut_chunks.clear()
        self._new_chunks.clear()

    def break_off(self, unix_ms: int) -> Result | None:
        """Ends the stream at once, since the model answers no more.

        Returns:
            The final of what was heard of the utterance so far; None without text.
        """
        is_over = self.work is Work.ENDED
        self.cancel()
        if is_over or self._transcript.is_empty:
            return None
        final = self._final(FinalReason.ENDED_BY_SERVER, "", unix_ms)
        return final if final.text else None

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have come and are in no chunk yet."""
        return self._cutter.waiting_bytes

    @property
    def next_chunk(self) -> tuple[int, int]:
        """Where the chunk that is not complete yet ends.

        Returns:
            Bytes of the stream, from its first one, that it needs at least, as long as no finalize request comes in
            between; 0 if that is not known. And bytes of every chunk after it, with which the former are exact; 0 if
            that is not always the same.
        """
        return self._cutter.next_chunk(is_ahead=len(self._cut_chunks) + self._ignored >= self._read_ahead)

    # ------------------------------------------------------------------------------------------ to the model and back

    def take_chunks(self) -> list[Chunk]:
        """Takes the chunks that were cut since the last call, in their order."""
        chunks, self._new_chunks = self._new_chunks, []
        return chunks

    def answer(
        self,
        tokens: Sequence[int],
        token_frames: Sequence[int],
        probs: Sequence[float],
        frames: int,
        unix_ms: int,
    ) -> list[Result]:
        """Takes what the model made of the oldest chunk without an answer.

        Args:
            tokens: new token ids.
            token_frames: encoder frame that each was emitted at, counted from the chunk's first.
            probs: probability of each in [0, 1].
            frames: encoder frames decoded.
            unix_ms: unix time, ms.

        Returns:
            The results that follow from it, in order.
        """
        if self._ignored:
            self._ignored -= 1
            return self._proceed(unix_ms)
        chunk, in_silence, _ = self._cut_chunks.popleft()
        self._stepped += chunk.client_samples
        self._move_work(Happening.STEP)
        results: list[Result] = []
        if self._endpointer.needs_levels:
            self._endpointer.add_levels(frame_levels(chunk.samples, frames, self._info.frame_samples))
        ends = False
        # Frames of the segment before this chunk.
        before = self._frames - self._segment_start
        for token, frame, prob in zip(tokens, token_frames, probs, strict=True):
            if reason := self._before(token, self._frames + frame):
                results.append(self._final(reason, "", unix_ms))
            self._transcript.add(token, before + frame, prob)
            ends |= self._hear(token, self._frames + frame)
        self._frames += frames
        # Otherwise the final of the mark that follows says it all.
        if not (chunk.is_last or in_silence):
            reason = END_OF_UTTERANCE if self._is_over else self._endpointer.after_frames(self._frames)
            if reason:
                results.append(self._final(reason, "", unix_ms))
            elif self._interims:
                results.append(self._interim(unix_ms))
            if ends:
                self._start_segment(Happening.MODEL_RESTART)
                self._put_back()
        return results + self._proceed(unix_ms)

    @property
    def audio_s(self) -> float:
        """Audio stepped so far, in seconds."""
        return self._stepped / self._info.sample_rate

    def _proceed(self, unix_ms: int) -> list[Result]:
        """Cuts what may be cut; answers the marks that are reached without a chunk."""
        finals: list[Result] = []
        self._cut()
        while not self._cut_chunks and self._cutter.mark:
            mark = self._cutter.pass_mark()
            finals.append(self._final(mark.reason, mark.tag, unix_ms))
            goes_on = mark.reason is FinalReason.FINALIZE
            self._start_segment(Happening.SEGMENT_END if goes_on else Happening.STREAM_END)
            self._cut()
        return finals

    def _start_segment(self, why: Happening) -> None:
        """Lets the next step be a segment's first."""
        self._move_work(why)
        self._next_is_first = True
        self._segment_start = self._frames
        self._transcript.start_segment(1000 * self.audio_s)

    def _cut(self) -> None:
        """Cuts chunks as far as their audio is there and as many may be unanswered."""
        while len(self._cut_chunks) + self._ignored < self._read_ahead:
            clock = self._cutter.clock
            if self._cut_chunks and self._cut_chunks[-1].chunk.is_last:
                return
            if self._cut_chunks and self._may_restart:
                chunk = self._cutter.cut_ahead()
            else:
                chunk = self._cutter.cut(is_first=self._next_is_first)
            if chunk is None:
                return
            self._next_is_first = False
            self._cut_chunks.append(_CutChunk(chunk, self._cutter.silence_added, clock))
            self._new_chunks.append(chunk)

    def _put_back(self) -> None:
        """Takes back what was cut for a segment that has ended before it; there is always room for the next cut."""
        if not self._cut_chunks:
            return
        self._cutter.put_back([cut.chunk for cut in self._cut_chunks], self._cut_chunks[0].clock)
        # Those that were not given out yet are not answered either.
        self._ignored += len(self._cut_chunks) - len(self._new_chunks)
        self._cut_chunks.clear()
        self._new_chunks.clear()

    # ----------------------------------------------------------------------------------------------------- its results

    def _before(self, token: int, frame: int) -> FinalReason | None:
        """Returns why the utterance ends before a token, which then belongs to the next one; None if it goes on."""
        vocabulary = self._vocabulary
        if not vocabulary.is_text[token]:
            return None
        starts_word = vocabulary.starts_word[token]
        if self._is_over and (starts_word or vocabulary.is_spoken[token]):
            return END_OF_UTTERANCE
        return self._endpointer.before_token(frame, starts_word=starts_word)

    def _hear(self, token: int, frame: int) -> bool:
        """Takes in what a token says beside its text; returns whether the model has to start anew after it."""
        vocabulary = self._vocabulary
        self._language = vocabulary.language[token] or self._language
        if vocabulary.is_spoken[token] and not self._transcript.is_empty:
            self._endpointer.add_token(frame)
        if not vocabulary.ends_utterance[token]:
            return False
        # Without a word there is nothing to be final.
        self._is_over |= self._end_tokens and self._endpointer.has_word
        return True

    def _final(self, reason: FinalReason, tag: str, unix_ms: int) -> Result:
        made, audio_ms = self._transcript.finish(self._audio_ms), self._audio_ms
        result = Result(
            made.text, reason, self._utterance, made.words, made.confidence, audio_ms, tag, unix_ms,
            language=self._language,
        )  # fmt: skip
        self._endpointer.start_utterance(self._frames)
        self._is_over = False
        self._utterance += 1
        return result

    def _interim(self, unix_ms: int) -> Result:
        now, audio_ms = self._transcript, self._audio_ms
        return Result(
            now.text, None, self._utterance, (), now.confidence, audio_ms, "", unix_ms, now.stability,
            self._language,
        )  # fmt: skip

    @property
    def _audio_ms(self) -> int:
        return round(1000 * self.audio_s)

    def _move_input(self, happening: Happening) -> None:
        state = INPUT[self.input].get(happening)
        if state is None:
            raise OutOfOrder(f"{happening.value} after the end of the stream's input")
        self.input = state

    def _move_work(self, happening: Happening) -> None:
        self.work = WORK[self.work][happening]
