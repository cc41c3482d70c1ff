"""Audio and drivers for tests of one stream, and a model that says more than words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr_service.core.model import ModelInfo
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.states import Work
from asr_service.recognition.vocabulary import Vocabulary
from testbed.by_request import StepRequest, StepResult
from testbed.by_request import step as step_model
from testbed.stepped_stream import SteppedStream
from tests.support.requested import RequestedModel

UNIX_MS = 1_700_000_000_000

SAID_BESIDE_WORDS = (
    *("<EOU>", "<EOB>", "<en-US>", "\u2581<de-DE>", "?", "\u2581", "lo", ".", "\u2581\u00bf", '\u2581"', '"'),
    *("<0xE3>", "<0x80>", "<0x82>", "!"),
)


class SignallingModel(RequestedModel):
    """A null model that also says what it hears, as NVIDIA's do: languages, ends of utterances, marks.

    After an end of an utterance it writes nothing until its slot starts anew. It wants the prompt of `PROMPTS` with
    each first request, and with no other.
    """

    PROMPTS = (("en-US", 3), ("auto", 7))

    def __init__(self, *, slots: int, att_context: tuple[int, int] = (70, 1)) -> None:
        super().__init__(slots=slots, att_context=att_context)
        self._over: set[int] = set()

    @property
    def info(self) -> ModelInfo:
        info = super().info
        # Every other word is something else.
        pieces = list(info.pieces)
        pieces[1 : 2 * len(SAID_BESIDE_WORDS) : 2] = SAID_BESIDE_WORDS[: len(pieces[1::2])]
        return replace(info, pieces=tuple(pieces), prompts=self.PROMPTS)

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        for request in requests:
            if (request.prompt in dict(self.PROMPTS).values()) != request.is_first:
                raise ValueError(f"prompt {request.prompt}, is_first {request.is_first}")
        answers = zip(requests, super().step(requests), strict=True)
        return [self._until_over(request, answer) for request, answer in answers]

    def _until_over(self, request: StepRequest, answer: StepResult) -> StepResult:
        if request.is_first:
            self._over.discard(request.slot)
        count = 0
        for token in answer.tokens:
            if request.slot in self._over:
                break
            count += 1
            if self.info.pieces[token] in ("<EOU>", "<EOB>"):
                self._over.add(request.slot)
        return StepResult(
            answer.tokens[:count], answer.token_frames[:count], answer.token_probs[:count], answer.frames
        )


def speech(seconds: float, rate: int = 16_000, seed: int = 0) -> bytes:
    """LINEAR16 noise whose loudness changes, so that the null model makes different words of it."""
    rng = np.random.default_rng(seed)
    count = int(seconds * rate)
    loudness = np.repeat(rng.uniform(0.02, 0.5, count // (rate // 10) + 1), rate // 10)[:count]
    return bytes((rng.standard_normal(count) * loudness * 8_000).astype("<i2").tobytes())


def silence(seconds: float, rate: int = 16_000) -> bytes:
    """LINEAR16 digital silence."""
    return bytes(2 * int(seconds * rate))


def new_stream(
    model: NullModel,
    config: StreamConfig | None = None,
    *,
    slot: int = 0,
    now: float = 0.0,
    finalize_silence_ms: int = 0,
    read_ahead: int = 1,
) -> SteppedStream:
    """A stream on a slot of the model."""
    vocabulary = Vocabulary(model.info.pieces)
    config = config or StreamConfig("test")
    return SteppedStream(
        config, model.info, vocabulary, now, finalize_silence_ms, slot=slot, read_ahead=read_ahead
    )


def step(stream: SteppedStream, model: NullModel, now: float = 0.0) -> list[Result]:
    """Carries the ready step through the model."""
    return stream.take(step_model(model, [stream.request()])[0], now, UNIX_MS)


def drain(stream: SteppedStream, model: NullModel) -> list[Result]:
    """Steps while something is ready."""
    results: list[Result] = []
    while stream.ready_at is not None:
        results += step(stream, model)
    return results


def recognize(
    model: NullModel, data: bytes, config: StreamConfig | None = None, packet: int = 640
) -> list[Result]:
    """All results of a stream that is fed in packets, stepped at once, and half-closed."""
    stream = new_stream(model, config)
    results: list[Result] = []
    for start in range(0, len(data), packet):
        stream.audio(data[start : start + packet], start / 32_000)
        results += drain(stream, model)
    results += stream.half_close(len(data) / 32_000, UNIX_MS)
    results += drain(stream, model)
    assert stream.work is Work.ENDED
    return results


def finals(results: list[Result]) -> list[tuple[FinalReason, str, str]]:
    """(reason, tag, text) of the finals among results."""
    return [(result.reason, result.tag, result.text) for result in results if result.reason is not None]
