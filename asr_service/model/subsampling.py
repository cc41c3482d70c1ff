"""Causal convolutional subsampling, a chunk at a time: each mel frame goes through each layer once.

Every layer is a 3x3 convolution of stride 2 that pads two frames on the left and one on the right. Output j needs
inputs 2j - 2, 2j - 1 and 2j, so one input frame per layer is all a stream has to remember. Frames before the start and
after the end of a stream must be zero at the input of *every* layer (not the layer's response to zeros), which the
masks of the batch see to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr_service.model.batch import Batch


class UnsupportedLayer(Exception):
    """The loaded model has a layer that the fast step does not know; NeMo's own step is used instead."""


class _Stage:
    """One stride-2 layer: convolution, maybe a pointwise convolution, ReLU."""

    def __init__(self, conv: nn.Conv2d, pointwise: nn.Conv2d | None, dtype: torch.dtype) -> None:
        self.groups = conv.groups
        self.weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.pointwise: tuple[Tensor, Tensor | None] | None = None
        if pointwise is not None:
            weight = pointwise.weight.detach().to(dtype).flatten(1).contiguous()
            self.pointwise = (weight, None if pointwise.bias is None else pointwise.bias.detach().to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """[B, T + 1, F, C_in] to [B, T / 2, F / 2 + 1, C_out]."""
        x = functional.pad(x, (0, 0, 2, 1)).permute(0, 3, 1, 2)
        x = functional.conv2d(x, self.weight, self.bias, stride=2, groups=self.groups)
        x = x.permute(0, 2, 3, 1)
        if self.pointwise is not None:
            x = functional.linear(x, *self.pointwise)
        return x.relu_()


def _stages(modules: nn.Sequential, dtype: torch.dtype) -> list[_Stage]:
    """Reads NeMo's `MaskedConvSequential` as stages; raises UnsupportedLayer on anything unknown."""
    stages: list[_Stage] = []
    conv: nn.Conv2d | None = None
    pointwise: nn.Conv2d | None = None
    for module in modules:
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2) and conv is None:
            if module.kernel_size != (3, 3) or getattr(module, "_left_padding", None) != 2:
                raise UnsupportedLayer("subsampling is not causal with a kernel of 3")
            conv = module
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and conv is not None:
            pointwise = module
        elif isinstance(module, nn.ReLU) and conv is not None:
            stages.append(_Stage(conv, pointwise, dtype))
            conv = pointwise = None
        else:
            raise UnsupportedLayer(f"subsampling has an unknown layer {type(module).__name__}")
    if conv is not None:
        raise UnsupportedLayer("subsampling does not end with an activation")
    return stages


class Subsampling:
    """The subsampling of a loaded encoder, with one remembered frame per layer and slot."""

    def __init__(
        self, pre_encode: Any, mels: int, scale: float, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Takes the weights of NeMo's `ConvSubsampling`.

        Args:
            pre_encode: the loaded module.
            mels: features per mel frame.
            scale: factor on the output (the encoder's `xscale`), folded into the last projection.
            slots: rows of state.
            device: of the state.
            dtype: of weights, state and arithmetic.

        Raises:
            UnsupportedLayer: if the module is not of the causal striding kind.
        """
        if not getattr(pre_encode, "is_causal", False) or not getattr(
            pre_encode, "conv2d_subsampling", False
        ):
            raise UnsupportedLayer("subsampling is not a causal 2-d convolution")
        self._dtype = dtype
        self._stages = _stages(pre_encode.conv, dtype)
        self._memory: list[Tensor] = []
        width, channels = mels, 1
        for stage in self._stages:
            self._memory.append(torch.zeros(slots, 1, width, channels, device=device, dtype=dtype))
            width = width // 2 + 1
            channels = stage.pointwise[0].shape[0] if stage.pointwise else stage.weight.shape[0]
        # NeMo flattens [channels, width]; here frames are [width, channels].
        weight = pre_encode.out.weight.detach() * scale
        weight = weight.view(weight.shape[0], channels, width).transpose(1, 2).flatten(1)
        self._weight = weight.contiguous().to(dtype)
        self._bias = (pre_encode.out.bias.detach() * scale).to(dtype)

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """Encoder input of one step.

        Args:
            batch: which slots, and which frames are real.
            mel: [B, chunk_mels, mels].

        Returns:
            [B, chunk_frames, d_model].
        """
        x = mel.to(self._dtype).unsqueeze(-1)
        for layer, (stage, memory) in enumerate(zip(self._stages, self._memory, strict=True)):
            if batch.masks is not None:
                x = x * batch.masks[layer][:, :, None, None].to(x.dtype)
            previous = memory[batch.slots]
            memory[batch.slots] = x[:, -1:]
            x = stage(torch.cat([previous, x], dim=1))
        return functional.linear(x.flatten(2), self._weight, self._bias)

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of the given slots, int64 [n]."""
        for memory in self._memory:
            memory[slots] = 0

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return sum(memory[0].numel() * memory.element_size() for memory in self._memory)
