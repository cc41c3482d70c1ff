"""A small encoder of random weights, made without NeMo."""

from __future__ import annotations

import numpy as np
import torch

from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, Linear, StageWeights

D, HEADS, CHANNELS, KERNEL = 96, 4, 32, 9


def _affine(out: int, *width: int) -> Affine:
    return Affine(torch.randn(out, *width) * float(np.prod(width)) ** -0.5, 0.1 * torch.randn(out))


def _linear(out: int, width: int) -> Linear:
    made = _affine(out, width)
    return Linear(made.weight, made.bias)


def _norm() -> Affine:
    return Affine(1 + 0.1 * torch.randn(D), 0.1 * torch.randn(D))


def made_up_weights(plan: ChunkPlan) -> EncoderWeights:
    """Weights of three layers."""
    torch.manual_seed(5)
    width = D // HEADS
    distances = plan.left_frames + 2 * plan.chunk_frames - 1
    layers = [
        LayerWeights(
            heads=HEADS, d_head=width, norm_ff1=_norm(), ff1_up=_linear(4 * D, D), ff1_down=_linear(D, 4 * D),
            norm_att=_norm(), qkv=_linear(3 * D, D), att_out=_linear(D, D), bias_u=0.1 * torch.randn(HEADS, width),
            bias_v=0.1 * torch.randn(HEADS, width), positions=0.3 * torch.randn(HEADS, width, distances),
            norm_conv=_norm(), conv_in=_linear(2 * D, D),
            conv=Affine(0.3 * torch.randn(KERNEL, D), 0.1 * torch.randn(D)), conv_norm=_norm(),
            conv_out=_linear(D, D), norm_ff2=_norm(), ff2_up=_linear(4 * D, D), ff2_down=_linear(D, 4 * D),
            norm_out=_norm(), eps=1e-5,
        )
        for _ in range(3)
    ]  # fmt: skip
    first = StageWeights(_affine(CHANNELS, 1, 3, 3), 1, None)
    rest = [StageWeights(_affine(CHANNELS, 1, 3, 3), CHANNELS, _linear(CHANNELS, CHANNELS)) for _ in range(2)]
    return EncoderWeights([first, *rest], [80, 41, 21, 11], _linear(D, 11 * CHANNELS), layers, D)
