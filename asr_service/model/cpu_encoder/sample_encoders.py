"""Makes a small encoder of every kind that a processor can step, for `prepare.py`."""

from __future__ import annotations

import torch

from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.cpu_encoder.isa.tiles import NoTiles, amx_tiles, find_tiles
from asr_service.model.cpu_encoder.machine_code import target
from asr_service.model.devices import cpu_has_bf16
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, Linear, StageWeights

# Widths of a model whose layers are one compiled function, and of one whose products are oneDNN's.
_WIDTHS = (64, 48)
_HEADS, _CHANNELS, _KERNEL, _MELS = 4, 8, 3, 16
_PLAN = ChunkPlan(hop=160, window=400, stride=8, chunk_frames=2, left_frames=4)


def sample_encoders() -> list[tuple[CpuEncoder, ChunkPlan, int]]:
    """Makes the encoders, each with its plan and the features of a mel frame; their weights are zeros.

    They are those of this process's target. Where that is a kind of processors, this one may have fewer instructions:
    what a library's products in bfloat16 cannot do here is left out, and compiled at a start that needs it.
    """
    kind = target().kind
    tiles = find_tiles() if kind is None else amx_tiles() if kind.has_tiles else NoTiles(0)
    bf16 = kind is None or kind.has_bf16
    dtypes = (torch.float32, torch.bfloat16) if bf16 and cpu_has_bf16() else (torch.float32,)
    return [
        (CpuEncoder(_weights(width), _PLAN, 2, dtype, tiles), _PLAN, _MELS)
        for dtype in dtypes
        for width in _WIDTHS
    ]


def _weights(d: int) -> EncoderWeights:
    """Weights of one layer of width `d` and of three layers of subsampling."""
    widths = [_MELS]
    for _ in range(3):
        widths.append(widths[-1] // 2 + 1)
    distances = _PLAN.left_frames + 2 * _PLAN.chunk_frames - 1
    head = torch.zeros(_HEADS, d // _HEADS)
    layer = LayerWeights(
        heads=_HEADS, d_head=d // _HEADS, norm_ff1=_affine(d), ff1_up=_linear(2 * d, d), ff1_down=_linear(d, 2 * d),
        norm_att=_affine(d), qkv=_linear(3 * d, d), att_out=_linear(d, d), bias_u=head, bias_v=head,
        positions=torch.zeros(_HEADS, d // _HEADS, distances), norm_conv=_affine(d), conv_in=_linear(2 * d, d),
        conv=Affine(torch.zeros(_KERNEL, d), torch.zeros(d)), conv_norm=_affine(d), conv_out=_linear(d, d),
        norm_ff2=_affine(d), ff2_up=_linear(2 * d, d), ff2_down=_linear(d, 2 * d), norm_out=_affine(d), eps=1e-5,
    )  # fmt: skip
    conv = Affine(torch.zeros(_CHANNELS, 1, 3, 3), torch.zeros(_CHANNELS))
    later = StageWeights(conv, _CHANNELS, _linear(_CHANNELS, _CHANNELS))
    project = _linear(d, _CHANNELS * widths[-1])
    return EncoderWeights([StageWeights(conv, 1, None), later, later], widths, project, [layer], d)


def _affine(width: int) -> Affine:
    return Affine(torch.zeros(width), torch.zeros(width))


def _linear(out: int, width: int) -> Linear:
    return Linear(torch.zeros(out, width), torch.zeros(out))
