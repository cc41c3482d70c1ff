"""A model without recognition: for measuring the transport, and for testing clients without a model.

Its text is a function of the audio alone: a word for each loud encoder frame, nothing for silence. It needs numpy only,
starts at once, and refuses batches that break the rules of `StepBatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_service.core.model import ModelInfo
from asr_service.core.step import ChunkFlags, Int32, StepAnswers, StepBatch
from asr_service.core.values import PhraseBoost, Samples
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
# As plain numbers: operations on an enum's members take long.
_FIRST, _LAST = int(ChunkFlags.FIRST), int(ChunkFlags.LAST)
# So many chunks stay in a processor's caches between being gathered and being read.
_ROWS_AT_A_TIME = 32


class NullModel:
    """A `StreamingModel` that makes a word of each loud frame; the frame's loudness chooses the word.

    Args:
        slots: streams that can be open at the same time.
        att_context: (left, right) in encoder frames; right + 1 frames make a chunk.
    """

    def __init__(self, *, slots: int, att_context: tuple[int, int] = (70, 1)) -> None:
        frames = att_context[1] + 1
        self._slots = slots
        # Whether a segment goes on in each slot; where none does, the next chunk has to be a first one.
        self._running = np.zeros(slots, bool)
        # For finding slots that are in a batch twice.
        self._row_of = np.zeros(slots, np.int64)
        self._edges = _FRAME_SAMPLES * np.arange(frames + 1)
        self._first_missing = _FRAME_SAMPLES - _EDGE_SAMPLES
        self._submitted: StepAnswers | None = None
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

    @property
    def most_submitted(self) -> int:
        """See `BatchStepper.most_submitted`."""
        return 1

    def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
        """Does nothing: neither a language nor phrases change a frame's loudness."""

    def submit(self, batch: StepBatch) -> None:
        """See `BatchStepper.submit`. Raises ValueError for a batch that breaks the rules."""
        if self._submitted is not None:
            raise RuntimeError("a batch is submitted and not collected")
        self._submitted = self._answer(batch, self._check(batch))
        self._running[batch.slots] = (batch.flags & _LAST) == 0

    def collect(self) -> StepAnswers:
        """See `BatchStepper.collect`."""
        answers, self._submitted = self._submitted, None
        if answers is None:
            raise RuntimeError("no batch is submitted")
        return answers

    def _check(self, batch: StepBatch) -> npt.NDArray[np.bool_]:
        """Returns which chunks are first ones, bool [N]. Raises ValueError for a batch that breaks the rules."""
        slots, counts = batch.slots, batch.counts
        row = np.arange(len(slots))
        self._row_of[slots] = row
        if (self._row_of[slots] != row).any():
            raise ValueError("a slot is in the batch twice")
        first: npt.NDArray[np.bool_] = (batch.flags & _FIRST) != 0
        last = (batch.flags & _LAST) != 0
        known = first | self._running[slots]
        if not known.all():
            raise ValueError(f"slot {slots[~known][0]} goes on with a segment that has ended or not begun")
        full = self._info.chunk_samples - first * self._first_missing
        right = (counts >= 0) & (counts <= full) & ((counts == full) != last)
        if not right.all():
            at = int(np.flatnonzero(~right)[0])
            raise ValueError(
                f"slot {slots[at]}: {counts[at]} samples, is_last {bool(last[at])}; a full chunk is {full[at]}"
            )
        return first

    def _answer(self, batch: StepBatch, first: npt.NDArray[np.bool_]) -> StepAnswers:
        counts = batch.counts
        start = first * self._first_missing
        end = start + counts
        frames = (end + (_FRAME_SAMPLES - 1)) // _FRAME_SAMPLES * (counts > 0)
        level = self._loudness(batch.audio, batch.rows, start, end)
        row, frame = (level >= _LOUD).nonzero()
        loud = level[row, frame]
        position = np.rint(_LEVELS_PER_OCTAVE * np.log2(loud / _LOUD)).astype(np.int32)
        return StepAnswers(
            frames=frames.astype(np.int32),
            counts=np.bincount(row, minlength=len(counts)).astype(np.int32),
            broken=np.zeros(len(counts), bool),
            tokens=1 + position % len(_WORDS),
            token_frames=frame.astype(np.int32),
            probs=np.minimum(1.0, 0.5 + loud).astype(np.float32),
        )

    def _loudness(
        self, audio: Samples, rows: Int32, start: npt.NDArray[Any], end: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Returns the root mean square of each frame, [N, frames]; the first and the last may be there in part only."""
        frames = self._info.chunk_frames
        squares = np.empty((len(rows), frames))
        for at in range(0, len(rows), _ROWS_AT_A_TIME):
            some = audio[rows[at : at + _ROWS_AT_A_TIME]].reshape(-1, frames, _FRAME_SAMPLES)
            squares[at : at + len(some)] = np.vecdot(some, some)
        edges = self._edges
        there = np.minimum(end[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
        level: npt.NDArray[np.float64] = np.sqrt(squares / np.maximum(there, 1))
        return level
