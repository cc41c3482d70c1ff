"""One stream: what has come, what its next step takes, and what the step's tokens mean. Pure; clocks are arguments.

A stream is two small machines, as tables. The input machine says what the client may still send. The work machine says
what the stream's slot holds: nothing of use (FRESH, the next step is a first one) or the state after the segment's
last step (RUNNING). A segment is what lies between two finalize marks: at its end the audio is flushed with its true
length (and what `finalize_silence_ms` adds to it, which is on no clock), so the model starts anew after it, while the
stream's clock and its utterance count go on. An endpoint ends
only the utterance. `python -m asr_service.recognition.stream` prints the tables.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np

from asr_service.core.commands import Consumed
from asr_service.core.errors import OutOfOrder
from asr_service.core.model import ModelInfo, StepRequest, StepResult
from asr_service.core.values import FinalReason, Result, Samples, StreamConfig
from asr_service.recognition.audio import AudioReader
from asr_service.recognition.endpointing import Endpointer, frame_levels
from asr_service.recognition.transcript import Transcript, Vocabulary

BURST_S = 1.0
"""So much audio may come at once and count as live: the start of a sentence that was kept while connecting, or what a
network held up. What is further ahead of real time is an upload."""

_SAME_ARRIVAL_S = 0.001  # packets closer than this count as one arrival, so that tiny ones cost no memory


class Input(Enum):
    """What the client may still send."""

    OPEN = "open"
    CLOSED = "closed"


class Work(Enum):
    """What the stream's slot holds."""

    FRESH = "fresh"
    RUNNING = "running"
    ENDED = "ended"


class Happening(Enum):
    """What moves the machines: the first four come from the client, the others from the work."""

    AUDIO = "audio"
    FINALIZE = "finalize"
    HALF_CLOSE = "half-close"
    CANCEL = "cancel"
    STEP = "step"
    SEGMENT_END = "segment end"
    STREAM_END = "stream end"


INPUT: dict[Input, dict[Happening, Input]] = {
    Input.OPEN: {
        Happening.AUDIO: Input.OPEN,
        Happening.FINALIZE: Input.OPEN,
        Happening.HALF_CLOSE: Input.CLOSED,
        Happening.CANCEL: Input.CLOSED,
    },
    Input.CLOSED: {Happening.CANCEL: Input.CLOSED},
}

WORK: dict[Work, dict[Happening, Work]] = {
    Work.FRESH: {
        Happening.STEP: Work.RUNNING,
        Happening.SEGMENT_END: Work.FRESH,
        Happening.STREAM_END: Work.ENDED,
        Happening.CANCEL: Work.ENDED,
    },
    Work.RUNNING: {
        Happening.STEP: Work.RUNNING,
        Happening.SEGMENT_END: Work.FRESH,
        Happening.STREAM_END: Work.ENDED,
        Happening.CANCEL: Work.ENDED,
    },
    Work.ENDED: {Happening.CANCEL: Work.ENDED},
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A request in the byte stream: the final of everything before it. `tag` is None for half-close."""

    position: int
    arrived: float
    tag: str | None


class Stream:
    """The state of one stream; the engine owns it.

    Bytes stay as they came until a step's worth is there, then they are cut and decoded at once. `ready_at` then says
    since when (or, for an upload, as of when) the step is due; `request` and `answer` carry it through the model.

    Args:
        stream: the engine's id of the stream, never reused.
        config: what the client asked for.
        info: of the model.
        vocabulary: of the model.
        slot: the stream's row of pooled state.
        now: monotonic seconds.
        finalize_silence_ms: digital silence that follows a segment's audio where the client asks for a final, so that
            a word which ends there is heard to its end. None follows the stream's end.

    Attributes:
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
        self._transcript = Transcript(
            vocabulary,
            info.frame_ms,
            keep_words=config.word_times,
            lag_ms=info.word_lag_ms,
            punctuation=config.punctuation,
        )
        self._endpointer = Endpointer(config.endpointing, info.frame_ms)
        self._utterance = 0
        # Undecoded bytes, and where they and the marks lie in the stream's bytes.
        self._reader = AudioReader(config.encoding, config.sample_rate, info.sample_rate)
        self._bytes = bytearray()
        self._received = 0
        self._decoded = 0
        self._reported = 0
        self._enough = self._reader.bytes_for(info.first_chunk_samples)  # fewer cannot make a chunk
        self._each = self._reader.exactly(info.chunk_samples)
        self._arrivals: deque[tuple[int, float]] = deque()  # (bytes received by then, time)
        self._marks: deque[Mark] = deque()
        # Decoded samples that no chunk has taken, and the chunk cut from them.
        self._samples: list[Samples] = []
        self._have = 0
        self._chunk: StepRequest | None = None
        # Silence that is to follow a finalized segment, whether it is there, and how much of it no chunk has taken.
        self._silence = np.zeros(finalize_silence_ms * info.sample_rate // 1000, np.float32)
        self._silenced = False
        self._silent = 0
        self._heard = 0  # samples of the chunk that are the client's
        self._stepped = 0  # samples of the whole stream that were stepped
        self._frames = 0  # encoder frames of the segment
        self._answered = now  # when the last step was answered
        self._clock = now - BURST_S  # goes on by the audio's length, at most BURST_S behind its arrival

    # ------------------------------------------------------------------------------------------------- what comes in

    def audio(self, data: bytes, now: float) -> None:
        """Takes audio bytes. Raises OutOfOrder after the input's end."""
        if self.input is not Input.OPEN:
            self._move_input(Happening.AUDIO)
        self._bytes += data
        self._received += len(data)
        if self._arrivals and now - (last := self._arrivals[-1][1]) < _SAME_ARRIVAL_S:
            self._arrivals[-1] = (self._received, last)
        else:
            self._arrivals.append((self._received, now))
        if self.ready_at is None and len(self._bytes) >= self._enough:
            self._cut()

    def finalize(self, tag: str, now: float, unix_ms: int) -> list[Result]:
        """Marks a final's place; gives it at once if nothing needs a step. Raises OutOfOrder after the input's end."""
        self._move_input(Happening.FINALIZE)
        self._marks.append(Mark(self._received, now, tag))
        return self._proceed(unix_ms)

    def half_close(self, now: float, unix_ms: int) -> list[Result]:
        """Marks the stream's end, as `finalize` does. Raises OutOfOrder after the input's end."""
        self._move_input(Happening.HALF_CLOSE)
        self._marks.append(Mark(self._received, now, None))
        return self._proceed(unix_ms)

    def cancel(self) -> None:
        """Ends the stream at once; nothing more comes of it."""
        self._move_input(Happening.CANCEL)
        self._move_work(Happening.CANCEL)
        self.ready_at = None

    # ------------------------------------------------------------------------------------------ to the model and back

    def request(self) -> StepRequest:
        """The step that is ready."""
        assert self._chunk is not None
        return self._chunk

    def answer(self, step: StepResult, now: float, unix_ms: int) -> list[Result]:
        """Takes what the step made of `request` and gives the results that follow from it, in order."""
        self._answered = now
        chunk = self._chunk
        assert chunk is not None
        self.ready_at = self._chunk = None
        self._stepped += self._heard
        self._move_work(Happening.STEP)
        results: list[Result] = []
        if self._endpointer.listens:
            self._endpointer.audio(frame_levels(chunk.samples, step.frames, self._info.frame_samples))
        for token, frame, prob in zip(step.tokens, step.token_frames, step.token_probs, strict=True):
            starts_word = self._vocabulary.starts_word[token]
            if reason := self._endpointer.before_token(frame, starts_word=starts_word):
                results.append(self._final(reason, "", unix_ms))
            self._transcript.add(token, frame, prob)
            self._endpointer.token(frame)
        self._frames += step.frames
        if chunk.is_last or self._silenced:
            pass  # the mark's final says it all
        elif reason := self._endpointer.after_frames(self._frames):
            results.append(self._final(reason, "", unix_ms))
        elif self._interims:
            results.append(self._so_far(unix_ms))
        return results + self._proceed(unix_ms)

    def take_consumed(self) -> Consumed:
        """What was decoded since the last call, and what the chunk after the one that is ready needs."""
        consumed, self._reported = self._decoded - self._reported, self._decoded
        if self._marks:
            return Consumed(self.id, consumed)  # a mark says where the next chunk ends
        return Consumed(self.id, consumed, self._needed(), self._each)

    @property
    def audio_s(self) -> float:
        """Audio stepped so far, in seconds."""
        return self._stepped / self._info.sample_rate

    # -------------------------------------------------------------------------------------------------- how it is cut

    def _proceed(self, unix_ms: int) -> list[Result]:
        """Cuts the next chunk; answers the marks that are reached without one."""
        finals: list[Result] = []
        while self.ready_at is None and not self._cut() and self._marks:
            mark = self._marks.popleft()
            reason = FinalReason.END_OF_STREAM if mark.tag is None else FinalReason.FINALIZE
            finals.append(self._final(reason, mark.tag or "", unix_ms))
            self._move_work(Happening.STREAM_END if mark.tag is None else Happening.SEGMENT_END)
            self._frames = 0
            self._silenced = False
            self._endpointer.start_segment()
            self._transcript.start_segment(1000 * self.audio_s)
        return finals

    def _cut(self) -> bool:
        """Cuts a chunk if its audio is there: a full one, or before a mark what is left. Whether there is one now."""
        first = self.work is Work.FRESH
        full = self._info.first_chunk_samples if first else self._info.chunk_samples
        limit = self._marks[0].position if self._marks else self._received
        while self._have < full:
            size = self._reader.bytes_for(full - self._have)
            if size > limit - self._decoded:
                if not self._marks:
                    self._enough = size
                    return False
                size = limit - self._decoded
                if not size:
                    self._keep(self._reader.flush())
                    self._add_silence()
                    break
            self._keep(self._reader.read(bytes(self._bytes[:size])))
            del self._bytes[:size]
            self._decoded += size
        if not self._have:
            return False  # a mark with nothing before it
        last = self._have < full
        self._heard = min(full, self._have - self._silent)
        arrived = self._arrived()
        self._clock = max(self._clock + self._heard / self._info.sample_rate, arrived - BURST_S)
        due = self._marks[0].arrived if last or self._silenced else max(arrived, self._clock)
        joined = self._samples[0] if len(self._samples) == 1 else np.concatenate(self._samples)
        samples, rest = joined[:full], joined[full:]
        self._silent -= len(samples) - self._heard
        self._samples, self._have = ([rest] if rest.size else []), rest.size
        boosts = self._boosts if first else ()
        self._chunk = StepRequest(self.slot, samples, is_first=first, is_last=last, boosts=boosts)
        self.ready_at = max(due, self._answered)  # whoever has more than one chunk queues again
        return True

    def _needed(self) -> int:
        """Bytes of the stream that the next chunk to be cut needs, without a mark."""
        if self._chunk is None:
            return self._decoded + self._enough
        return self._decoded + self._reader.bytes_for(self._info.chunk_samples - self._have)

    def _keep(self, samples: Samples) -> None:
        if samples.size:
            self._samples.append(samples)
            self._have += samples.size

    def _add_silence(self) -> None:
        """Adds the silence of a finalized segment, once, unless the segment has no audio."""
        asked_for = self._marks[0].tag is not None and (self._have or self.work is Work.RUNNING)
        if asked_for and not self._silenced and self._silence.size:
            self._keep(self._silence)
            self._silent = self._silence.size
            self._silenced = True

    def _arrived(self) -> float:
        """When the last byte decoded so far came."""
        arrivals = self._arrivals
        while arrivals[0][0] < self._decoded:
            arrivals.popleft()
        return arrivals[0][1]

    # --------------------------------------------------------------------------------------------------- what it tells

    def _final(self, reason: FinalReason, tag: str, unix_ms: int) -> Result:
        made = self._transcript.finish(self._audio_ms)
        result = Result(
            self.id,
            made.text,
            reason,
            self._utterance,
            made.words,
            made.confidence,
            self._audio_ms,
            tag,
            unix_ms,
        )
        self._endpointer.start_utterance(self._frames)
        self._utterance += 1
        return result

    def _so_far(self, unix_ms: int) -> Result:
        now = self._transcript
        return Result(
            self.id,
            now.text,
            None,
            self._utterance,
            (),
            now.confidence,
            self._audio_ms,
            "",
            unix_ms,
            now.stability,
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


def tables() -> str:
    """Both machines as Markdown tables, for the documentation."""
    lines = []
    for name, table in (("input", INPUT), ("work", WORK)):
        columns = [happening for happening in Happening if any(happening in row for row in table.values())]
        lines.append(f"| {name} | " + " | ".join(column.value for column in columns) + " |")
        lines.append("| --- " * (len(columns) + 1) + "|")
        for state, row in table.items():
            cells = [row[column].value if column in row else "-" for column in columns]
            lines.append(f"| {state.value} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(tables())
