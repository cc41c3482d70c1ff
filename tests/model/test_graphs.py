"""Recorded steps: static inputs, batch sizes and the way out, on the CPU with a recorder that records nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asr_service.core.model import OutOfMemory
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.reading import ModelParts
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder, RecordedEncoder, Recorder
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.weights import read_encoder
from testbed.models import SHAPES, babble
from tests.model import reference
from tests.model.driver import run

SECONDS = (4.0, 0.5, 2.2, 0.1, 3.3, 0.0, 1.7)


def _recorded(model: NemoStreamingModel, parts: ModelParts, recorder: Recorder) -> RecordedEncoder:
    """Puts a recorded torch encoder into a model, and batches padded as on a GPU."""
    plan: ChunkPlan = model._plan
    cpu = torch.device("cpu")
    weights = read_encoder(parts.weights, parts.architecture.encoder, plan, SHAPES["tiny"].mels)
    inner = TorchEncoder(weights, plan, model.slots + 1, cpu, torch.float32)
    encoder = RecordedEncoder(inner, plan, SHAPES["tiny"].mels, model.slots + 1, cpu, recorder)
    model._encoder = encoder
    return encoder


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches padded to powers of two."""
    monkeypatch.setattr(NemoStreamingModel, "_bucket", lambda self, size: 1 << (size - 1).bit_length())


@pytest.mark.usefixtures("buckets")
@pytest.mark.parametrize("context", [(70, 1), (70, 0)])
def test_recorded_steps_give_the_reference_tokens(
    nemo_model: Callable[[str], Any],
    model_parts: Callable[[str], ModelParts],
    streaming: Callable[..., NemoStreamingModel],
    context: tuple[int, int],
) -> None:
    """Streams start, end and share batches of many sizes at random: the static tensors carry nothing over."""
    loaded, model = nemo_model("tiny"), streaming("tiny", context)
    encoder = _recorded(model, model_parts("tiny"), EagerRecorder())
    audios = [babble(4.0, seed)[: int(16_000 * s)] for seed, s in enumerate(SECONDS)]
    streams = run(model, audios, seed=7, together=6)
    assert [s.tokens for s in streams] == [reference.tokens(loaded, a, context, "rnnt") for a in audios]
    assert encoder.recorded == (1, 2, 4, 8)


@pytest.mark.usefixtures("buckets")
def test_warm_up_records_every_size_that_live_steps_take(
    model_parts: Callable[[str], ModelParts], streaming: Callable[..., NemoStreamingModel]
) -> None:
    """Nothing is left to be recorded once the service reports that it serves."""
    model = streaming("tiny", (70, 1), slots=12)
    encoder = _recorded(model, model_parts("tiny"), EagerRecorder())
    model.warm_up(12, lambda _: None)
    assert encoder.recorded == (1, 2, 4, 8, 16)


@pytest.mark.usefixtures("buckets")
def test_when_recording_fails_steps_go_on_without(
    nemo_model: Callable[[str], Any],
    model_parts: Callable[[str], ModelParts],
    streaming: Callable[..., NemoStreamingModel],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second size cannot be recorded: one line of log, the same tokens, in the middle of streams."""

    class Once(EagerRecorder):
        tries = 0

        def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
            self.tries += 1
            if self.tries > 1:
                raise RuntimeError("operation not permitted when stream is capturing")
            return super().record(work)

    loaded, model, recorder = nemo_model("tiny"), streaming("tiny", (70, 1)), Once()
    encoder = _recorded(model, model_parts("tiny"), recorder)
    audios = [babble(3.0, seed) for seed in range(5)]
    with caplog.at_level(logging.WARNING, logger="asr_service.model.torch_encoder.cuda_graphs"):
        streams = run(model, audios, seed=1, together=5)
    assert [s.tokens for s in streams] == [reference.tokens(loaded, a, (70, 1), "rnnt") for a in audios]
    assert recorder.tries == 2 and encoder.recorded == ()
    assert len(caplog.records) == 1 and "kernel by kernel" in caplog.text


def _no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def _no_memory_told_as_no_end() -> None:
    try:
        _no_memory()
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.usefixtures("buckets")
@pytest.mark.parametrize("full", [_no_memory, _no_memory_told_as_no_end])
def test_no_memory_for_a_recording_is_told_and_the_others_stay(
    nemo_model: Callable[[str], Any],
    model_parts: Callable[[str], ModelParts],
    streaming: Callable[..., NemoStreamingModel],
    caplog: pytest.LogCaptureFixture,
    full: Callable[[], None],
) -> None:
    """Batches of eight do not fit: the engine is told so and makes smaller ones, which are recorded."""

    class Small(EagerRecorder):
        tries = 0
        fits = 3

        def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
            self.tries += 1
            if self.tries > self.fits:
                full()
            return super().record(work)

    loaded, model, recorder = nemo_model("tiny"), streaming("tiny", (70, 1)), Small()
    encoder = _recorded(model, model_parts("tiny"), recorder)
    with pytest.raises(OutOfMemory):
        model.warm_up(8, lambda _: None)
    assert encoder.recorded == (1, 2, 4)
    model.warm_up(4, lambda _: None)
    audios = [babble(3.0, seed) for seed in range(5)]
    streams = run(model, audios, seed=1, together=4)
    assert [s.tokens for s in streams] == [reference.tokens(loaded, a, (70, 1), "rnnt") for a in audios]
    assert recorder.tries == 4 and encoder.recorded == (1, 2, 4) and not caplog.records
    recorder.fits = 8  # there is memory again
    model.warm_up(8, lambda _: None)
    assert encoder.recorded == (1, 2, 4, 8)
