"""A model without recognition: for measuring the transport, and for testing clients without a model.

Its text is a function of the audio alone: a word for each loud encoder frame, nothing for silence. It needs numpy only,
starts at once, and refuses requests that break the rules of `StepRequest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, sqrt

import numpy as np

from asr_service.core.model import ModelInfo, StepRequest, StepResult
from asr_service.core.values import Samples
from asr_service.recognition.vocabulary import SPACE_MARK

_WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu"
).split()
_SAMPLE_RATE = 16_000
_FRAME_SAMPLES = 1280
FRAME_MS = 1000 * _FRAME_SAMPLES / _SAMPLE_RATE
ATT_CONTEXTS = ((70, 13), (70, 6), (70, 1), (70, 0))
"""The look-aheads it offers: those of the default model."""
# Frame i is complete at sample 1280 i + 200, as in the real models.
_EDGE_SAMPLES = 200
# Root mean square from which a frame makes a word.
_LOUD = 0.01
# Loudness levels, each with its word, while the root mean square doubles.
_LEVELS_PER_OCTAVE = 8


class NullModel:
    """A `StreamingModel` that makes a word of each loud frame; the frame's loudness chooses the word.

    Args:
        slots: streams that can be open at the same time.
        att_context: (left, right) in encoder frames; right + 1 frames make a chunk.
    """

    def __init__(self, *, slots: int, att_context: tuple[int, int] = (70, 1)) -> None:
        frames = att_context[1] + 1
        self._slots = slots
        # Frames so far of each slot's segment; None where the next step has to be a first one.
        self._frames: list[int | None] = [None] * slots
        self._info = ModelInfo(
            name="null",
            device="cpu",
            precision="fp32",
            decoder="rnnt",
            sample_rate=_SAMPLE_RATE,
            att_context=att_context,
            pieces=("<unk>", *(SPACE_MARK + word for word in _WORDS)),
            frame_samples=_FRAME_SAMPLES,
            chunk_frames=frames,
            first_chunk_samples=_FRAME_SAMPLES * (frames - 1) + _EDGE_SAMPLES,
            chunk_samples=_FRAME_SAMPLES * frames,
        )

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        return self._info

    @property
    def slots(self) -> int:
        """Streams that can be open at the same time."""
        return self._slots

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """Does nothing: no step is slower than another."""

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps the given slots. Raises ValueError for a request that breaks the rules."""
        if len({request.slot for request in requests}) != len(requests):
            raise ValueError("a slot is in the batch twice")
        return [self._step(request) for request in requests]

    def _step(self, request: StepRequest) -> StepResult:
        done = 0 if request.is_first else self._frames[request.slot]
        full = self._info.first_chunk_samples if request.is_first else self._info.chunk_samples
        size = len(request.samples)
        if done is None:
            raise ValueError(f"slot {request.slot} goes on with a segment that has ended or not begun")
        if size > full or (size == full) == request.is_last:
            raise ValueError(
                f"slot {request.slot}: {size} samples, is_last {request.is_last}; a full chunk is {full}"
            )
        loudness = self._loudness(request.samples, is_first=request.is_first)
        self._frames[request.slot] = None if request.is_last else done + len(loudness)
        tokens, frames, probs = [], [], []
        for frame, level in enumerate(loudness, done):
            if level >= _LOUD:
                position = round(_LEVELS_PER_OCTAVE * log2(level / _LOUD))
                tokens.append(1 + position % len(_WORDS))
                frames.append(frame)
                probs.append(min(1.0, 0.5 + level))
        return StepResult(tuple(tokens), tuple(frames), tuple(probs), len(loudness))

    def _loudness(self, samples: Samples, *, is_first: bool) -> list[float]:
        """Returns the root mean square of each frame in these samples; the last frame may be there in part only."""
        edges = [
            *range(_EDGE_SAMPLES if is_first else _FRAME_SAMPLES, len(samples), _FRAME_SAMPLES),
            len(samples),
        ]
        if not edges[-1]:
            return []
        starts = [0, *edges[:-1]]
        return [
            sqrt(float(np.dot(frame, frame)) / len(frame))
            for frame in (samples[start:end] for start, end in zip(starts, edges, strict=True))
        ]
