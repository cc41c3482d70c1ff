"""A step as arrays: the chunks that go into a model together, and what it answers. Imports no torch.

Per stream there is no Python object on this path: thousands of streams are stepped by a few operations of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from asr_service.core.values import PhraseBoost, Samples

Int32 = npt.NDArray[np.int32]


class ChunkFlags(IntFlag):
    """What a chunk is in its segment.

    FIRST: a segment begins with it; the slot's state is reset before the step, whatever was in it.
    LAST: the segment ends with it; what is left is flushed with its true length. The slot's next chunk has to be FIRST.
    """

    FIRST = 1
    LAST = 2


# As a plain number: operations on an enum's members take long.
_FIRST = int(ChunkFlags.FIRST)


def chunk_offset(flags: int, *, first_chunk_samples: int, chunk_samples: int) -> int:
    """Returns where a chunk's samples begin in its row of `StepBatch.audio`.

    A first chunk is shorter than others; it stands at the end of its row, after zeros, so that all chunks end alike.
    """
    return chunk_samples - first_chunk_samples if flags & _FIRST else 0


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """One chunk each of N slots, every slot at most once. The arrays may be used for other things after `submit`.

    Attributes:
        slots: rows of the model's pooled state, int32 [N].
        audio: the memory that the chunks lie in, float32 [P, chunk_samples], read only. Samples begin at
            `chunk_offset`; the rest of the row is zero.
        rows: the row of `audio` of each chunk, int32 [N].
        counts: samples of each chunk, int32 [N]: `first_chunk_samples` for a first one and `chunk_samples` for others,
            or anything from 0 to that for one that is LAST.
        flags: `ChunkFlags` of each chunk, uint8 [N].
    """

    slots: Int32
    audio: Samples
    rows: Int32
    counts: Int32
    flags: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """Returns N."""
        return len(self.slots)


@dataclass(frozen=True, slots=True, eq=False)
class StepAnswers:
    """What a step has made of a batch, in the order of its chunks.

    Attributes:
        frames: encoder frames decoded of each chunk, int32 [N].
        counts: tokens of each chunk, int32 [N].
        broken: chunks whose numbers were not finite, bool [N]: such a one has no tokens, and its slot's next chunk has
            to be FIRST. The other chunks are answered as they would be without it.
        tokens: their ids, int32 [sum of `counts`], chunk after chunk.
        token_frames: the frame that each token was emitted at, counted from the chunk's first, int32.
        probs: the probability of each token in [0, 1], under the decoder that emitted it, float32.
    """

    frames: Int32
    counts: Int32
    broken: npt.NDArray[np.bool_]
    tokens: Int32
    token_frames: Int32
    probs: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Returns N."""
        return len(self.frames)

    def check(self, chunks: int) -> None:
        """Checks that there is an answer to each of so many chunks. Raises RuntimeError."""
        if not len(self.frames) == len(self.counts) == len(self.broken) == chunks:
            raise RuntimeError(f"the model answered {len(self.frames)} of {chunks} chunks")
        if not len(self.tokens) == len(self.token_frames) == len(self.probs) == self.counts.sum():
            raise RuntimeError(f"{len(self.tokens)} tokens came for {self.counts.sum()}")


def no_answers(count: int) -> StepAnswers:
    """Makes the answers of a step of so many chunks that decoded no frame."""
    none: npt.NDArray[Any] = np.zeros(0, np.int32)
    zeros = np.zeros(count, np.int32)
    return StepAnswers(zeros, zeros, np.zeros(count, bool), none, none, none.astype(np.float32))


class BatchStepper(Protocol):
    """The part of a model that steps batches of arrays. One thread only may use it.

    A failure may leave the state of a batch's slots undefined, of no others; their next chunks have to be FIRST.
    """

    @property
    def most_submitted(self) -> int:
        """How many batches may be submitted and not collected: 1, or 2 where a device works beside the host."""
        ...

    def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
        """Says what a slot's segments are conditioned on, from its next FIRST chunk on.

        Args:
            slot: row of pooled state. It may not be in a batch that is not collected.
            prompt: index of the language prompt (`ModelInfo.prompts`); -1 for a model that takes none.
            boosts: phrases that are boosted.

        Raises:
            InvalidArgument: a phrase cannot be boosted.
        """
        ...

    def submit(self, batch: StepBatch) -> None:
        """Begins a step; reads all it needs of the batch before it returns.

        Raises:
            OutOfMemory: the batch does not fit into memory.
            DeviceLost: no step will work again.
        """
        ...

    def collect(self) -> StepAnswers:
        """Waits for the oldest batch that was submitted and returns its answers.

        Raises:
            OutOfMemory: the batch does not fit into memory.
            DeviceLost: no step will work again.
        """
        ...
