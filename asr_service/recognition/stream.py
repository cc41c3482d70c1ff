"""One stream: what has come, what its next step takes, and what the step's tokens mean. Pure; clocks are arguments.

A segment is what lies between two finalize requests: at its end the audio is flushed with its true length, so that the
model starts anew after it, while the stream's clock and its utterance count go on. An endpoint ends only the utterance.
`states.py` has the tables of a stream's states.
"""

from __future__ import annotations

from asr_service.core.commands import Consumed
from asr_service.core.errors import OutOfOrder
from asr_service.core.model import ModelInfo, StepRequest, StepResult
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.recognition.chunk_cutter import Chunk, ChunkCutter
from asr_service.recognition.endpointing import Endpointer, frame_levels
from asr_service.recognition.states import INPUT, WORK, Happening, Input, Work
from asr_service.recognition.transcript import Transcript, Vocabulary


class Stream:
    """Turns one stream's bytes into steps of the model, and the steps' tokens into results. The engine owns it.

    `ready_at` says since when (or, for an upload, as of when) a step is due; `request` and `answer` carry it through
    the model.

    Args:
        stream: the engine's id of the stream, never reused.
        config: what the client asked for.
        info: of the model.
        vocabulary: of the model.
        slot: the stream's row of pooled state.
        now: monotonic seconds.
        finalize_silence_ms: see `ChunkCutter`.

    Attributes:
        id: the engine's id of the stream.
        slot: as given.
        input: state of the input machine.
        work: state of the work machine.
        ready_at: monotonic time at which the next step is due, None if there is nothing to step.
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
    ) -> None:
        self.id = stream
        self.slot = slot
        self.input = Input.OPEN
        self.work = Work.FRESH
        self.ready_at: float | None = None
        self._info = info
        self._interims = config.interim_results
        self._boosts = config.boosts
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
        # The chunk that is ready to be stepped.
        self._chunk: Chunk | None = None
        # Samples of the client's that were stepped, in the whole stream, and encoder frames of the segment.
        self._stepped = 0
        self._frames = 0
        # When the last step was answered.
        self._answered = now

    # ------------------------------------------------------------------------------------------------- what comes in

    def audio(self, data: bytes, now: float) -> None:
        """Takes audio bytes. Raises OutOfOrder after the input's end."""
        if self.input is not Input.OPEN:
            self._move_input(Happening.AUDIO)
        self._cutter.add(data, now)
        if self._chunk is None and self._cutter.may_complete:
            self._cut()

    def finalize(self, tag: str, now: float, unix_ms: int) -> list[Result]:
        """Marks a final's place; gives it at once if nothing needs a step. Raises OutOfOrder after the input's end."""
        self._move_input(Happening.FINALIZE)
        self._cutter.add_mark(now, tag)
        return self._proceed(unix_ms)

    def half_close(self, now: float, unix_ms: int) -> list[Result]:
        """Marks the stream's end, as `finalize` does. Raises OutOfOrder after the input's end."""
        self._move_input(Happening.HALF_CLOSE)
        self._cutter.add_mark(now, None)
        return self._proceed(unix_ms)

    def cancel(self) -> None:
        """Ends the stream at once; nothing more comes of it."""
        self._move_input(Happening.CANCEL)
        self._move_work(Happening.CANCEL)
        self.ready_at = None

    # ------------------------------------------------------------------------------------------ to the model and back

    def request(self) -> StepRequest:
        """Makes the request of the step that is ready."""
        chunk = self._chunk
        assert chunk is not None
        boosts = self._boosts if chunk.is_first else ()
        return StepRequest(self.slot, chunk.samples, chunk.is_first, chunk.is_last, boosts)

    def answer(self, step: StepResult, now: float, unix_ms: int) -> list[Result]:
        """Takes what the step made of `request` and gives the results that follow from it, in order."""
        self._answered = now
        chunk = self._chunk
        assert chunk is not None
        self.ready_at = self._chunk = None
        self._stepped += chunk.client_samples
        self._move_work(Happening.STEP)
        results: list[Result] = []
        if self._endpointer.needs_levels:
            self._endpointer.add_levels(frame_levels(chunk.samples, step.frames, self._info.frame_samples))
        for token, frame, prob in zip(step.tokens, step.token_frames, step.token_probs, strict=True):
            starts_word = self._vocabulary.starts_word[token]
            if reason := self._endpointer.before_token(frame, starts_word=starts_word):
                results.append(self._final(reason, "", unix_ms))
            self._transcript.add(token, frame, prob)
            self._endpointer.add_token(frame)
        self._frames += step.frames
        if chunk.is_last or self._cutter.silence_added:
            # The final of the mark that follows says it all.
            pass
        elif reason := self._endpointer.after_frames(self._frames):
            results.append(self._final(reason, "", unix_ms))
        elif self._interims:
            results.append(self._interim(unix_ms))
        return results + self._proceed(unix_ms)

    def take_consumed(self) -> Consumed:
        """Says what was decoded since the last call, and what the chunk after the one that is ready needs."""
        return Consumed(self.id, *self._cutter.take_consumed(chunk_waits=self._chunk is not None))

    @property
    def audio_s(self) -> float:
        """Audio stepped so far, in seconds."""
        return self._stepped / self._info.sample_rate

    def _proceed(self, unix_ms: int) -> list[Result]:
        """Cuts the next chunk; answers the marks that are reached without one."""
        finals: list[Result] = []
        while self._chunk is None and not self._cut() and self._cutter.mark:
            mark = self._cutter.pass_mark()
            reason = FinalReason.END_OF_STREAM if mark.tag is None else FinalReason.FINALIZE
            finals.append(self._final(reason, mark.tag or "", unix_ms))
            self._move_work(Happening.STREAM_END if mark.tag is None else Happening.SEGMENT_END)
            self._frames = 0
            self._endpointer.start_segment()
            self._transcript.start_segment(1000 * self.audio_s)
        return finals

    def _cut(self) -> bool:
        """Cuts the next chunk if its audio is there; returns whether there is one now."""
        self._chunk = self._cutter.cut(is_first=self.work is Work.FRESH)
        if self._chunk is None:
            return False
        # A stream that has more than one chunk waiting queues again for each.
        self.ready_at = max(self._chunk.due, self._answered)
        return True

    # ----------------------------------------------------------------------------------------------------- its results

    def _final(self, reason: FinalReason, tag: str, unix_ms: int) -> Result:
        made, audio_ms = self._transcript.finish(self._audio_ms), self._audio_ms
        result = Result(
            self.id, made.text, reason, self._utterance, made.words, made.confidence, audio_ms, tag, unix_ms
        )
        self._endpointer.start_utterance(self._frames)
        self._utterance += 1
        return result

    def _interim(self, unix_ms: int) -> Result:
        now, audio_ms = self._transcript, self._audio_ms
        return Result(
            self.id, now.text, None, self._utterance, (), now.confidence, audio_ms, "", unix_ms, now.stability
        )

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
