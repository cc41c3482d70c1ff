"""Incremental features equal NeMo's preprocessor on the whole waveform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asr_service.model.batch import Positions
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.features import FeatureExtractor
from asr_service.model.reading import ModelParts
from testbed.by_request import StepRequest, as_batch
from testbed.models import babble
from tests.model import reference
from tests.model.driver import Fed


class _Counter:
    """What `Fed.request` asks of a model: chunk sizes."""

    def __init__(self, plan: ChunkPlan) -> None:
        self.info = plan


@pytest.mark.parametrize("shape", ["tiny", "odd"])
@pytest.mark.parametrize("look_ahead", [0, 1, 6])
def test_equal_to_whole_waveform(
    nemo_model: Callable[[str], Any], model_parts: Callable[[str], ModelParts], shape: str, look_ahead: int
) -> None:
    model = nemo_model(shape)
    featurizer = model.preprocessor.featurizer
    stride = model.encoder.subsampling_factor
    plan = ChunkPlan(featurizer.hop_length, featurizer.win_length, stride, look_ahead + 1, 28)
    lengths = [0, 1, 159, 160, 161, 359, 360, 1279, 1280, 1479, 1480, 1481, 9000, 16000, 31999, 48123]
    streams = [Fed(babble(3.1, seed)[:n], slot=seed) for seed, n in enumerate(lengths)]
    read = model_parts(shape)
    extractor = FeatureExtractor(
        read.architecture.features, read.weights, plan, len(streams) + 1, torch.device("cpu")
    )
    positions = Positions(plan, len(streams) + 1, 4, torch.device("cpu"))
    found: list[list[torch.Tensor]] = [[] for _ in streams]
    while live := [s for s in streams if not s.done]:
        requests: list[StepRequest] = [s.request(_Counter(plan)) for s in live]  # type: ignore[arg-type]
        given = positions.lay_out(as_batch(requests, plan), len(requests), None)
        batch = given.batch
        mel = extractor.step(batch.slots, given.audio, given.ends)
        for row, stream in enumerate(live):
            real = batch.masks[0][row] if batch.masks is not None else slice(None)
            found[stream.slot].append(mel[row, real])
    for stream, parts in zip(streams, found, strict=True):
        whole = reference.features(model, stream.audio).t()
        mine = torch.cat(parts)
        assert mine.shape == whole.shape, f"{len(stream.audio)} samples"
        if len(whole):
            assert (mine - whole).abs().max() < 1e-4, f"{len(stream.audio)} samples"
