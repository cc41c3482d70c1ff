"""Carries a step's arrays to the device in one copy, and what comes of it back in one.

On a CPU nothing is copied: the tensors are the arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.values import Samples

_ALIGNMENT = 8
"""Bytes of the largest number that is carried."""


class Staging:
    """Memory in which the host writes a step's input: a row of samples and a column of integers for each stream.

    It is one piece, pinned for a GPU, and is used again by each step.

    Args:
        samples: of a row.
        fields: integers of a stream.
        device: where they go.
    """

    def __init__(self, samples: int, fields: int, device: torch.device) -> None:
        self._samples, self._fields, self._device = samples, fields, device
        self._memory = torch.empty(0, dtype=torch.uint8)
        # Arrays and tensors on the memory by the number of streams.
        self._arrays: dict[int, tuple[Samples, npt.NDArray[np.int64]]] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        # Of the last copy to a GPU, which reads the memory after `upload` has returned.
        self._copied: Any = None

    def arrays(self, streams: int) -> tuple[Samples, npt.NDArray[np.int64]]:
        """Returns where to write: samples float32 [streams, samples], and integers [fields, streams].

        They hold what was written before.
        """
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        found = self._arrays.get(streams)
        if found is None:
            if self._bytes(streams) > len(self._memory):
                self._arrays.clear()
                self._tensors.clear()
                self._memory = torch.zeros(
                    self._bytes(streams), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
                )
            audio, integers = self.views(self._memory, streams)
            found = self._arrays[streams] = audio.numpy(), integers.numpy()
        return found

    def upload_memory(self, streams: int) -> Tensor:
        """Carries what was written for so many streams to the device, without waiting for it; `views` reads it."""
        there = self._memory[: self._bytes(streams)].to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            self._copied = torch.cuda.current_stream(self._device).record_event()
        return there

    def new_memory(self, streams: int) -> Tensor:
        """Makes memory on the device for what is uploaded for so many streams."""
        return torch.zeros(self._bytes(streams), dtype=torch.uint8, device=self._device)

    def upload(self, streams: int) -> tuple[Tensor, Tensor]:
        """Carries what was written for so many streams to the device, without waiting for it."""
        if self._device.type != "cpu":
            return self.views(self.upload_memory(streams), streams)
        found = self._tensors.get(streams)
        if found is None:
            found = self._tensors[streams] = self.views(self._memory, streams)
        return found

    def _bytes(self, streams: int) -> int:
        return self._integers_at(streams) + 8 * self._fields * streams

    def _integers_at(self, streams: int) -> int:
        return -(-4 * self._samples * streams // _ALIGNMENT) * _ALIGNMENT

    def views(self, memory: Tensor, streams: int) -> tuple[Tensor, Tensor]:
        """Returns the samples, float32 [streams, samples], and integers, int64 [fields, streams], in some memory."""
        audio = memory[: 4 * self._samples * streams].view(torch.float32)
        integers = memory[self._integers_at(streams) : self._bytes(streams)].view(torch.int64)
        return audio.view(streams, self._samples), integers.view(self._fields, streams)


def download(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    """Waits for the device, and returns what tensors of one axis hold; those of the largest numbers come first."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.numpy() for tensor in tensors]
    return unpack(pack(*tensors).cpu(), *tensors)


def pack(*tensors: Tensor) -> Tensor:
    """Puts the bytes of tensors one after the other."""
    return torch.cat([tensor.contiguous().view(torch.uint8) for tensor in tensors])


def unpack(packed: Tensor, *like: Tensor) -> list[npt.NDArray[Any]]:
    """Takes apart, on the host, what `pack` has made of such tensors."""
    found, at = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        found.append(packed[at : at + size].view(tensor.dtype).numpy())
        at += size
    return found
