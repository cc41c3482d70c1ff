"""On an NVIDIA GPU: the reference's tokens in fp32, and recorded steps equal to launched ones. Skipped without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.reading import read_model
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import RecordedEncoder
from asr_service.model.torch_encoder.encoder import TorchEncoder
from testbed.models import SHAPES, babble, build_model
from tests.model import reference
from tests.model.driver import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
AUDIOS = [babble(4.0, seed)[: int(16_000 * s)] for seed, s in enumerate((4.0, 0.5, 2.2, 0.1, 3.3, 0.0, 1.7))]


@pytest.fixture(scope="module")
def make(tiny_nemo: Path) -> Callable[..., NemoStreamingModel]:
    """Builds the streaming model of the tiny shape on the GPU."""
    device = torch.device("cuda:0")

    def assembled(
        context: tuple[int, int], precision: str = "fp32", decoder: str = "rnnt"
    ) -> NemoStreamingModel:
        settings = ModelSettings(name="tiny", att_context=context, decoder=decoder, precision=precision)
        return assemble(read_model(str(tiny_nemo), device), settings, device, 16)

    return assembled


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("context", SHAPES["tiny"].look_aheads)
def test_tokens_equal_the_reference_on_the_cpu(
    make: Callable[..., NemoStreamingModel], context: tuple[int, int], decoder: str
) -> None:
    """fp32 without TF32, through recorded steps."""
    on_cpu = build_model(SHAPES["tiny"])
    model = make(context, decoder=decoder)
    streams = run(model, AUDIOS, seed=3, together=6)
    assert [s.tokens for s in streams] == [reference.tokens(on_cpu, a, context, decoder) for a in AUDIOS]
    assert isinstance(model._encoder, RecordedEncoder) and model._encoder.recorded == (1, 2, 4, 8)


def test_recorded_steps_equal_launched_ones(make: Callable[..., NemoStreamingModel]) -> None:
    """In bf16 too: the same kernels on the same numbers."""
    for precision in ("fp32", "tf32", "bf16"):
        recorded = make((70, 1), precision)
        launched = make((70, 1), precision)
        assert isinstance(launched._encoder, RecordedEncoder)
        launched._encoder = launched._encoder._inner
        assert isinstance(launched._encoder, TorchEncoder)
        tokens = [[s.tokens for s in run(m, AUDIOS, seed=4, together=6)] for m in (recorded, launched)]
        assert tokens[0] == tokens[1]
