"""A stream that is stepped by requests, one chunk after the other: for tests and measurements without an engine."""

from __future__ import annotations

from collections import deque

from asr_service.core.model import ModelInfo
from asr_service.core.values import Result, StreamConfig
from asr_service.recognition.chunk_cutter import Chunk
from asr_service.recognition.languages import prompt_index
from asr_service.recognition.states import Happening
from asr_service.recognition.stream import Stream
from asr_service.recognition.vocabulary import Vocabulary
from testbed.by_request import StepRequest, StepResult


class SteppedStream(Stream):
    """A stream on a slot of a model that is stepped by hand.

    Args:
        config, info, vocabulary, now, finalize_silence_ms, read_ahead: see `Stream`.
        slot: the stream's row of pooled state.

    Attributes:
        restarted: whether the last answer made the model start anew.
        restarts: how often answers have done so.
        cut: how many chunks were cut so far.
    """

    def __init__(
        self,
        config: StreamConfig,
        info: ModelInfo,
        vocabulary: Vocabulary,
        now: float = 0.0,
        finalize_silence_ms: int = 0,
        *,
        slot: int = 0,
        read_ahead: int = 1,
    ) -> None:
        super().__init__(config, info, vocabulary, now, finalize_silence_ms, read_ahead=read_ahead)
        self.restarted = False
        self.restarts = 0
        self.cut = 0
        self._slot = slot
        self._config, self._prompt = config, prompt_index(config.language, info)
        self._waiting: deque[Chunk] = deque()
        self._answered_at = now

    def take_chunks(self) -> list[Chunk]:
        """See `Stream.take_chunks`."""
        chunks = super().take_chunks()
        self.cut += len(chunks)
        return chunks

    def prepare(self) -> None:
        """Takes the chunks that were cut, to be stepped here."""
        self._waiting += self.take_chunks()

    @property
    def ready_at(self) -> float | None:
        """Monotonic time at which the next step is due, None if there is nothing to step."""
        self.prepare()
        return max(self._waiting[0].due, self._answered_at) if self._waiting else None

    def request(self) -> StepRequest:
        """Makes the request of the step that is ready."""
        self.prepare()
        return self.request_of(self._waiting[0])

    def request_of(self, chunk: Chunk) -> StepRequest:
        """Makes the request of a chunk."""
        boosts, prompt = (self._config.boosts, self._prompt) if chunk.is_first else ((), -1)
        return StepRequest(self._slot, chunk.samples, chunk.is_first, chunk.is_last, boosts, prompt)

    def take(self, step: StepResult, now: float, unix_ms: int) -> list[Result]:
        """Takes what a step made of the oldest chunk, and gives the results that follow from it."""
        self._answered_at, self.restarted = now, False
        if self._waiting:
            self._waiting.popleft()
        before = self._frames - self._segment_start
        frames = [frame - before for frame in step.token_frames]
        return self.answer(step.tokens, frames, step.token_probs, step.frames, unix_ms)

    def _start_segment(self, why: Happening) -> None:
        self.restarted = why is Happening.MODEL_RESTART
        self.restarts += self.restarted
        super()._start_segment(why)
