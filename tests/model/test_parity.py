"""The tokens of every stream equal NeMo's offline reference, whatever shares its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from asr_service.model.batch import Batch
from asr_service.model.streaming import NemoStreamingModel
from testbed.by_request import StepRequest, StepResult, step
from testbed.models import SHAPES, babble
from tests.model import reference
from tests.model.driver import frames_by_slot, joined, run
from tests.support.nemo_reads import nemo_reads

CASES = [(shape, context) for shape in ("tiny", "small", "odd") for context in SHAPES[shape].look_aheads]
LENGTHS = [
    7.3,
    0.0,
    0.004,
    0.011,
    1.0,
    3.21,
    0.16,
    9.99,
    2.5,
    0.64,
    4.44,
    5.0,
    0.3,
    6.01,
    1.777,
    8.2,
    2.0,
    0.075,
]


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize(("shape", "context"), CASES)
def test_tokens_equal_offline_reference(
    nemo_model: Callable[[str], Any], streaming: Callable[..., NemoStreamingModel], shape: str,
    context: tuple[int, int], decoder: str,
) -> None:  # fmt: skip
    audios = [babble(10.0, 100 + seed)[: int(16_000 * s)] for seed, s in enumerate(LENGTHS)]
    model, nemo = streaming(shape, context, decoder=decoder), nemo_model(shape)
    given = frames_by_slot(model)
    streams = run(model, audios, seed=7, together=16)
    encoded = [reference.encode(nemo, audio, context) for audio in audios]
    expected = reference.decode(nemo, encoded, decoder)
    for stream, frames, said in zip(streams, encoded, expected, strict=True):
        mine = joined(given[stream.slot], frames.shape[1])
        assert reference.distance(mine, frames) <= 1e-5
        assert reference.are_nemos(nemo, stream.tokens, said, mine, decoder)
    assert sum(map(len, expected)) > 30
    assert sum(map(len, expected)) < 4 * sum(s.decoded for s in streams)
    for stream in streams:
        assert stream.frames == sorted(stream.frames)
        assert all(0 <= frame < stream.decoded for frame in stream.frames)


@pytest.mark.parametrize(("shape", "context"), CASES)
def test_encoder_equals_offline_encoder(
    nemo_model: Callable[[str], Any], streaming: Callable[..., NemoStreamingModel], shape: str,
    context: tuple[int, int],
) -> None:  # fmt: skip
    """Within 1e-5 over more than 60 chunks, in slots that held other streams, next to streams of other ages."""
    model = streaming(shape, context, slots=3)
    step(
        model,
        [
            StepRequest(slot, babble(3, slot)[: model.info.first_chunk_samples], True, False)
            for slot in range(3)
        ],
    )
    seconds = max(6.0, 62 * model.info.chunk_ms / 1000)
    audio = [babble(seconds, 1), babble(seconds / 2, 2), babble(seconds / 3, 3)]
    encoded: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    inner = model._encoder.step

    def watch(batch: Batch, mel: torch.Tensor) -> torch.Tensor:
        out = inner(batch, mel)
        for row, frames in enumerate(batch.frames):
            encoded[int(batch.slots[row])].append(out[row, :frames])
        return out

    model._encoder.step = watch  # type: ignore[method-assign]
    for stream in run(model, audio, seed=3, together=3):
        expected = reference.encode(nemo_model(shape), stream.audio, context)
        assert reference.distance(torch.cat(encoded[stream.slot]), expected) <= 1e-5


@nemo_reads
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_nemo_encoder_equals_reference_beyond_look_ahead_0(
    nemo_model: Callable[[str], Any], streaming: Callable[..., NemoStreamingModel], decoder: str
) -> None:
    audios = [babble(4.0, seed)[: int(16_000 * s)] for seed, s in enumerate((4.0, 0.5, 2.2, 0.1, 3.3))]
    for context in ((70, 13), (70, 6), (70, 1)):
        model = streaming("small", context, decoder=decoder, encoder="nemo")
        streams = run(model, audios, seed=5, together=4)
        encoded = [reference.encode(nemo_model("small"), audio, context) for audio in audios]
        assert [s.tokens for s in streams] == reference.decode(nemo_model("small"), encoded, decoder)


def test_rows_do_not_see_each_other(streaming: Callable[..., NemoStreamingModel]) -> None:
    """A stream's tokens and probabilities in a full batch equal those it gets alone."""
    model = streaming("tiny", (70, 1))
    audio = babble(3.0, 9)
    alone = run(model, [audio], seed=1, together=1)[0]
    crowd = run(model, [babble(3.0, s) for s in range(10, 22)] + [audio], seed=2, together=16)[-1]
    assert alone.tokens == crowd.tokens != []
    np.testing.assert_allclose(alone.probabilities, crowd.probabilities, rtol=1e-4)


def test_not_a_number_breaks_its_own_row_and_leaves_the_slot_clean(
    streaming: Callable[..., NemoStreamingModel],
) -> None:
    """Beside a broken row the others get what they get alone, and so does the next stream of its slot."""
    model = streaming("tiny", (70, 1), slots=4)
    audio = babble(3.0, 4)
    expected = run(model, [audio], seed=1, together=1)[0].tokens
    info = model.info
    heard: list[int] = []
    for start in range(0, len(audio) - info.chunk_samples, info.chunk_samples):
        first = start == 0
        size = info.first_chunk_samples if first else info.chunk_samples
        begin = 0 if first else start - info.chunk_samples + info.first_chunk_samples
        bad = np.full(info.first_chunk_samples, np.nan, dtype=np.float32)
        good = StepRequest(1, audio[begin : begin + size], first, False)
        broken, fine = step(model, [StepRequest(0, bad, True, False), good])
        assert broken == StepResult((), (), (), 0, broken=True)
        heard += fine.tokens
    assert heard == expected[: len(heard)] != []
    for seed in range(3):
        assert run(model, [audio], seed=seed, together=1)[0].tokens == expected
