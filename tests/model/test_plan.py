"""Chunk arithmetic against the definitions it stands for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_service.model.chunk_plan import ChunkPlan

plans = st.builds(
    ChunkPlan,
    hop=st.just(160),
    window=st.sampled_from([320, 400]),
    stride=st.sampled_from([2, 4, 8]),
    chunk_frames=st.integers(1, 14),
    left_frames=st.just(70),
)


@given(plans, st.integers(0, 400_000))
def test_steps_cover_the_stream_exactly(plan: ChunkPlan, samples: int) -> None:
    """Full steps and the last one together make the frames that the whole stream has."""
    steps = 0
    used = 0
    while samples - used >= (plan.chunk_samples if steps else plan.first_chunk_samples):
        used += plan.chunk_samples if steps else plan.first_chunk_samples
        steps += 1
    bounds = plan.last_step_bounds(np.array([steps]), np.array([samples]))[:, 0]
    lengths = plan.layer_lengths(np.array([samples // plan.hop]))[:, 0]
    assert lengths[-1] == steps * plan.chunk_frames + bounds[-1]
    assert 0 <= bounds[-1] <= plan.chunk_frames


@given(plans, st.integers(1, 50))
def test_a_full_step_has_the_samples_its_last_mel_frame_needs(plan: ChunkPlan, steps: int) -> None:
    samples = plan.first_chunk_samples + (steps - 1) * plan.chunk_samples
    last_mel = plan.stride * (plan.chunk_frames * steps - 1)
    assert samples == plan.hop * last_mel + plan.half_window
