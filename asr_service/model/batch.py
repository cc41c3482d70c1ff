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
            int64 [n]; or where those of each row end, int64 [B].
        prompts: the index of each row's language prompt, int64 [B].
        frames: real encoder frames of the chunks, int32 [N], on the host.
    """

    batch: Batch
    audio: Tensor
    fresh: Tensor | None
    ends: tuple[Tensor, Tensor] | Tensor | None
    prompts: Tensor
    frames: Int32


@dataclass(frozen=True, slots=True)
class FixedInput:
    """What a step of fixed shapes takes.

    Attributes:
        memory: all of it, on the device, as `Positions.on_device` reads it.
        rows: of the batch: those of the chunks, then those that pad it.
        more_fresh: slots that a segment begins in beside those that are listed in `memory`, int64 [n]; None for none.
        slots: of the chunks, int32 [N], on the host.
        frames: real encoder frames of the chunks, int32 [N], on the host.
    """

    memory: Tensor
    rows: int
    more_fresh: Tensor | None
    slots: Int32
    frames: Int32


# Rows of the integers that go to the device. FRESH, CUT and ENDS are lists, whose lengths the host knows; HIGH and
# those after it say where real frames end, at the input and after each subsampling layer.
_SLOT, _STEPS, _FRAMES, _PROMPT, _IS_FIRST, _FRESH, _CUT, _ENDS, _HIGH = range(9)
SPARE_ROWS = 9
"""Rows of the pools after those of the slots: one for what pads batches, and others in which recordings are checked."""
_FRESH_ROWS = 16
"""Slots that a step of fixed shapes puts at the start of a stream at most; more are by further operations."""


class Positions:
    """Keeps track of how far each slot's stream has come, on the host, and lays out batches.

    Args:
        plan: geometry of the model.
        slots: streams that can be open at the same time; the pools have `SPARE_ROWS` more rows.
        ring_chunks: chunks that the attention cache holds.
        device: where batches go.

    Attributes:
        rows: of the pools.
        spare: the row that batches are padded with.
        chunk_frames: encoder frames of a step.
        steps: full steps taken by each slot's stream, int64 [rows].
        samples: samples that each slot's stream has stepped, int64 [rows].
    """

    def __init__(self, plan: ChunkPlan, slots: int, ring_chunks: int, device: torch.device) -> None:
        self._plan = plan
        self._ring_chunks = ring_chunks
        self._device = device
        self.rows, self.spare = slots + SPARE_ROWS, slots
        self.chunk_frames = plan.chunk_frames
        self.steps = np.zeros(self.rows, dtype=np.int64)
        self.samples = np.zeros(self.rows, dtype=np.int64)
        layers = plan.sampling_layers + 1
        self._staging = Staging(plan.chunk_samples, _HIGH + layers, device)
        self._full = np.array([[plan.chunk_mels >> layer] for layer in range(layers)])
        self._frame = [torch.arange(plan.chunk_mels >> layer, device=device) for layer in range(layers)]

    def lay_out(self, chunks: StepBatch, pad_to: int, prompts: npt.NDArray[np.int64] | None) -> StepInput:
        """Makes a step's input of its chunks, and moves the positions on.

        Args:
            chunks: N of them.
            pad_to: rows of the batch; rows beyond the chunks repeat the spare row.
            prompts: the index of each chunk's language prompt, int64 [N]; None for a model that takes none.
        """
        ragged = bool(chunks.flags.any())
        integers, frames, fresh, ending = self._write(chunks, pad_to, prompts, ragged)
        on_device, there = self._staging.upload(pad_to)
        batch = Batch(
            slots=there[_SLOT],
            steps=there[_STEPS],
            masks=self._masks(there) if ragged else None,
            frames=there[_FRAMES],
            any_young=bool(integers[_STEPS, : len(chunks)].min() < self._ring_chunks),
        )
        return StepInput(
            batch=batch,
            audio=on_device,
            fresh=there[_FRESH, :fresh] if fresh else None,
            ends=(there[_CUT, :ending], there[_ENDS, :ending]) if ending else None,
            prompts=there[_PROMPT],
            frames=frames,
        )

    def lay_out_fixed(
        self, chunks: StepBatch, pad_to: int, prompts: npt.NDArray[np.int64] | None
    ) -> FixedInput:
        """Makes the input of a step of fixed shapes, and moves the positions on; arguments as in `lay_out`."""
        integers, frames, fresh, ending = self._write(chunks, pad_to, prompts, ragged=True)
        # Lists are as long as the batch: what they do not say changes nothing.
        integers[_FRESH, fresh:] = self.spare
        cut, ends = integers[_CUT, :ending].copy(), integers[_ENDS, :ending].copy()
        integers[_ENDS] = self._plan.chunk_samples
        integers[_ENDS, cut] = ends
        memory = self._staging.upload_memory(pad_to)
        more = (
            self._staging.views(memory, pad_to)[1][_FRESH, _FRESH_ROWS:fresh] if fresh > _FRESH_ROWS else None
        )
        return FixedInput(memory, pad_to, more, chunks.slots.copy(), frames)

    def on_device(self, memory: Tensor, rows: int) -> StepInput:
        """Reads what `lay_out_fixed` has laid out; operations on the device alone."""
        audio, there = self._staging.views(memory, rows)
        batch = Batch(there[_SLOT], there[_STEPS], self._masks(there), there[_FRAMES], any_young=True)
        fresh = there[_FRESH, :_FRESH_ROWS]
        return StepInput(batch, audio, fresh, there[_ENDS], there[_PROMPT], np.zeros(0, np.int32))

    def static_memory(self, rows: int) -> Tensor:
        """Makes memory on the device for steps of so many rows; they are all the spare row."""
        memory = self._staging.new_memory(rows)
        self.fill_static(memory, rows)
        return memory

    def fill_static(self, memory: Tensor, rows: int) -> None:
        """Makes all rows of such memory the spare one, with silence in the middle of a stream."""
        audio, integers = self._staging.views(memory, rows)
        audio.zero_()
        integers.zero_()
        integers[_SLOT] = integers[_FRESH] = self.spare
        integers[_STEPS] = self._ring_chunks
        integers[_ENDS] = self._plan.chunk_samples
        integers[_HIGH:] = torch.from_numpy(self._full).to(self._device)

    def fill_with_noise(self, memory: Tensor, rows: int, loudness: float) -> tuple[Tensor, Tensor]:
        """Gives all rows of such memory noise to decode, and some of them, here and there, a row of the pools each.

        Returns:
            Which rows these are, and their rows of the pools, both int64 [n]. No stream has them.
        """
        audio, integers = self._staging.views(memory, rows)
        audio.copy_(loudness * torch.randn(audio.shape, device=self._device))
        integers[_FRAMES] = self._plan.chunk_frames
        count = min(rows, SPARE_ROWS - 1)
        chosen = np.linspace(0, rows - 1, count).astype(np.int64)
        which, pooled = torch.from_numpy(np.stack([chosen, self.spare + 1 + np.arange(count)])).to(
            self._device
        )
        integers[_SLOT, which] = pooled
        return which, pooled

    def _write(
        self, chunks: StepBatch, pad_to: int, prompts: npt.NDArray[np.int64] | None, ragged: bool
    ) -> tuple[npt.NDArray[np.int64], Int32, int, int]:
        """Writes samples and integers of a batch; edges of segments too if it is `ragged`.

        Returns:
            The integers, the real frames of the chunks, how many slots are listed as fresh, and how many rows as cut.
        """
        count, slots = len(chunks), chunks.slots
        audio, integers = self._staging.arrays(pad_to)
        # With this mode numpy writes to where it is told to, without memory of its own between.
        np.take(chunks.audio, chunks.rows, axis=0, out=audio[:count], mode="clip")
        frames = np.full(count, self._plan.chunk_frames, dtype=np.int32)
        fresh = ending = 0
        if ragged:
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
        return integers, frames, fresh, ending

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
        """Fills the rows after the chunks: silence in the spare row, in the middle of a stream."""
        audio[count:] = 0.0
        integers[:_FRESH, count:] = 0
        integers[_SLOT, count:] = self.spare
        integers[_STEPS, count:] = self._ring_chunks
        # What nobody hears is not decoded.
        integers[_FRAMES, count:] = 0

    def _masks(self, integers: Tensor) -> list[Tensor]:
        """Makes the masks of `Batch`. A first step begins `stride - 1` frames early: those are not real."""
        is_first = integers[_IS_FIRST]
        masks = []
        for layer, frame in enumerate(self._frame):
            low = is_first * ((self._plan.stride - 1) >> layer)
            high = integers[_HIGH + layer]
            masks.append((frame >= low[:, None]) & (frame < high[:, None]))
        return masks
