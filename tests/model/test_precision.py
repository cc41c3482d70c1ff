"""What bf16 and the torch encoder share with the fp32 compiled one, and what does not grow."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.model.batch import SPARE_ROWS
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.loading import assemble
from asr_service.model.reading import ModelParts
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.weights import EncoderWeights, read_encoder
from testbed.by_request import StepRequest, step
from testbed.models import SHAPES, babble
from tests.model import reference
from tests.model.driver import run


def _weights(parts: ModelParts, plan: ChunkPlan) -> EncoderWeights:
    architecture = parts.architecture
    return read_encoder(parts.weights, architecture.encoder, plan, architecture.features.mels)


@pytest.mark.parametrize("shape", ["tiny", "odd"])
def test_torch_encoder_gives_the_reference_tokens(
    nemo_model: Callable[[str], Any],
    model_parts: Callable[[str], ModelParts],
    streaming: Callable[..., NemoStreamingModel],
    shape: str,
) -> None:
    """The step that GPUs take, on the CPU."""
    for context in SHAPES[shape].look_aheads:
        model = streaming(shape, context)
        loaded = nemo_model(shape)
        plan = model._plan
        weights = _weights(model_parts(shape), plan)
        model._encoder = TorchEncoder(
            weights, plan, model.slots + SPARE_ROWS, torch.device("cpu"), torch.float32
        )
        audios = [
            babble(4.0, seed)[: int(16_000 * s)] for seed, s in enumerate((4.0, 0.5, 2.2, 0.1, 3.3, 0.0))
        ]
        streams = run(model, audios, seed=5, together=5)
        assert [s.tokens for s in streams] == [reference.tokens(loaded, a, context, "rnnt") for a in audios]


def test_padded_batches_change_nothing(
    streaming: Callable[..., NemoStreamingModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that pad a batch to its bucket, as on a GPU."""
    audios = [babble(3.0, seed) for seed in range(5)]
    model = streaming("tiny", (70, 1))
    plain = [s.tokens for s in run(model, audios, seed=2, together=5)]
    monkeypatch.setattr(NemoStreamingModel, "_bucket", lambda self, size: 1 << (size - 1).bit_length())
    assert [s.tokens for s in run(model, audios, seed=3, together=5)] == plain


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bf16 products")
def test_bf16_is_close_to_fp32(model_parts: Callable[[str], ModelParts]) -> None:
    """Encoder frames in bf16 point where the fp32 ones do."""
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        parts = model_parts("small")
        model = assemble(parts, ModelSettings(name="small"), torch.device("cpu"), 1)
        model._encoder = CpuEncoder(_weights(parts, model._plan), model._plan, 2, dtype)
        encoded: list[torch.Tensor] = []
        inner = model._encoder.step

        def watch(
            batch: Any, mel: torch.Tensor, inner: Any = inner, into: list[torch.Tensor] = encoded
        ) -> torch.Tensor:
            out: torch.Tensor = inner(batch, mel)
            into.append(out[0, : batch.frames[0]].clone())
            return out

        model._encoder.step = watch  # type: ignore[method-assign]
        run(model, [babble(5.0, 1)], seed=1, together=1)
        outputs.append(torch.cat(encoded))
    assert torch.nn.functional.cosine_similarity(outputs[0], outputs[1], dim=-1).min() > 0.99


def resident_bytes() -> int:
    """Memory of this process now; its peak may be of an earlier test and hide what grows."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_is_flat_while_streams_come_and_go(streaming: Callable[..., NemoStreamingModel]) -> None:
    """Hundreds of steps, slots used again: nothing accumulates."""
    model = streaming("tiny", (70, 1), slots=8)
    info = model.info
    audio = babble(20.0, 3)

    def go(rounds: int) -> None:
        for turn in range(rounds):
            for number in range(10):
                size = info.chunk_samples if number else info.first_chunk_samples
                start = (turn * 97 + number * 2560) % 200_000
                step(model, [
                    StepRequest(slot, audio[start : start + size], number == 0, False) for slot in range(8)
                ])  # fmt: skip

    go(10)
    before = resident_bytes()
    go(60)
    assert resident_bytes() - before < 8 * 2**20
