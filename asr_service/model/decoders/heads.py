"""Reads the weights of a model's decoders: the RNN-T prediction network and joint, the CTC head.

The names of the weights are those of NeMo's `RNNTDecoder`, `RNNTJoint` (nemo/collections/asr/modules/rnnt.py) and
`ConvASRDecoder`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from asr_service.model.nemo_file.weights import WeightReader
from asr_service.model.weights import Linear, read_linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Of the joint, by the names that configurations use."""

_LSTM = "decoder.prediction.dec_rnn.lstm"
# The last layer of the joint, after the activation and, in models that were trained with one, a dropout.
_JOINT_OUT = ("joint.joint_net.2", "joint.joint_net.1")


@dataclass(frozen=True, slots=True)
class CtcWeights:
    """The weights of a CTC head: weight [vocabulary + 1, d_model], bias [vocabulary + 1]; the blank is the last."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class RnntWeights:
    """The weights of an RNN-T decoder.

    Attributes:
        embedding: of the tokens, [vocabulary or one more, hidden].
        inputs, recurrent: of each layer of the LSTM, [4 hidden, hidden], its gates in torch's order.
        biases: sums of both biases of each layer, [4 hidden].
        pred, enc: into the joint, weight [joint, hidden] and [joint, d_model].
        out: out of the joint, weight [vocabulary + 1, joint]; the blank is the last.
        activation: of the joint, a key of `ACTIVATIONS`.
    """

    embedding: Tensor
    inputs: list[Tensor]
    recurrent: list[Tensor]
    biases: list[Tensor]
    pred: Linear
    enc: Linear
    out: Linear
    activation: str


def ctc_head_name(weights: WeightReader) -> str | None:
    """Returns the name of the CTC head's weights; None if the model has none, whatever its configuration says."""
    names = ("ctc_decoder.decoder_layers.0", "decoder.decoder_layers.0")
    return next((name for name in names if f"{name}.weight" in weights), None)


def read_ctc(weights: WeightReader, name: str, d_model: int, vocabulary: int) -> CtcWeights:
    """Reads a CTC head.

    Args:
        weights: of the model file.
        name: from `ctc_head_name`.
        d_model: width of the encoder.
        vocabulary: tokens without the blank.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    weight = weights.take(f"{name}.weight", vocabulary + 1, d_model, 1)
    return CtcWeights(weight.squeeze(-1).contiguous(), weights.take(f"{name}.bias", vocabulary + 1))


def read_rnnt(weights: WeightReader, d_model: int, vocabulary: int, activation: str) -> RnntWeights:
    """Reads an RNN-T decoder.

    Args:
        weights: of the model file.
        d_model: width of the encoder.
        vocabulary: tokens without the blank.
        activation: of the joint, as the configuration names it.

    Raises:
        ModelError: a weight is missing or has another shape, or a part is not known here.
    """
    if activation not in ACTIVATIONS:
        raise weights.wrong(f"the joint's activation is {activation!r}, not one of {', '.join(ACTIVATIONS)}")
    if f"{_LSTM}.weight_hh_l0" not in weights or f"{_LSTM}.weight_hr_l0" in weights:
        raise weights.wrong("the prediction network is not a plain LSTM")
    hidden = weights.take(f"{_LSTM}.weight_hh_l0", -1, -1).shape[1]
    inputs: list[Tensor] = []
    recurrent: list[Tensor] = []
    biases: list[Tensor] = []
    while f"{_LSTM}.weight_hh_l{len(inputs)}" in weights:
        layer = len(inputs)
        inputs.append(weights.take(f"{_LSTM}.weight_ih_l{layer}", 4 * hidden, hidden).contiguous())
        recurrent.append(weights.take(f"{_LSTM}.weight_hh_l{layer}", 4 * hidden, hidden).contiguous())
        biases.append(
            weights.take(f"{_LSTM}.bias_ih_l{layer}", 4 * hidden)
            + weights.take(f"{_LSTM}.bias_hh_l{layer}", 4 * hidden)
        )
    embedding = weights.take("decoder.prediction.embed.weight", -1, hidden)
    if len(embedding) not in (vocabulary, vocabulary + 1):
        raise weights.wrong(
            f"decoder.prediction.embed.weight has {len(embedding)} tokens, and the tokenizer {vocabulary}"
        )
    pred = read_linear(weights, "joint.pred", -1, hidden, bias=True)
    joint = len(pred.weight)
    out = next((name for name in _JOINT_OUT if f"{name}.weight" in weights), _JOINT_OUT[0])
    return RnntWeights(
        embedding=embedding,
        inputs=inputs,
        recurrent=recurrent,
        biases=biases,
        pred=pred,
        enc=read_linear(weights, "joint.enc", joint, d_model, bias=True),
        out=read_linear(weights, out, vocabulary + 1, joint, bias=True),
        activation=activation,
    )
