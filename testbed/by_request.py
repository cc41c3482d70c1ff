"""Steps models by requests, an object a stream: for tests and measurements, which do not count what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from asr_service.core.model import StreamingModel
from asr_service.core.step import ChunkFlags, StepAnswers, StepBatch, chunk_offset
from asr_service.core.values import PhraseBoost, Samples

# As plain numbers: operations on an enum's members take long.
_FIRST, _LAST = int(ChunkFlags.FIRST), int(ChunkFlags.LAST)
# By model, encoder frames of each slot's segment so far: results count from its start, answers from the chunk's.
_frames_before: WeakKeyDictionary[object, dict[int, int]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class StepRequest:
    """One stream's part of a step.

    Attributes:
        slot: row of pooled state leased to the stream.
        samples: new audio at the model's rate since the slot's previous step, float32 [n]. n is
            `first_chunk_samples` or `chunk_samples`, or anything from 0 to one less if `is_last`.
        is_first: whether a segment begins: the slot's state is reset before the step, whatever was in it.
        is_last: whether the segment ends: what is left is flushed with its true length. The slot's next step must be
            a first one.
        boosts: with a first step, the phrases that are boosted in the segment.
        prompt: with a first step, the index of the segment's language prompt (`ModelInfo.prompts`); -1 for a model that
            takes none.
    """

    slot: int
    samples: Samples
    is_first: bool
    is_last: bool
    boosts: tuple[PhraseBoost, ...] = ()
    prompt: int = -1


@dataclass(frozen=True, slots=True)
class StepResult:
    """One stream's part of what a step made; results come in the order of the requests.

    Attributes:
        tokens: new token ids.
        token_frames: encoder frame each token was emitted at, counted from the segment's first frame.
        token_probs: probability of each token in [0, 1], under the decoder that emitted it.
        frames: encoder frames decoded in this step.
        broken: whether the row's numbers were not finite: it has no tokens then, and the slot's next step must be a
            first one. The other rows are as they would be without it.
    """

    tokens: tuple[int, ...]
    token_frames: tuple[int, ...]
    token_probs: tuple[float, ...]
    frames: int
    broken: bool = False


class _Chunks(Protocol):
    """The sizes of chunks, as `ModelInfo` and the geometry of a model say them."""

    @property
    def first_chunk_samples(self) -> int: ...

    @property
    def chunk_samples(self) -> int: ...


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


def step(model: StreamingModel, requests: Sequence[StepRequest]) -> list[StepResult]:
    """Steps the given slots together, each at most once. Raises ValueError for a request that breaks the rules."""
    if not requests:
        return []
    batch = as_batch(requests, model.info)
    frames = _frames_before.setdefault(model, {})
    for request in requests:
        if request.is_first:
            frames[request.slot] = 0
            model.open(request.slot, request.prompt, request.boosts)
    model.submit(batch)
    answers = model.collect()
    before = [frames.get(request.slot, 0) for request in requests]
    results = as_results(answers, before)
    for request, start, result in zip(requests, before, results, strict=True):
        frames[request.slot] = start + result.frames
    return results
