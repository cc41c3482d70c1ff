"""Segments cut into chunks of all kinds, stepped alone by requests and together by arrays."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from asr_service.core.model import ModelInfo, StreamingModel
from asr_service.core.step import ChunkFlags, StepAnswers, StepBatch, chunk_offset
from asr_service.core.values import PhraseBoost, Samples
from testbed.by_request import StepRequest, StepResult, step


@dataclass(eq=False)
class Segment:
    """A segment, and what its chunks were answered.

    Attributes:
        audio: its samples.
        prompt, boosts: as `open` takes them.
        spoiled: the chunk whose samples are not finite, after which nothing more is stepped; -1 for none.
        results: of its chunks; frames of tokens count from the segment's start.
    """

    audio: Samples
    prompt: int = -1
    boosts: tuple[PhraseBoost, ...] = ()
    spoiled: int = -1
    results: list[StepResult] = field(default_factory=list)

    def chunks(self, info: ModelInfo) -> list[tuple[Samples, int]]:
        """Cuts it: the samples and the flags of each chunk; the last one is shorter than others, maybe empty."""
        cut: list[tuple[Samples, int]] = []
        at, flags = 0, int(ChunkFlags.FIRST)
        while not flags & ChunkFlags.LAST:
            size = info.first_chunk_samples if flags else info.chunk_samples
            samples = self.audio[at : at + size]
            at += size
            if len(samples) < size:
                flags |= ChunkFlags.LAST
            if len(cut) == self.spoiled:
                samples = np.full_like(samples, np.nan)
            cut.append((samples, flags))
            if len(cut) - 1 == self.spoiled:
                break
            flags &= ChunkFlags.LAST
        return cut


def step_alone(model: StreamingModel, segment: Segment) -> list[StepResult]:
    """Steps a segment by requests, in batches of one."""
    return [
        step(
            model,
            [
                StepRequest(
                    0,
                    samples,
                    bool(flags & ChunkFlags.FIRST),
                    bool(flags & ChunkFlags.LAST),
                    segment.boosts,
                    segment.prompt,
                )
            ],
        )[0]
        for samples, flags in segment.chunks(model.info)
    ]


def step_together(
    model: StreamingModel,
    segments: Sequence[Segment],
    rng: random.Random,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Steps segments by arrays, in random batches, slots and rows of memory that holds NaN elsewhere.

    As many batches as the model takes are submitted before the first of them is collected. `before` is called before
    each batch.
    """
    info, waiting = model.info, list(segments)
    live: dict[int, tuple[Segment, list[tuple[Samples, int]]]] = {}
    pool = np.empty((3 * model.slots, info.chunk_samples), np.float32)
    in_flight: deque[list[int]] = deque()
    while waiting or live:
        free = [slot for slot in range(model.slots) if slot not in live]
        for slot in rng.sample(free, min(len(free), len(waiting), rng.randint(0 if live else 1, 4))):
            segment = waiting.pop()
            model.open(slot, segment.prompt, segment.boosts)
            live[slot] = (segment, segment.chunks(info))
        idle = sorted(set(live).difference(*in_flight))
        if not idle or len(in_flight) == model.most_submitted:
            slots = in_flight.popleft()
            _hand_out(model.collect(), [live[slot][0] for slot in slots])
            for slot in slots:
                if not live[slot][1]:
                    del live[slot]
            continue
        slots = rng.sample(idle, rng.randint(1, len(idle)))
        chunks = [live[slot][1].pop(0) for slot in slots]
        batch = _laid_out(slots, chunks, pool, info, rng)
        before()
        model.submit(batch)
        # They may be used for other things after it.
        for array in (batch.slots, batch.rows, batch.counts):
            array[:] = -1
        pool[:] = np.nan
        in_flight.append(slots)


def _laid_out(
    slots: Sequence[int],
    chunks: Sequence[tuple[Samples, int]],
    pool: Samples,
    info: ModelInfo,
    rng: random.Random,
) -> StepBatch:
    pool[:] = np.nan
    rows = rng.sample(range(len(pool)), len(slots))
    for row, (samples, flags) in zip(rows, chunks, strict=True):
        start = chunk_offset(
            flags, first_chunk_samples=info.first_chunk_samples, chunk_samples=info.chunk_samples
        )
        pool[row] = 0.0
        pool[row, start : start + len(samples)] = samples
    return StepBatch(
        slots=np.array(slots, np.int32),
        audio=pool,
        rows=np.array(rows, np.int32),
        counts=np.array([len(samples) for samples, _ in chunks], np.int32),
        flags=np.array([flags for _, flags in chunks], np.uint8),
    )


def _hand_out(answers: StepAnswers, segments: Sequence[Segment]) -> None:
    """Takes answers apart by what `StepAnswers` says of them."""
    assert len(answers) == len(segments)
    assert len(answers.tokens) == len(answers.token_frames) == len(answers.probs) == answers.counts.sum()
    at = 0
    for row, segment in enumerate(segments):
        end = at + int(answers.counts[row])
        before = sum(result.frames for result in segment.results)
        segment.results.append(
            StepResult(
                tuple(map(int, answers.tokens[at:end])),
                tuple(before + int(frame) for frame in answers.token_frames[at:end]),
                tuple(map(float, answers.probs[at:end])),
                int(answers.frames[row]),
                bool(answers.broken[row]),
            )
        )
        at = end


OTHER_BATCH = 2.5e-4
"""How far probabilities may be from those of a batch of another size, which adds up in another order.

Logits of the models with random weights reach 1,000, and fp32 keeps them to some 1e-6 of that; a probability changes by
a quarter of what its logit does, at most.
"""


def assert_same(found: Sequence[StepResult], expected: Sequence[StepResult], tolerance: float) -> None:
    """Chunk for chunk: all but the probabilities is equal, and those are within a tolerance."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.token_frames, one.frames, one.broken) == (
            other.tokens,
            other.token_frames,
            other.frames,
            other.broken,
        )
        np.testing.assert_allclose(one.token_probs, other.token_probs, atol=tolerance)
