"""On an NVIDIA GPU: the bundled model's right tokens, in recorded steps as in launched ones. Skipped without.

They run with plain pytest where neither NeMo nor a plugin is installed:

    python -m pytest -c /dev/null --rootdir . --noconftest tests/gpu
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.reading import read_model
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder
from testbed.by_request import StepRequest, step
from testbed.golden import MODEL, Golden, Stepped, golden, recordings, step_streams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
# The last GPU there is: with several, not the one that is current from the start.
DEVICE = f"cuda:{max(0, torch.cuda.device_count() - 1)}"
USUAL = next(one for one in golden() if (one.look_ahead, one.decoder, one.boosted) == ((70, 1), "rnnt", ()))


def make(one: Golden, precision: str = "fp32") -> NemoStreamingModel:
    """Makes the bundled model on the GPU."""
    device = torch.device(DEVICE)
    settings = ModelSettings(MODEL, one.look_ahead, one.decoder, precision=precision)
    return assemble(read_model(MODEL, device), settings, device, 16)


def tokens(model: NemoStreamingModel, one: Golden = USUAL) -> list[list[int]]:
    """Steps all recordings, of each twice, so that neighbours and slots differ."""
    streams = [Stepped(audio, one.boosts) for audio in recordings() * 2]
    return step_streams(model, streams, together=13, seed=3)


@pytest.mark.parametrize(
    "one", golden(), ids=lambda one: f"{one.look_ahead}-{one.decoder}-{bool(one.boosted)}"
)
def test_tokens_are_those_of_the_cpu(one: Golden) -> None:
    """fp32 without TF32, through recorded steps of several sizes."""
    model = make(one)
    assert tokens(model, one) == one.tokens * 2
    assert set(model.readings().recorded or ()) >= {2, 4}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_recorded_steps_equal_launched_ones(precision: str) -> None:
    recorded, launched, by_host = (make(USUAL, precision) for _ in range(3))
    launched.record_with(EagerRecorder())
    # Neither recorded nor of fixed shapes: the host drives the decoder.
    by_host._recorded = None
    assert tokens(recorded) == tokens(launched) == tokens(by_host)
    assert recorded.readings().recorded


def test_a_row_that_is_not_finite_ends_alone() -> None:
    model = make(USUAL)
    size = model.info.first_chunk_samples
    good = StepRequest(0, recordings()[0][:size], True, False)
    bad = StepRequest(1, np.full(size, np.nan, np.float32), True, False)
    assert [answer.broken for answer in step(model, [good, bad])] == [False, True]
    assert tokens(model) == USUAL.tokens * 2
