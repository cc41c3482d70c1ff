"""Reads the weights of NeMo's encoder as plain fp32 tensors, and refuses an encoder with a part that is not known.

All that depends on weights and look-ahead alone is worked out here, once: the projections of the positions, the scale
of the scores, the half steps of the feed-forward layers, the scale of the encoder's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr_service.model.chunk_plan import ChunkPlan


class UnsupportedLayer(Exception):
    """The model has a part that the encoder step cannot run; another step is used instead."""


@dataclass(frozen=True, slots=True)
class Affine:
    """The weight [out, in] and bias [out] of a product, or the weight [n] and bias [n] of a normalisation."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class StageWeights:
    """The weights of one stride-2 layer of the subsampling.

    Attributes:
        conv: 3x3 convolution, weight [out, in / groups, 3, 3].
        groups: 1, or the number of channels if it is depthwise.
        pointwise: the product over channels after it, if there is one.
    """

    conv: Affine
    groups: int
    pointwise: Affine | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one Conformer layer.

    Attributes:
        heads, d_head: number and width of the attention's heads.
        norm_ff1, ff1_up, ff1_down: first feed-forward, its half step folded in.
        norm_att, qkv, att_out: attention; the scale of the scores is folded into the queries.
        bias_u, bias_v: [heads, d_head], scaled too.
        positions: projected position table, [heads, d_head, distances], from distance -(chunk - 1) upwards.
        norm_conv, conv_in, conv, conv_norm, conv_out: convolution; `conv.weight` is [kernel, d_model].
        norm_ff2, ff2_up, ff2_down, norm_out: the rest.
        eps: of all normalisations.
    """

    heads: int
    d_head: int
    norm_ff1: Affine
    ff1_up: Affine
    ff1_down: Affine
    norm_att: Affine
    qkv: Affine
    att_out: Affine
    bias_u: Tensor
    bias_v: Tensor
    positions: Tensor
    norm_conv: Affine
    conv_in: Affine
    conv: Affine
    conv_norm: Affine
    conv_out: Affine
    norm_ff2: Affine
    ff2_up: Affine
    ff2_down: Affine
    norm_out: Affine
    eps: float


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """The weights of a whole encoder.

    Attributes:
        stages: subsampling layers.
        widths: features (bands) at the input of each stage and after the last.
        project: from the last stage, flattened band by band ([width, channels]), to d_model.
        layers: Conformer layers.
        d_model: width of the encoder.
    """

    stages: list[StageWeights]
    widths: list[int]
    project: Affine
    layers: list[LayerWeights]
    d_model: int


def read_encoder(encoder: Any, plan: ChunkPlan, mels: int) -> EncoderWeights:
    """Reads the weights of NeMo's `ConformerEncoder`.

    Args:
        encoder: NeMo's object, with the look-ahead set.
        plan: geometry of the model at that look-ahead.
        mels: features of a mel frame.

    Raises:
        UnsupportedLayer: it has a part that is not known here.
    """
    if encoder.self_attention_model != "rel_pos" or encoder.att_context_style != "chunked_limited":
        raise UnsupportedLayer("attention is not relative and chunked")
    if encoder.reduction_position is not None or encoder.out_proj is not None:
        raise UnsupportedLayer("encoder reduces or projects its output")
    if plan.left_frames < plan.chunk_frames:
        raise UnsupportedLayer("no left context")
    pre_encode = encoder.pre_encode
    if not getattr(pre_encode, "is_causal", False) or not getattr(pre_encode, "conv2d_subsampling", False):
        raise UnsupportedLayer("subsampling is not a causal 2-d convolution")
    stages = _stages(pre_encode.conv)
    widths = [mels]
    for _ in stages:
        widths.append(widths[-1] // 2 + 1)
    last = stages[-1].pointwise or stages[-1].conv
    scale = float(encoder.xscale) if encoder.xscale else 1.0
    out = _affine(pre_encode.out, scale)
    # NeMo flattens [channels, width]; the steps here keep [width, channels].
    weight = out.weight.view(out.weight.shape[0], last.weight.shape[0], widths[-1]).transpose(1, 2).flatten(1)
    table = _position_table(encoder, plan)
    return EncoderWeights(
        stages=stages,
        widths=widths,
        project=Affine(weight.contiguous(), out.bias),
        layers=[_layer(layer, table) for layer in encoder.layers],
        d_model=int(encoder.d_model),
    )


def _affine(module: Any, scale: float = 1.0) -> Affine:
    weight = module.weight.detach().float() * scale
    bias = (
        torch.zeros_like(weight[..., 0].flatten())
        if module.bias is None
        else module.bias.detach().float() * scale
    )
    return Affine(weight.contiguous(), bias.contiguous())


def _norm(module: nn.LayerNorm) -> Affine:
    if not module.elementwise_affine:
        raise UnsupportedLayer("layer normalisation without weights")
    return _affine(module)


def _pointwise(module: Any) -> Affine:
    affine = _affine(module)
    return Affine(affine.weight.flatten(1), affine.bias)


def _stages(modules: nn.Sequential) -> list[StageWeights]:
    """Reads the weights of NeMo's `MaskedConvSequential`."""
    stages: list[StageWeights] = []
    conv: nn.Conv2d | None = None
    pointwise: Affine | None = None
    for module in modules:
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2) and conv is None:
            if module.kernel_size != (3, 3) or getattr(module, "_left_padding", None) != 2:
                raise UnsupportedLayer("subsampling is not causal with a kernel of 3")
            conv = module
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and conv is not None:
            pointwise = _pointwise(module)
        elif isinstance(module, nn.ReLU) and conv is not None:
            stages.append(StageWeights(_affine(conv), conv.groups, pointwise))
            conv = pointwise = None
        else:
            raise UnsupportedLayer(f"subsampling has an unknown layer {type(module).__name__}")
    if conv is not None:
        raise UnsupportedLayer("subsampling does not end with an activation")
    return stages


def _position_table(encoder: Any, plan: ChunkPlan) -> Tensor:
    """Returns NeMo's sinusoids for the distances from -(chunk - 1) to left + chunk - 1, [distances, d_model]."""
    length = plan.left_frames + plan.chunk_frames
    encoder.pos_enc.extend_pe(length, encoder.pos_enc.pe.device, torch.float32)
    table: Tensor = encoder.pos_enc.pe[0]
    # The middle row is distance 0; distances fall with the row.
    zero = table.shape[0] // 2
    chosen = table[zero - torch.arange(-(plan.chunk_frames - 1), length, device=table.device)]
    return chosen.float()


def _layer(layer: Any, table: Tensor) -> LayerWeights:
    """Reads the weights of NeMo's `ConformerLayer`."""
    attention, conv = layer.self_attn, layer.conv
    if type(attention).__name__ != "RelPositionMultiHeadAttention":
        raise UnsupportedLayer(f"attention is {type(attention).__name__}")
    if conv.norm_type != "layer_norm" or conv.pointwise_activation != "glu_":
        raise UnsupportedLayer("convolution without layer normalisation or gated linear unit")
    if conv.depthwise_conv._left_padding != conv.kernel_size - 1:
        raise UnsupportedLayer("convolution is not causal")
    heads, d_head = int(attention.h), int(attention.d_k)
    scale = d_head**-0.5
    parts = [_affine(attention.linear_q, scale), _affine(attention.linear_k), _affine(attention.linear_v)]
    projected = functional.linear(table, attention.linear_pos.weight.detach().float())
    depthwise = _affine(conv.depthwise_conv)
    return LayerWeights(
        heads=heads,
        d_head=d_head,
        norm_ff1=_norm(layer.norm_feed_forward1),
        ff1_up=_affine(layer.feed_forward1.linear1),
        ff1_down=_affine(layer.feed_forward1.linear2, layer.fc_factor),
        norm_att=_norm(layer.norm_self_att),
        qkv=Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])),
        att_out=_affine(attention.linear_out),
        bias_u=(attention.pos_bias_u.detach().float() * scale).contiguous(),
        bias_v=(attention.pos_bias_v.detach().float() * scale).contiguous(),
        positions=projected.view(-1, heads, d_head).permute(1, 2, 0).contiguous(),
        norm_conv=_norm(layer.norm_conv),
        conv_in=_pointwise(conv.pointwise_conv1),
        conv=Affine(depthwise.weight.squeeze(1).t().contiguous(), depthwise.bias),
        conv_norm=_norm(conv.batch_norm),
        conv_out=_pointwise(conv.pointwise_conv2),
        norm_ff2=_norm(layer.norm_feed_forward2),
        ff2_up=_affine(layer.feed_forward2.linear1),
        ff2_down=_affine(layer.feed_forward2.linear2, layer.fc_factor),
        norm_out=_norm(layer.norm_out),
        eps=float(layer.norm_out.eps),
    )
