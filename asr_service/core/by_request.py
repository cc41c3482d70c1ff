"""Steps a model of arrays by requests, an object a stream: the engine's way until it hands over arrays itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np

from asr_service.core.model import ModelInfo, StepRequest, StepResult
from asr_service.core.step import BatchStepper, ChunkFlags, StepAnswers, StepBatch, chunk_offset

# As plain numbers: operations on an enum's members take long.
_FIRST, _LAST = int(ChunkFlags.FIRST), int(ChunkFlags.LAST)


class _Chunks(Protocol):
    """The sizes of chunks, as `ModelInfo` and the geometry of a model say them."""

    @property
    def first_chunk_samples(self) -> int: ...

    @property
    def chunk_samples(self) -> int: ...


class _Described(BatchStepper, Protocol):
    """A model that is stepped by arrays."""

    @property
    def info(self) -> ModelInfo: ...


def as_batch(requests: Sequence[StepRequest], chunks: _Chunks) -> StepBatch:
    """Lays out requests as arrays.

    Raises:
        ValueError: there are more samples than a chunk has.
    """
    count, size, first_size = len(requests), chunks.chunk_samples, chunks.first_chunk_samples
    audio = np.zeros((count, size), np.float32)
    flags = [_FIRST * request.is_first | _LAST * request.is_last for request in requests]
    counts = [len(request.samples) for request in requests]
    for row, (request, flag, samples) in enumerate(zip(requests, flags, counts, strict=True)):
        start = chunk_offset(flag, first_chunk_samples=first_size, chunk_samples=size) if flag else 0
        if start + samples > size:
            raise ValueError(f"slot {request.slot}: {samples} samples; a full chunk is {size - start}")
        audio[row, start : start + samples] = request.samples
    slots = np.array([request.slot for request in requests], np.int32)
    rows = np.arange(count, dtype=np.int32)
    return StepBatch(slots, audio, rows, np.array(counts, np.int32), np.array(flags, np.uint8))


def as_results(answers: StepAnswers, before: Sequence[int] = ()) -> list[StepResult]:
    """Makes a result of each chunk's answers.

    Args:
        answers: of a step.
        before: encoder frames of each chunk's segment before it, which tokens' frames count from; none if empty.
    """
    tokens, places = answers.tokens.tolist(), answers.token_frames.tolist()
    probs, ends = answers.probs.tolist(), accumulate(answers.counts.tolist(), initial=0)
    results = []
    for start, (low, high), frames, broken in zip(
        before or [0] * len(answers),
        pairwise(ends),
        answers.frames.tolist(),
        answers.broken.tolist(),
        strict=True,
    ):
        at = tuple(start + place for place in places[low:high])
        results.append(StepResult(tuple(tokens[low:high]), at, tuple(probs[low:high]), frames, broken))
    return results


class StepsByRequest:
    """Gives a `BatchStepper` the method `step` of `StreamingModel`."""

    def __init__(self) -> None:
        # Encoder frames of each slot's segment so far: results count from its start, answers from the chunk's.
        self._frames_before: dict[int, int] = {}

    def step(self: _StepsByRequest, requests: Sequence[StepRequest]) -> list[StepResult]:
        """See `StreamingModel.step`. Raises ValueError for a request that breaks the rules."""
        if not requests:
            return []
        batch = as_batch(requests, self.info)
        for request in requests:
            if request.is_first:
                self._frames_before[request.slot] = 0
                self.open(request.slot, request.prompt, request.boosts)
        self.submit(batch)
        answers = self.collect()
        before = [self._frames_before.get(request.slot, 0) for request in requests]
        results = as_results(answers, before)
        for request, start, result in zip(requests, before, results, strict=True):
            self._frames_before[request.slot] = start + result.frames
        return results


class _StepsByRequest(_Described, Protocol):
    """What `StepsByRequest` is mixed into."""

    _frames_before: dict[int, int]
