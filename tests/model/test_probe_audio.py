"""The audio of steps that nobody waits for decodes like speech, in every step of a sweep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.engine.probe_audio import ProbeAudio
from asr_service.model.loading import assemble
from asr_service.model.reading import read_model
from testbed.golden import MODEL

CPU = torch.device("cpu")


def test_it_has_as_many_tokens_as_speech() -> None:
    """About 0.3 a frame; of noise the bundled model makes none."""
    model = assemble(read_model(MODEL, CPU), ModelSettings(MODEL, (70, 1), "rnnt", encoder="torch"), CPU, 8)
    info = model.info
    audio = ProbeAudio(info.sample_rate, info.first_chunk_samples, info.chunk_samples)
    slots, steps, tokens = np.arange(8, dtype=np.int32), 20, 0
    for step in range(steps):
        count = info.chunk_samples if step else info.first_chunk_samples
        flags = np.full(8, 0 if step else ChunkFlags.FIRST, np.uint8)
        model.submit(StepBatch(slots, audio.memory, audio.rows(8, step), np.full(8, count, np.int32), flags))
        tokens += len(model.collect().tokens)
    assert 0.1 < tokens / (8 * steps * info.chunk_frames) < 0.6


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050])
@pytest.mark.parametrize("frames", [1, 2, 14])
def test_it_is_laid_out_as_steps_take_it(rate: int, frames: int) -> None:
    size = frames * rate * 8 // 100
    first = size - rate // 15
    audio = ProbeAudio(rate, first, size)
    assert audio.memory.shape == (2 * audio.chunks, size) and audio.memory.dtype == np.float32
    assert not audio.memory[: audio.chunks, : size - first].any()
    assert 0.1 < np.abs(audio.memory).max() <= 1.0
    assert (audio.rows(50, 0) < audio.chunks).all()
    for step in (1, 2, 1000):
        rows = audio.rows(50, step)
        assert rows.dtype == np.int32 and rows.min() >= audio.chunks and rows.max() < 2 * audio.chunks
