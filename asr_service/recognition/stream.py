"""One stream: what has come, what its next step takes, and what the step's tokens mean. Pure; clocks are arguments.

A segment is what the model hears as one. At a finalize request the audio is flushed with its true length, so that the
model starts anew after it, while the stream's clock and its utterance count go on. An endpoint ends only the utterance.
Where the model itself says that an utterance is over (`<EOU>`), it starts anew too, with the next chunk and without a
flush: it writes nothing more otherwise. `states.py` has the tables of a stream's states.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from asr_service.core.commands import Consumed
from asr_service.core.errors import OutOfOrder
from asr_service.core.model import ModelInfo, StepRequest, StepResult
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.recognition.chunk_cutter import Chunk, ChunkCutter
from asr_service.recognition.endpointing import Endpointer, frame_levels
from asr_service.recognition.languages import AUTO, choose_language, prompt_index
from asr_service.recognition.states import INPUT, WORK, Happening, Input, Work
from asr_service.recognition.transcript import Transcript
from asr_service.recognition.vocabulary import Vocabulary

END_OF_UTTERANCE = FinalReason.END_OF_UTTERANCE
# Of an utterance without interims, the front end is told once so much of it is new: it is all that is left of it if the
# engine fails.
_UNTOLD_SHARE = 0.05


class _CutChunk(NamedTuple):
    """A chunk, whether all audio of its segment was cut with it, and the cutter's clock before it."""

    chunk: Chunk
    in_silence: bool
    clock: float


class Stream:
    """Turns one stream's bytes into steps of the model, and the steps' tokens into results. The engine owns it.

    `ready_at` says since when (or, for an upload, as of when) a step is due; `request` and `answer` carry it through
    the model. Where the next chunk may be cut before the last one is answered, `take_chunks` gives out what is cut, and
    `answer` takes the answers in the same order.

    Args:
        stream: the engine's id of the stream, never reused.
        config: what the client asked for.
        info: of the model.
        vocabulary: of the model.
        slot: the stream's row of pooled state.
        now: monotonic seconds.
        finalize_silence_ms: see `ChunkCutter`.
        keeps_interims: whether a stream whose config asks for no interims makes some all the same, to be kept.
        read_ahead: chunks that may be cut and not answered. With more than one, an answer that makes the model start
            anew comes too late for what was cut ahead: that is put back and cut anew, and its own answer ignored.

    Raises:
        InvalidArgument: the model does not know the config's language.

    Attributes:
        id: the engine's id of the stream.
        slot: as given.
        input: state of the input machine.
        work: state of the work machine.
        restarted: whether the last answer made the model start anew: the next chunk ends before the place that
            `take_consumed` told with the step.
    """

    def __init__(
        self,
        stream: int,
        config: StreamConfig,
        info: ModelInfo,
        vocabulary: Vocabulary,
        slot: int,
        now: float,
        finalize_silence_ms: int = 0,
        *,
        keeps_interims: bool = False,
        read_ahead: int = 1,
    ) -> None:
        self.id = stream
        self.slot = slot
        self.input = Input.OPEN
        self.work = Work.FRESH
        self.restarted = False
        self._info = info
        self._interims = config.interim_results
        self._keeps_interims = keeps_interims
        self._boosts = config.boosts
        self._prompt = prompt_index(config.language, info)
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
        # Frames of the stream before the utterance, and up to its last result.
        self._utterance_start = self._told = 0
        self._read_ahead = read_ahead
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
        # When the last step was answered.
        self._answered = now

    # ------------------------------------------------------------------------------------------------- what comes in

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

    # ------------------------------------------------------------------------------------------ to the model and back

    @property
    def ready_at(self) -> float | None:
        """Monotonic time at which the next step is due, None if there is nothing to step."""
        # A stream that has more than one chunk waiting queues again for each.
        return max(self._cut_chunks[0].chunk.due, self._answered) if self._cut_chunks else None

    def take_chunks(self) -> list[Chunk]:
        """Takes the chunks that were cut since the last call, in their order."""
        chunks, self._new_chunks = self._new_chunks, []
        return chunks

    def request(self) -> StepRequest:
        """Makes the request of the step that is ready."""
        self._new_chunks.clear()
        chunk = self._cut_chunks[0].chunk
        boosts, prompt = (self._boosts, self._prompt) if chunk.is_first else ((), -1)
        return StepRequest(self.slot, chunk.samples, chunk.is_first, chunk.is_last, boosts, prompt)

    def answer(self, step: StepResult, now: float, unix_ms: int) -> list[Result]:
        """Takes what the step made of the oldest chunk and gives the results that follow from it, in order."""
        self._answered = now
        self.restarted = False
        if self._ignored:
            self._ignored -= 1
            return self._proceed(unix_ms)
        chunk, in_silence, _ = self._cut_chunks.popleft()
        self._stepped += chunk.client_samples
        self._move_work(Happening.STEP)
        results: list[Result] = []
        if self._endpointer.needs_levels:
            self._endpointer.add_levels(frame_levels(chunk.samples, step.frames, self._info.frame_samples))
        ends = False
        for token, frame, prob in zip(step.tokens, step.token_frames, step.token_probs, strict=True):
            if reason := self._before(token, self._segment_start + frame):
                results.append(self._final(reason, "", unix_ms))
            self._transcript.add(token, frame, prob)
            ends |= self._hear(token, self._segment_start + frame)
        self._frames += step.frames
        # Otherwise the final of the mark that follows says it all.
        if not (chunk.is_last or in_silence):
            reason = END_OF_UTTERANCE if self._is_over else self._endpointer.after_frames(self._frames)
            if reason:
                results.append(self._final(reason, "", unix_ms))
            elif self._interims or (self._keeps_interims and step.tokens and self._is_much_untold):
                results.append(self._interim(unix_ms))
            self.restarted = ends
            if ends:
                self._start_segment(Happening.MODEL_RESTART)
                self._put_back()
        return results + self._proceed(unix_ms)

    def take_consumed(self) -> Consumed:
        """Says what was decoded since the last call, and what the chunk after the one that is ready needs."""
        return Consumed(self.id, *self._cutter.take_consumed(chunk_waits=bool(self._cut_chunks)))

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
            if not self._cut_chunks:
                chunk = self._cutter.cut(is_first=self._next_is_first)
            elif self._cut_chunks[-1].chunk.is_last:
                return
            else:
                chunk = self._cutter.cut_ahead()
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
            self.id, made.text, reason, self._utterance, made.words, made.confidence, audio_ms, tag, unix_ms,
            language=self._language,
        )  # fmt: skip
        self._endpointer.start_utterance(self._frames)
        self._utterance_start = self._told = self._frames
        self._is_over = False
        self._utterance += 1
        return result

    @property
    def _is_much_untold(self) -> bool:
        """Whether a share of the utterance is new; telling all of a long one each time would cost its square."""
        return self._frames - self._told >= _UNTOLD_SHARE * (self._frames - self._utterance_start)

    def _interim(self, unix_ms: int) -> Result:
        self._told = self._frames
        now, audio_ms = self._transcript, self._audio_ms
        return Result(
            self.id, now.text, None, self._utterance, (), now.confidence, audio_ms, "", unix_ms, now.stability,
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
