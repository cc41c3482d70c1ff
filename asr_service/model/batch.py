"""Lays out one step's batch as tensors: its slots, which of its frames are real, how far each stream has come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.step import ChunkFlags, Int32, StepBatch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.transfers import Staging


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a step, as its stages need them; all on the device.

    Attributes:
        slots: int64 [B].
        steps: full steps that each stream took before, int64 [B].
        masks: None if every frame is real; else one bool tensor for the input and one after each subsampling layer,
            [B, chunk_mels], [B, chunk_mels / 2], ..., [B, chunk_frames]; True where a frame is real.
        frames: real encoder frames of each row, int64 [B].
        any_young: whether some stream's attention cache is not full yet.
    """

    slots: Tensor
    steps: Tensor
    masks: list[Tensor] | None
    frames: Tensor
    any_young: bool


@dataclass(frozen=True, slots=True)
class StepInput:
    """All that a step takes; on the device but for `frames`.

    Attributes:
        batch: its rows: those of the chunks, then those that pad it.
        audio: float32 [B, chunk_samples]; see `StepBatch` for where samples lie in their row.
        fresh: slots that a segment begins in, int64 [n]; None for none.
        ends: None if no row's samples end before their row does; else such rows, int64 [n], and where they end,
            int64 [n].
        prompts: the index of each row's language prompt, int64 [B].
        frames: real encoder frames of the chunks, int32 [N], on the host.
    """

    batch: Batch
    audio: Tensor
    fresh: Tensor | None
    ends: tuple[Tensor, Tensor] | None
    prompts: Tensor
    frames: Int32


# Rows of the integers that go to the device. FRESH, CUT and ENDS are lists, whose lengths the host knows; HIGH and
# those after it say where real frames end, at the input and after each subsampling layer.
_SLOT, _STEPS, _FRAMES, _PROMPT, _IS_FIRST, _FRESH, _CUT, _ENDS, _HIGH = range(9)


class Positions:
    """Keeps track of how far each slot's stream has come, on the host, and lays out batches.

    Args:
        plan: geometry of the model.
        slots: rows of pooled state, the spare one included, which is the last.
        ring_chunks: chunks that the attention cache holds.
        device: where batches go.

    Attributes:
        steps: full steps taken by each slot's stream, int64 [slots].
        samples: samples that each slot's stream has stepped, int64 [slots].
    """

    def __init__(self, plan: ChunkPlan, slots: int, ring_chunks: int, device: torch.device) -> None:
        self._plan = plan
        self._ring_chunks = ring_chunks
        self.steps = np.zeros(slots, dtype=np.int64)
        self.samples = np.zeros(slots, dtype=np.int64)
        layers = plan.sampling_layers + 1
        self._staging = Staging(plan.chunk_samples, _HIGH + layers, device)
        self._full = np.array([[plan.chunk_mels >> layer] for layer in range(layers)])
        self._frame = [torch.arange(plan.chunk_mels >> layer, device=device) for layer in range(layers)]

    def lay_out(self, chunks: StepBatch, pad_to: int, prompts: npt.NDArray[np.int64] | None) -> StepInput:
        """Makes a step's input of its chunks, and moves the positions on.

        Args:
            chunks: N of them.
            pad_to: rows of the batch; rows beyond the chunks repeat the spare slot.
            prompts: the index of each chunk's language prompt, int64 [N]; None for a model that takes none.
        """
        count, slots = len(chunks), chunks.slots
        audio, integers = self._staging.arrays(pad_to)
        # With this mode numpy writes to where it is told to, without memory of its own between.
        np.take(chunks.audio, chunks.rows, axis=0, out=audio[:count], mode="clip")
        frames = np.full(count, self._plan.chunk_frames, dtype=np.int32)
        fresh = ending = 0
        if ragged := bool(chunks.flags.any()):
            fresh, ending = self._mark_edges(chunks, integers, frames)
        else:
            self.samples[slots] += chunks.counts
        steps = self.steps[slots]
        self.steps[slots] = steps + 1
        integers[_STEPS, :count] = steps
        integers[_SLOT, :count] = slots
        integers[_FRAMES, :count] = frames
        if prompts is not None:
            integers[_PROMPT, :count] = prompts
        if pad_to > count:
            self._pad(audio, integers, count)
        on_device, there = self._staging.upload(pad_to)
        batch = Batch(
            slots=there[_SLOT],
            steps=there[_STEPS],
            masks=self._masks(there) if ragged else None,
            frames=there[_FRAMES],
            any_young=bool(steps.min() < self._ring_chunks),
        )
        return StepInput(
            batch=batch,
            audio=on_device,
            fresh=there[_FRESH, :fresh] if fresh else None,
            ends=(there[_CUT, :ending], there[_ENDS, :ending]) if ending else None,
            prompts=there[_PROMPT],
            frames=frames,
        )

    def _mark_edges(
        self, chunks: StepBatch, integers: npt.NDArray[np.int64], frames: Int32
    ) -> tuple[int, int]:
        """Writes down where segments begin and end, of a batch in which some do.

        Returns:
            How many slots are listed as fresh, and how many rows as cut.
        """
        plan, slots, counts = self._plan, chunks.slots, chunks.counts
        first = (chunks.flags & ChunkFlags.FIRST) != 0
        fresh = slots[first]
        self.steps[fresh] = self.samples[fresh] = 0
        self.samples[slots] += counts
        integers[_IS_FIRST, : len(slots)] = first
        integers[_FRESH, : len(fresh)] = fresh
        integers[_HIGH:] = self._full
        last = np.flatnonzero(chunks.flags & ChunkFlags.LAST)
        bounds = plan.last_step_bounds(self.steps[slots[last]], self.samples[slots[last]])
        integers[_HIGH:, last] = bounds
        frames[last] = bounds[-1]
        ends = np.where(first[last], plan.first_missing, 0) + counts[last]
        early = ends < plan.chunk_samples
        ending = int(np.count_nonzero(early))
        integers[_CUT, :ending] = last[early]
        integers[_ENDS, :ending] = ends[early]
        return len(fresh), ending

    def _pad(self, audio: npt.NDArray[np.float32], integers: npt.NDArray[np.int64], count: int) -> None:
        """Fills the rows after the chunks: silence in the spare slot, in the middle of a stream."""
        audio[count:] = 0.0
        integers[:_FRESH, count:] = 0
        integers[_SLOT, count:] = len(self.steps) - 1
        integers[_STEPS, count:] = self._ring_chunks
        integers[_FRAMES, count:] = self._plan.chunk_frames

    def _masks(self, integers: Tensor) -> list[Tensor]:
        """Makes the masks of `Batch`. A first step begins `stride - 1` frames early: those are not real."""
        is_first = integers[_IS_FIRST]
        masks = []
        for layer, frame in enumerate(self._frame):
            low = is_first * ((self._plan.stride - 1) >> layer)
            high = integers[_HIGH + layer]
            masks.append((frame >= low[:, None]) & (frame < high[:, None]))
        return masks
