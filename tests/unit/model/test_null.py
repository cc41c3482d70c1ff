"""The model without recognition: batches of arrays are answered as each chunk alone, and must keep the rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.step import StepBatch
from asr_service.model.null import ATT_CONTEXTS, NullModel
from testbed.babble import babble
from testbed.by_request import StepRequest, step
from tests.support.chunks import Segment, assert_same, step_alone, step_together


@given(st.integers(0, 2**32), st.sampled_from(ATT_CONTEXTS))
def test_arrays_of_many_streams_equal_requests_of_one(seed: int, context: tuple[int, int]) -> None:
    rng = random.Random(seed)
    audio = babble(9.0, 3)
    sizes = [rng.choice((0, 1, rng.randrange(3000), rng.randrange(len(audio)))) for _ in range(8)]
    starts = [rng.randrange(len(audio) - size + 1) for size in sizes]
    segments = [
        Segment(audio[start : start + size], spoiled=rng.choice((-1, -1, 1)))
        for start, size in zip(starts, sizes, strict=True)
    ]
    alone = NullModel(slots=1, att_context=context)
    step_together(NullModel(slots=5, att_context=context), segments, rng)
    for segment in segments:
        assert_same(segment.results, step_alone(alone, segment), 1e-6)


def batch(slots: list[int], counts: list[int], flags: list[int], model: NullModel) -> StepBatch:
    """Silent chunks."""
    return StepBatch(
        np.array(slots, np.int32),
        np.zeros((1, model.info.chunk_samples), np.float32),
        np.zeros(len(slots), np.int32),
        np.array(counts, np.int32),
        np.array(flags, np.uint8),
    )


@pytest.mark.parametrize(
    ("slots", "counts", "flags", "told"),
    [
        ([0, 1, 0], [1480, 1480, 1480], [1, 1, 1], "a slot is in the batch twice"),
        ([0, 1], [1480, 2560], [1, 0], "slot 1 goes on with a segment that has ended or not begun"),
        ([0, 1], [1480, 1481], [1, 1], "slot 1: 1481 samples, is_last False; a full chunk is 1480"),
        ([2], [1479], [1], "slot 2: 1479 samples, is_last False; a full chunk is 1480"),
        ([2], [1480], [3], "slot 2: 1480 samples, is_last True; a full chunk is 1480"),
        ([2], [-1], [3], "slot 2: -1 samples"),
    ],
)
def test_a_batch_that_breaks_the_rules_is_refused(
    slots: list[int], counts: list[int], flags: list[int], told: str
) -> None:
    model = NullModel(slots=3)
    with pytest.raises(ValueError, match=told):
        model.submit(batch(slots, counts, flags, model))
    # Nothing of it has happened.
    with pytest.raises(ValueError, match="slot 0 goes on"):
        model.submit(batch([0], [2560], [0], model))
    with pytest.raises(RuntimeError, match="no batch is submitted"):
        model.collect()


def test_a_second_batch_waits_for_the_first_to_be_collected() -> None:
    model = NullModel(slots=2)
    model.submit(batch([0], [1480], [1], model))
    with pytest.raises(RuntimeError, match="submitted and not collected"):
        model.submit(batch([1], [1480], [1], model))
    assert len(model.collect()) == 1
    model.submit(batch([1], [1480], [1], model))


def test_more_samples_than_a_chunk_has_are_refused() -> None:
    model = NullModel(slots=2)
    with pytest.raises(ValueError, match="slot 1: 1481 samples; a full chunk is 1480"):
        step(model, [StepRequest(1, np.zeros(1481, np.float32), True, False)])
    assert step(model, []) == []
