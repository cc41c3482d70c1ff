"""Steps by arrays, in random batches, give each stream what it gets alone by requests."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from asr_service.core.step import StepBatch
from asr_service.core.values import PhraseBoost
from asr_service.model.batch_sizes import padded_size
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.transfers import Staging, download, pack, unpack
from asr_service.recognition.vocabulary import SPACE_MARK
from testbed.models import babble
from tests.support.chunks import OTHER_BATCH, Segment, assert_same, step_alone, step_together

MODELS = pytest.mark.parametrize(
    ("shape", "context", "decoder"),
    [
        ("tiny", (70, 1), "rnnt"),
        ("tiny", (70, 6), "ctc"),
        ("odd", (28, 0), "rnnt"),
        ("nemotron-3.5", (56, 3), "rnnt"),
    ],
)
"""Decoders, an odd shape, and a model with language prompts."""
SAMPLES = (0, 1, 159, 200, 1279, 1480, 1481, 4000, 9001, 16_000, 30_000, 41_037)


def segments(model: NemoStreamingModel, rng: random.Random) -> list[Segment]:
    """Of many lengths; some are boosted, some spoiled, all have a language where the model takes one."""
    info = model.info
    phrases = tuple(piece.replace(SPACE_MARK, " ").strip() for piece in info.pieces[5:30])
    boosts = ((), (PhraseBoost(phrases[::2], 4.0),), (PhraseBoost(phrases[1::2], 8.0),))
    made = []
    for number in range(36):
        audio = babble(3.0, 40 + number)[: rng.choice(SAMPLES)]
        prompt = rng.choice(info.prompts)[1] if info.prompts else -1
        made.append(Segment(audio, prompt, rng.choice(boosts), rng.choice((-1, -1, -1, 0, 1, 4))))
    return made


def assert_each_gets_its_own(alone: NemoStreamingModel, together: NemoStreamingModel, seed: int) -> None:
    """Steps segments of all kinds by both: each gets together what it gets alone, and there is something to compare."""
    rng = random.Random(seed)
    given = segments(together, rng)
    step_together(together, given, rng)
    for segment in given:
        assert_same(segment.results, step_alone(alone, segment), OTHER_BATCH)
    results = [result for segment in given for result in segment.results]
    assert sum(len(result.tokens) for result in results) > 50
    assert 3 < sum(result.broken for result in results) < len(given)
    assert not any(result.tokens or result.frames for result in results if result.broken)


@pytest.mark.parametrize("most_submitted", [1, 2])
@MODELS
def test_arrays_of_many_streams_equal_requests_of_one(
    streaming: Callable[..., NemoStreamingModel],
    shape: str,
    context: tuple[int, int],
    decoder: str,
    most_submitted: int,
) -> None:
    """Also where a second batch is submitted before the first is collected, which a GPU's model takes."""
    alone = streaming(shape, context, decoder=decoder, slots=1)
    together = streaming(shape, context, decoder=decoder, slots=7)
    together._most_submitted = most_submitted
    assert_each_gets_its_own(alone, together, context[1])


def test_padded_batches_give_the_same(
    streaming: Callable[..., NemoStreamingModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a batch is padded to one of few sizes."""
    alone = streaming("tiny", (70, 1), slots=1)
    rng = random.Random(8)
    given = segments(alone, rng)
    expected = [step_alone(alone, segment) for segment in given]
    monkeypatch.setattr(NemoStreamingModel, "_bucket", lambda self, size: padded_size(size))
    step_together(streaming("tiny", (70, 1), slots=7), given, rng)
    for segment, results in zip(given, expected, strict=True):
        assert_same(segment.results, results, OTHER_BATCH)


def test_what_a_slot_is_opened_with_counts_from_its_next_segment(
    streaming: Callable[..., NemoStreamingModel],
) -> None:
    model = streaming("tiny", (70, 1), slots=1)
    info = model.info
    phrases = tuple(piece.replace(SPACE_MARK, " ").strip() for piece in info.pieces[5:60])
    plain, boosted = Segment(babble(3.0, 4)), Segment(babble(3.0, 4), boosts=(PhraseBoost(phrases, 20.0),))
    expected = [step_alone(model, segment) for segment in (plain, boosted)]
    assert expected[0] != expected[1]

    def open_anew() -> None:
        """With what the next segment has, in the middle of the first."""
        if len(plain.results) == 2 and not boosted.results:
            model.open(0, -1, boosted.boosts)

    step_together(model, [boosted, plain], random.Random(1), open_anew)
    assert_same(plain.results, expected[0], 1e-6)
    assert_same(boosted.results, expected[1], 1e-6)
    again = Segment(babble(3.0, 4))
    step_together(model, [again], random.Random(1))
    assert_same(again.results, expected[0], 1e-6)


def test_a_language_that_a_model_does_not_have_is_refused(
    streaming: Callable[..., NemoStreamingModel],
) -> None:
    model = streaming("nemotron-3.5", (56, 3), slots=2)
    for prompt in (-1, 128):
        with pytest.raises(ValueError, match=f"slot 1: prompt {prompt}; there are 128"):
            model.open(1, prompt)
    with pytest.raises(ValueError, match="slot 0 has no language prompt"):
        model.submit(_first_chunk(model))


def test_a_second_batch_waits_for_the_first_to_be_collected(
    streaming: Callable[..., NemoStreamingModel],
) -> None:
    model = streaming("tiny", (70, 1), slots=2)
    with pytest.raises(RuntimeError, match="no batch is submitted"):
        model.collect()
    model.submit(_first_chunk(model))
    with pytest.raises(RuntimeError, match="submitted and not collected"):
        model.submit(_first_chunk(model))
    assert model.collect().frames.tolist() == [2]


def _first_chunk(model: NemoStreamingModel) -> StepBatch:
    zero = np.zeros(1, np.int32)
    counts = np.full(1, model.info.first_chunk_samples, np.int32)
    audio = np.zeros((1, model.info.chunk_samples), np.float32)
    return StepBatch(zero, audio, zero, counts, np.ones(1, np.uint8))


def test_what_is_staged_arrives_and_what_is_packed_comes_back() -> None:
    """An odd number of samples, so that integers do not follow them at once; sizes that grow and shrink."""
    staging = Staging(3, 2, torch.device("cpu"))
    for streams in (1, 5, 2, 9, 5):
        audio, integers = staging.arrays(streams)
        audio[:] = np.arange(3 * streams).reshape(streams, 3)
        integers[:] = -np.arange(2 * streams).reshape(2, streams)
        there, numbers = staging.upload(streams)
        assert there.dtype == torch.float32 and numbers.dtype == torch.int64
        assert there.tolist() == audio.tolist() and numbers.tolist() == integers.tolist()
    tensors = (torch.arange(3), torch.arange(0), torch.rand(5), torch.tensor([True, False, True]))
    for found in (download(*tensors), unpack(pack(*tensors), *tensors)):
        for array, tensor in zip(found, tensors, strict=True):
            assert array.dtype == tensor.numpy().dtype
            assert array.tolist() == tensor.tolist()
