"""Lays out one step's batch as tensors: its slots, which of its frames are real, how far each stream has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.model import StepRequest
from asr_service.model.chunk_plan import ChunkPlan


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a step, as its stages need them.

    Attributes:
        slots: int64 [B] on the device.
        steps: full steps that each stream took before, int64 [B] on the device.
        masks: None if every frame is real; else one bool tensor for the input and one after each subsampling layer,
            [B, chunk_mels], [B, chunk_mels / 2], ..., [B, chunk_frames]; True where a frame is real.
        frames: real encoder frames of each row that has a request, on the host.
        any_young: whether some stream's attention cache is not full yet.
    """

    slots: Tensor
    steps: Tensor
    masks: list[Tensor] | None
    frames: list[int]
    any_young: bool

    @property
    def size(self) -> int:
        """Rows that have a request."""
        return len(self.frames)


def _to_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copies values to the device; to a GPU through pinned memory, so that the host need not wait for the copy.

    torch's allocator of pinned memory gives a piece out again only after the copy from it is done.
    """
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Positions:
    """Keeps track of how far each slot's stream has come, on the host.

    Args:
        plan: geometry of the model.
        slots: rows of pooled state, the spare one included.

    Attributes:
        steps: full steps taken by each slot's stream, int64 [slots].
        samples: samples that each slot's stream has stepped, int64 [slots].
    """

    def __init__(self, plan: ChunkPlan, slots: int) -> None:
        self._plan = plan
        self.steps = np.zeros(slots, dtype=np.int64)
        self.samples = np.zeros(slots, dtype=np.int64)

    def restart(self, slots: Sequence[int]) -> None:
        """Puts slots at the start of a stream."""
        self.steps[list(slots)] = 0
        self.samples[list(slots)] = 0

    def lay_out(
        self, requests: Sequence[StepRequest], pad_to: int, device: torch.device, ring_chunks: int
    ) -> tuple[Batch, Tensor, list[int] | None]:
        """Makes a step's batch of its requests, and moves the positions on.

        Args:
            requests: the rows, each slot at most once.
            pad_to: rows of the batch; rows beyond the requests repeat the spare slot, which is the last one.
            device: where the tensors go.
            ring_chunks: chunks the attention cache holds.

        Returns:
            The batch, the audio float32 [pad_to, chunk_samples], and where each row's audio ends for
            `FeatureExtractor.step`.
        """
        plan = self._plan
        count = len(requests)
        spare = len(self.steps) - 1
        slots = np.full(pad_to, spare, dtype=np.int64)
        audio = np.zeros((pad_to, plan.chunk_samples), dtype=np.float32)
        ends = [plan.chunk_samples] * pad_to
        frames = [plan.chunk_frames] * count
        steps_before = np.full(pad_to, ring_chunks, dtype=np.int64)
        layers = plan.sampling_layers + 1
        low = np.zeros((layers, pad_to), dtype=np.int64)
        high = np.empty((layers, pad_to), dtype=np.int64)
        for layer in range(layers):
            high[layer] = plan.chunk_mels >> layer
        ragged = False
        for row, request in enumerate(requests):
            slot = request.slot
            slots[row] = slot
            samples = request.samples
            start = plan.first_missing if self.steps[slot] == 0 else 0
            audio[row, start : start + len(samples)] = samples
            steps_before[row] = self.steps[slot]
            if start:
                ragged = True
                for layer in range(layers):
                    low[layer, row] = (plan.stride - 1) >> layer
            self.samples[slot] += len(samples)
            if request.is_last:
                ragged = True
                ends[row] = start + len(samples)
                bounds = plan.last_step_bounds(int(self.steps[slot]), int(self.samples[slot]))
                high[:, row] = bounds
                frames[row] = bounds[-1]
            self.steps[slot] += 1
        masks = None
        if ragged:
            masks = []
            for layer in range(layers):
                index = np.arange(plan.chunk_mels >> layer)
                real = (index >= low[layer][:, None]) & (index < high[layer][:, None])
                masks.append(_to_device(real, device))
        batch = Batch(
            slots=_to_device(slots, device),
            steps=_to_device(steps_before, device),
            masks=masks,
            frames=frames,
            any_young=bool((steps_before < ring_chunks).any()),
        )
        return batch, _to_device(audio, device), ends if ragged else None
