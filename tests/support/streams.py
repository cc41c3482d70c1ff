"""Audio and drivers for tests of one stream."""

from __future__ import annotations

import numpy as np

from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.states import Work
from asr_service.recognition.stream import Stream
from asr_service.recognition.transcript import Vocabulary

UNIX_MS = 1_700_000_000_000


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
) -> Stream:
    """A stream on a slot of the model."""
    vocabulary = Vocabulary(model.info.pieces)
    return Stream(1, config or StreamConfig("test"), model.info, vocabulary, slot, now, finalize_silence_ms)


def step(stream: Stream, model: NullModel, now: float = 0.0) -> list[Result]:
    """Carries the ready step through the model."""
    return stream.answer(model.step([stream.request()])[0], now, UNIX_MS)


def drain(stream: Stream, model: NullModel) -> list[Result]:
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
