"""The depthwise-separable subsampling on a CPU: compiled loops for the 3x3 convolutions, products for the rest.

See `torch_encoder/subsampling.py` for what a stream remembers between steps and why.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.compiling import Array, compiled
from asr_service.model.cpu_encoder.kernels.rows import read_row, write_row
from asr_service.model.cpu_encoder.onednn_encoder import product
from asr_service.model.cpu_encoder.packing import array
from asr_service.model.weights import EncoderWeights, StageWeights, UnsupportedLayer


class Taps(NamedTuple):
    """A convolution of one input channel, or a depthwise one.

    Attributes:
        weight: float32 [3, 3, channels].
        bias: float32 [channels].
    """

    weight: Array
    bias: Array


@compiled(parallel=True)
def first_stages(
    mel: Array,
    memory: Array,
    memory2: Array,
    slots: Array,
    low: Array,
    high: Array,
    first: Taps,
    second: Taps,
    out: Array,
) -> None:
    """First convolution and ReLU, then the depthwise part of the second, of the subsampling.

    Args:
        mel: float32 [B, frames, mels]; frames outside [low, high) count as zero.
        memory: float32 pool [slots, mels], the last mel frame.
        memory2: pool [slots, width1, channels], the first layer's last output frame.
        slots: int64 [B].
        low, high: int64 [2, B], real frames of the input and of the first layer's output.
        first, second: of the two convolutions.
        out: [B, frames / 4, width2, channels].
    """
    size, frames, mels = mel.shape
    weight, bias = first.weight, first.bias
    weight2, bias2 = second.weight, second.bias
    channels = weight.shape[2]
    width = mels // 2 + 1
    width2 = width // 2 + 1
    for b in prange(size):
        slot = slots[b]
        # Two columns of padding on the left, one on the right.
        padded = np.zeros((frames + 1, mels + 3), np.float32)
        for m in range(mels):
            padded[0, m + 2] = memory[slot, m]
            for t in range(low[0, b], high[0, b]):
                padded[t + 1, m + 2] = mel[b, t, m]
            memory[slot, m] = padded[frames, m + 2]
        middle = np.zeros((frames // 2 + 1, width + 3, channels), np.float32)
        for w in range(width):
            read_row(memory2[slot, w], middle[0, w + 2])
        for t in range(low[1, b], high[1, b]):
            for w in range(width):
                row = middle[t + 1, w + 2]
                for c in range(channels):
                    row[c] = bias[c]
                for i in range(3):
                    for j in range(3):
                        a = padded[2 * t + i, 2 * w + j]
                        for c in range(channels):
                            row[c] += a * weight[i, j, c]
                for c in range(channels):
                    row[c] = max(row[c], np.float32(0.0))
        for w in range(width):
            write_row(middle[frames // 2, w + 2], memory2[slot, w])
        total = np.empty(channels, np.float32)
        for t in range(frames // 4):
            for w in range(width2):
                for c in range(channels):
                    total[c] = bias2[c]
                for i in range(3):
                    for j in range(3):
                        for c in range(channels):
                            total[c] += weight2[i, j, c] * middle[2 * t + i, 2 * w + j, c]
                write_row(total, out[b, t, w])


@compiled(parallel=True)
def depthwise(
    x: Array,
    memory: Array,
    slots: Array,
    low: Array,
    high: Array,
    taps: Taps,
    out: Array,
) -> None:
    """ReLU of the layer before, then the depthwise convolution of stride 2 of a later subsampling layer.

    Args:
        x: [B, frames, width, channels] before the ReLU; frames outside [low, high) count as zero.
        memory: pool [slots, width, channels], the last input frame.
        slots, low, high: int64 [B].
        taps: of the convolution.
        out: [B, frames / 2, width / 2 + 1, channels].
    """
    size, frames, width, channels = x.shape
    weight, bias = taps.weight, taps.bias
    width2 = width // 2 + 1
    for b in prange(size):
        slot = slots[b]
        padded = np.zeros((frames + 1, width + 3, channels), np.float32)
        for w in range(width):
            read_row(memory[slot, w], padded[0, w + 2])
            for t in range(low[b], high[b]):
                row = padded[t + 1, w + 2]
                read_row(x[b, t, w], row)
                for c in range(channels):
                    row[c] = max(row[c], np.float32(0.0))
            write_row(padded[frames, w + 2], memory[slot, w])
        total = np.empty(channels, np.float32)
        for t in range(frames // 2):
            for w in range(width2):
                for c in range(channels):
                    total[c] = bias[c]
                for i in range(3):
                    for j in range(3):
                        for c in range(channels):
                            total[c] += weight[i, j, c] * padded[2 * t + i, 2 * w + j, c]
                write_row(total, out[b, t, w])


class CpuSubsampling:
    """The subsampling of an encoder, with one remembered frame per layer and slot."""

    def __init__(self, weights: EncoderWeights, plan: ChunkPlan, slots: int, dtype: torch.dtype) -> None:
        first, *rest = weights.stages
        if first.groups != 1 or first.pointwise is not None or first.conv.weight.shape[1] != 1 or not rest:
            raise UnsupportedLayer("the first subsampling layer is not a plain convolution")
        if any(stage.pointwise is None or stage.groups != stage.conv.weight.shape[0] for stage in rest):
            raise UnsupportedLayer("later subsampling layers are not depthwise-separable")
        self._plan = plan
        self._dtype = dtype
        self._channels = first.conv.weight.shape[0]
        self._convs = [_taps(stage) for stage in weights.stages]
        self._products = [product(stage.pointwise, dtype) for stage in rest if stage.pointwise is not None]
        self._project = product(weights.project, dtype)
        self._widths = weights.widths
        self._mels = torch.zeros(slots, weights.widths[0])
        self._memory = [
            torch.zeros(slots, width, self._channels, dtype=dtype) for width in weights.widths[1:-1]
        ]

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """fp32 [B, chunk_mels, mels] to fp32 [B, chunk_frames, d_model]."""
        size, frames = len(batch.slots), self._plan.chunk_mels
        slots = array(batch.slots)
        low, high = self._bounds(batch, size)
        first, second = self._convs[:2]
        memory = [array(m) for m in self._memory]
        x = torch.empty(size, frames // 4, self._widths[2], self._channels, dtype=self._dtype)
        first_stages(
            array(mel), array(self._mels), memory[0], slots, low[:2], high[:2], first, second, array(x)
        )
        x = self._products[0](x)
        for layer in range(2, len(self._convs)):
            out = torch.empty(
                size, frames >> (layer + 1), self._widths[layer + 1], self._channels, dtype=self._dtype
            )
            depthwise(
                array(x), memory[layer - 1], slots, low[layer], high[layer], self._convs[layer], array(out)
            )
            x = self._products[layer - 1](out)
        return self._project(x.relu_().flatten(2)).float()

    def _bounds(self, batch: Batch, size: int) -> tuple[Array, Array]:
        """First real frame and the one after the last, of the input and after each layer, int64 [layers, B]."""
        layers = len(self._convs)
        low = np.zeros((layers, size), dtype=np.int64)
        high = np.empty((layers, size), dtype=np.int64)
        for layer in range(layers):
            if batch.masks is None:
                high[layer] = self._plan.chunk_mels >> layer
                continue
            mask = array(batch.masks[layer])
            some = mask.any(axis=1)
            low[layer] = np.where(some, mask.argmax(axis=1), 0)
            high[layer] = np.where(some, mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)
        return low, high

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of the given slots, int64 [n]."""
        self._mels[slots] = 0
        for memory in self._memory:
            memory[slots] = 0

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return sum(m[0].numel() * m.element_size() for m in (self._mels, *self._memory))


def _taps(stage: StageWeights) -> Taps:
    """Those of a one-channel or depthwise 3x3 convolution."""
    return Taps(array(stage.conv.weight.squeeze(1).permute(1, 2, 0).contiguous()), array(stage.conv.bias))
