"""Reads the weights of an encoder out of a model file, and refuses an encoder with a part that is not known here.

The names of the weights are those of NeMo's `ConformerEncoder` (nemo/collections/asr/modules/conformer_encoder.py and
its submodules). All that depends on weights and look-ahead alone is worked out here, once: the projections of the
positions, the scale of the scores, the half steps of the feed-forward layers, the scale of the encoder's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.nemo_file.architecture import EncoderShape
from asr_service.model.nemo_file.weights import WeightReader

NORM_EPS = 1e-5
"""Of torch's layer normalisation, which NeMo leaves as it is."""
_HALF_STEP = 0.5
# The convolutions of the subsampling: 3 by 3, at every second place.
_TAPS = 3


class UnsupportedLayer(Exception):
    """The model has a part that the encoder step cannot run; another step is used instead."""


@dataclass(frozen=True, slots=True)
class Linear:
    """The weight [out, in] of a product, and its bias [out] if it has one."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Affine:
    """The weight and bias [n] of a normalisation, or those of a convolution."""

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
    pointwise: Linear | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one Conformer layer.

    Attributes:
        heads, d_head: number and width of the attention's heads.
        norm_ff1, ff1_up, ff1_down: first feed-forward, its half step folded in.
        norm_att, qkv, att_out: attention; the scale of the scores is folded into the queries.
        bias_u, bias_v: [heads, d_head], scaled too.
        positions: projected position table, [heads, d_head, distances], from distance -(chunk - 1) upwards.
        norm_conv, conv_in, conv, conv_norm, conv_out: convolution; `conv.weight` is [kernel, d_model], and
            `conv.bias` zeros where the model has none.
        norm_ff2, ff2_up, ff2_down, norm_out: the rest.
        eps: of all normalisations.
    """

    heads: int
    d_head: int
    norm_ff1: Affine
    ff1_up: Linear
    ff1_down: Linear
    norm_att: Affine
    qkv: Linear
    att_out: Linear
    bias_u: Tensor
    bias_v: Tensor
    positions: Tensor
    norm_conv: Affine
    conv_in: Linear
    conv: Affine
    conv_norm: Affine
    conv_out: Linear
    norm_ff2: Affine
    ff2_up: Linear
    ff2_down: Linear
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
    project: Linear
    layers: list[LayerWeights]
    d_model: int


def read_encoder(weights: WeightReader, shape: EncoderShape, plan: ChunkPlan, mels: int) -> EncoderWeights:
    """Reads the weights of an encoder.

    Args:
        weights: of the model file.
        shape: of the encoder.
        plan: geometry of the model at the look-ahead that it steps with.
        mels: features of a mel frame.

    Raises:
        UnsupportedLayer: it has a part that is not known here.
        ModelError: a weight is missing or has another shape than the configuration says.
    """
    if shape.attention != "rel_pos":
        raise UnsupportedLayer(f"attention is {shape.attention}")
    if shape.conv_norm != "layer_norm":
        raise UnsupportedLayer(f"convolution is normalised by {shape.conv_norm}")
    stages = _stages(weights, shape, plan)
    widths = [mels]
    for _ in stages:
        widths.append(widths[-1] // 2 + 1)
    scale = math.sqrt(shape.d_model) if shape.xscaling else 1.0
    flat = shape.channels * widths[-1]
    out = read_linear(weights, "encoder.pre_encode.out", shape.d_model, flat, bias=True, scale=scale)
    # NeMo flattens [channels, width]; the steps here keep [width, channels].
    weight = out.weight.view(shape.d_model, shape.channels, widths[-1]).transpose(1, 2).flatten(1)
    table = _position_table(shape.d_model, plan)
    return EncoderWeights(
        stages=stages,
        widths=widths,
        project=Linear(weight.contiguous(), out.bias),
        layers=[_layer(weights, shape, number, table) for number in range(shape.layers)],
        d_model=shape.d_model,
    )


def read_linear(
    weights: WeightReader, name: str, outputs: int, inputs: int, *, bias: bool, scale: float = 1.0
) -> Linear:
    """Reads a product; a pointwise convolution is one too.

    Args:
        weights: of the model file.
        name: of the product; its parts are called `<name>.weight` and `<name>.bias`.
        outputs, inputs: sizes that it should have, -1 for any.
        bias: whether it has one.
        scale: of the product.

    Raises:
        ModelError: a part is missing or has another shape.
    """
    kernel = (1,) * (len(weights.shape(f"{name}.weight")) - 2)
    weight = weights.take(f"{name}.weight", outputs, inputs, *kernel).flatten(1)
    added = weights.take(f"{name}.bias", len(weight)) if bias else None
    if scale != 1.0:
        weight, added = weight * scale, None if added is None else added * scale
    return Linear(weight.contiguous(), added)


def _norm(weights: WeightReader, name: str, width: int) -> Affine:
    return Affine(weights.take(f"{name}.weight", width), weights.take(f"{name}.bias", width))


def _stages(weights: WeightReader, shape: EncoderShape, plan: ChunkPlan) -> list[StageWeights]:
    """Reads the convolutions of the subsampling, whose numbers count NeMo's modules, activations included."""
    channels = shape.channels

    def conv(number: int, inputs: int, groups: int) -> Affine:
        name = f"encoder.pre_encode.conv.{number}"
        weight = weights.take(f"{name}.weight", channels, inputs // groups, _TAPS, _TAPS)
        return Affine(weight.contiguous(), weights.take(f"{name}.bias", channels))

    count = plan.sampling_layers
    first = StageWeights(conv(0, 1, 1), 1, None)
    if shape.subsampling == "striding":
        return [first, *(StageWeights(conv(2 * n, channels, 1), 1, None) for n in range(1, count))]
    if shape.subsampling != "dw_striding":
        raise UnsupportedLayer(f"subsampling is {shape.subsampling}")
    stages = [first]
    for number in range(2, 3 * count - 1, 3):
        pointwise = read_linear(
            weights, f"encoder.pre_encode.conv.{number + 1}", channels, channels, bias=True
        )
        stages.append(StageWeights(conv(number, channels, channels), channels, pointwise))
    return stages


def _position_table(d_model: int, plan: ChunkPlan) -> Tensor:
    """Returns the sinusoids of the distances from -(chunk - 1) to left + chunk - 1, [distances, d_model].

    As in NeMo's `RelPositionalEncoding`, in fp32 throughout: sines in even columns, cosines in odd ones.
    """
    distance = torch.arange(
        -(plan.chunk_frames - 1), plan.left_frames + plan.chunk_frames, dtype=torch.float32
    )
    rate = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32) * -(math.log(10_000.0) / d_model))
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def _layer(weights: WeightReader, shape: EncoderShape, number: int, table: Tensor) -> LayerWeights:
    """Reads one Conformer layer, NeMo's `ConformerLayer`."""
    name, width, ff, heads = f"encoder.layers.{number}", shape.d_model, shape.d_ff, shape.heads
    d_head = width // heads
    scale = d_head**-0.5

    def linear(part: str, outputs: int, inputs: int, scale: float = 1.0) -> Linear:
        return read_linear(weights, f"{name}.{part}", outputs, inputs, bias=shape.bias, scale=scale)

    def norm(part: str) -> Affine:
        return _norm(weights, f"{name}.{part}", width)

    q, k, v = (
        linear(f"self_attn.linear_{letter}", width, width, factor)
        for letter, factor in (("q", scale), ("k", 1.0), ("v", 1.0))
    )
    biases = [part.bias for part in (q, k, v) if part.bias is not None]
    positions = weights.take(f"{name}.self_attn.linear_pos.weight", width, width)
    projected = functional.linear(table.to(positions.device), positions)
    taps = weights.take(f"{name}.conv.depthwise_conv.weight", width, 1, shape.kernel)
    conv_bias = (
        weights.take(f"{name}.conv.depthwise_conv.bias", width) if shape.bias else taps.new_zeros(width)
    )
    return LayerWeights(
        heads=heads,
        d_head=d_head,
        norm_ff1=norm("norm_feed_forward1"),
        ff1_up=linear("feed_forward1.linear1", ff, width),
        ff1_down=linear("feed_forward1.linear2", width, ff, _HALF_STEP),
        norm_att=norm("norm_self_att"),
        qkv=Linear(torch.cat([q.weight, k.weight, v.weight]), torch.cat(biases) if biases else None),
        att_out=linear("self_attn.linear_out", width, width),
        bias_u=(weights.take(f"{name}.self_attn.pos_bias_u", heads, d_head) * scale).contiguous(),
        bias_v=(weights.take(f"{name}.self_attn.pos_bias_v", heads, d_head) * scale).contiguous(),
        positions=projected.view(-1, heads, d_head).permute(1, 2, 0).contiguous(),
        norm_conv=norm("norm_conv"),
        conv_in=linear("conv.pointwise_conv1", 2 * width, width),
        conv=Affine(taps.squeeze(1).t().contiguous(), conv_bias),
        conv_norm=norm("conv.batch_norm"),
        conv_out=linear("conv.pointwise_conv2", width, width),
        norm_ff2=norm("norm_feed_forward2"),
        ff2_up=linear("feed_forward2.linear1", ff, width),
        ff2_down=linear("feed_forward2.linear2", width, ff, _HALF_STEP),
        norm_out=norm("norm_out"),
        eps=NORM_EPS,
    )
