"""Subsamples mel frames by causal convolutions in torch, a chunk at a time: each frame passes each layer once.

Every layer is a 3x3 convolution of stride 2 that pads two frames on the left and one on the right. Output j needs
inputs 2j - 2, 2j - 1 and 2j, so one input frame per layer is all a stream has to remember. Frames before the start and
after the end of a stream must be zero at the input of *every* layer (not the layer's response to zeros), which the
masks of the batch see to.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.batch import Batch
from asr_service.model.weights import EncoderWeights, Linear, StageWeights


class _Stage:
    """One stride-2 layer: a convolution, a product over channels if the model has one, ReLU.

    Convolutions of one channel, and those of each channel by itself, are fp32 whatever the type of products.
    """

    def __init__(self, weights: StageWeights, dtype: torch.dtype) -> None:
        self.groups = weights.groups
        sums_channels = weights.groups == 1 and weights.conv.weight.shape[1] > 1
        type_ = dtype if sums_channels else torch.float32
        self.weight = weights.conv.weight.to(type_).contiguous(memory_format=torch.channels_last)
        self.bias = weights.conv.bias.to(type_)
        self.out_type = dtype
        self.channels = self.weight.shape[0]
        self.pointwise: tuple[Tensor, Tensor | None] | None = None
        if weights.pointwise is not None:
            self.pointwise = _in_type(weights.pointwise, dtype)
            self.channels = weights.pointwise.weight.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        """Makes [B, T / 2, F / 2 + 1, C_out] of [B, T + 1, F, C_in]."""
        x = functional.pad(x.to(self.weight.dtype), (0, 0, 2, 1)).permute(0, 3, 1, 2)
        x = functional.conv2d(x, self.weight, self.bias, stride=2, groups=self.groups)
        x = x.permute(0, 2, 3, 1).to(self.out_type)
        if self.pointwise is not None:
            x = functional.linear(x, *self.pointwise)
        return x.relu_()


class Subsampling:
    """Makes the encoder's input of mel frames; a slot's state is one frame for each layer.

    Args:
        weights: of the encoder.
        slots: rows of pooled state.
        device: of the state and the arithmetic.
        dtype: of products and of the state; the log-mels, which are state too, stay fp32.
    """

    def __init__(self, weights: EncoderWeights, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self._stages = [_Stage(stage, dtype) for stage in weights.stages]
        channels = [1, *(stage.channels for stage in self._stages)]
        self._memory = [
            torch.zeros(slots, 1, width, count, device=device, dtype=dtype if layer else torch.float32)
            for layer, (width, count) in enumerate(zip(weights.widths[:-1], channels[:-1], strict=True))
        ]
        self._project = _in_type(weights.project, dtype)

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """Makes the encoder's input of one step.

        Args:
            batch: which slots, and which frames are real.
            mel: [B, chunk_mels, mels].

        Returns:
            [B, chunk_frames, d_model].
        """
        x = mel.unsqueeze(-1)
        for layer, (stage, memory) in enumerate(zip(self._stages, self._memory, strict=True)):
            if batch.masks is not None:
                x = x * batch.masks[layer][:, :, None, None].to(x.dtype)
            previous = memory[batch.slots]
            memory[batch.slots] = x[:, -1:]
            x = stage(torch.cat([previous, x], dim=1))
        return functional.linear(x.flatten(2), *self._project)

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream."""
        for memory in self._memory:
            memory.index_fill_(0, slots, 0.0)

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        return sum(memory[0].numel() * memory.element_size() for memory in self._memory)


def _in_type(weights: Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Returns the weight and the bias in a type."""
    return weights.weight.to(dtype), None if weights.bias is None else weights.bias.to(dtype)
