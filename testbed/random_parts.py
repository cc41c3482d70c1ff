"""Makes models with random weights in memory, on any device and in seconds: for measurements and comparisons.

Every tensor has the name and the shape that NeMo's class saves. The weights are drawn as torch initialises such layers;
the blank's bias is set such that about `testbed.heads.TOKENS_PER_FRAME` tokens a frame come out of babble. Features are
computed as in NeMo: Slaney's mel filters (Auditory Toolbox, 1998), a Hann window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.nemo_file.architecture import read_architecture
from asr_service.model.nemo_file.config import Section
from asr_service.model.nemo_file.weights import WeightReader
from asr_service.model.prompts import read_prompts
from asr_service.model.reading import ModelParts
from testbed.babble import babble
from testbed.by_request import StepRequest, step
from testbed.configs import model_config
from testbed.heads import TOKENS_PER_FRAME
from testbed.shapes import CLASSES, NUM_PROMPTS, Shape

_RATE, _N_FFT, _WINDOW = 16_000, 512, 400
_BABBLE_S = 6.0
_LETTERS = "etaoinshrdlcumwfgypbvk"
SPACE = "\u2581"
"""How SentencePiece writes a space."""


def random_config(shape: Shape, tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Makes the configuration of a model of this shape, with its class, as NeMo saves it.

    Args:
        shape: of the model.
        tokenizer: the section that names its tokenizer.
    """
    # NeMo imports the class by this path.
    return model_config(shape, tokenizer) | {"target": f"nemo.collections.asr.models.{CLASSES[shape.kind]}"}


def random_parts(shape: Shape, device: torch.device, seed: int = 0) -> tuple[ModelParts, dict[str, Tensor]]:
    """Makes what the file of a model of this shape would hold, with words of made-up pieces.

    Args:
        shape: of the model.
        device: where its weights are drawn and wanted; they differ between kinds of devices.
        seed: of the weights.

    Returns:
        The parts, whose tensors nobody has asked for yet, and the weights by name.
    """
    config = Section(random_config(shape, {"dir": "", "type": "bpe"}), shape.kind)
    architecture = read_architecture(config)
    weights = _Weights(seed, device).of(shape)

    def parts() -> ModelParts:
        reader = WeightReader(weights, "random weights")
        return ModelParts(
            name="random",
            path=Path("random"),
            architecture=architecture,
            tokenizer=_MadeUpPieces(shape.vocabulary, shape.languages, shape.end_tokens),
            weights=reader,
            activation=shape.activation if architecture.has_joint else "",
            dictionary=dict(shape.prompts),
            prompts=read_prompts(reader, architecture.encoder.d_model),
        )

    _set_blank_bias(shape, parts(), weights, device)
    return parts(), weights


class _MadeUpPieces:
    """A tokenizer of made-up pieces, every one of which begins a word; it spells words of such pieces only."""

    languages: tuple[str, ...] = ()

    def __init__(self, count: int, tags: Sequence[str], last: Sequence[str]) -> None:
        base = len(_LETTERS)
        words = (
            SPACE + "".join(_LETTERS[number // base**place % base] for place in range(4))
            for number in range(count - len(tags) - len(last))
        )
        self.pieces = (*(f"<{tag}>" for tag in tags), *words, *last)
        self._ids = {piece: number for number, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> Sequence[int]:
        """See `Tokenizer.encode`."""
        return [self._ids.get(SPACE + word, -1) for word in text.split()]


class _Weights:
    """Draws weights by name, on a device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._made: dict[str, Tensor] = {}

    def of(self, shape: Shape) -> dict[str, Tensor]:
        """Draws all weights of a model."""
        made, width, stride = self._made, shape.d_model, shape.subsampling
        made["preprocessor.featurizer.window"] = torch.hann_window(_WINDOW, periodic=False)
        made["preprocessor.featurizer.fb"] = mel_filters(shape.mels)[None]
        bands = shape.mels
        for stage in range(stride.bit_length() - 1):
            bands = bands // 2 + 1
            name = f"encoder.pre_encode.conv.{3 * stage - 1 if stage else 0}"
            self._product(name, shape.channels, 1, 3, 3)
            if stage:
                self._product(f"encoder.pre_encode.conv.{3 * stage}", shape.channels, shape.channels, 1, 1)
        self._product("encoder.pre_encode.out", width, shape.channels * bands)
        for layer in range(shape.layers):
            self._layer(f"encoder.layers.{layer}", shape)
        if shape.prompts:
            self._product("prompt_kernel.0", 2 * width, width + NUM_PROMPTS)
            self._product("prompt_kernel.2", width, 2 * width)
        tokens = shape.vocabulary + 1
        if "rnnt" in shape.decoders:
            self._transducer(shape, tokens)
        if "ctc" in shape.decoders:
            head = "decoder" if shape.decoders == ("ctc",) else "ctc_decoder"
            self._product(f"{head}.decoder_layers.0", tokens, width, 1)
        return {name: weight.to(self._device) for name, weight in made.items()}

    def _layer(self, name: str, shape: Shape) -> None:
        width, bias = shape.d_model, shape.use_bias
        for norm in (
            "norm_feed_forward1",
            "norm_conv",
            "norm_self_att",
            "norm_feed_forward2",
            "norm_out",
            "conv.batch_norm",
        ):
            self._made[f"{name}.{norm}.weight"] = torch.ones(width)
            self._made[f"{name}.{norm}.bias"] = torch.zeros(width)
        for part in ("feed_forward1", "feed_forward2"):
            self._product(f"{name}.{part}.linear1", 4 * width, width, bias=bias)
            self._product(f"{name}.{part}.linear2", width, 4 * width, bias=bias)
        self._product(f"{name}.conv.pointwise_conv1", 2 * width, width, 1, bias=bias)
        self._product(f"{name}.conv.depthwise_conv", width, 1, shape.kernel, bias=bias)
        self._product(f"{name}.conv.pointwise_conv2", width, width, 1, bias=bias)
        for letter in ("q", "k", "v", "out"):
            self._product(f"{name}.self_attn.linear_{letter}", width, width, bias=bias)
        self._product(f"{name}.self_attn.linear_pos", width, width, bias=False)
        for letter in ("u", "v"):
            self._made[f"{name}.self_attn.pos_bias_{letter}"] = 0.1 * torch.randn(
                shape.heads, width // shape.heads, generator=self._generator, device=self._device
            )

    def _transducer(self, shape: Shape, tokens: int) -> None:
        hidden = shape.hidden
        embedding = torch.randn(tokens, hidden, generator=self._generator, device=self._device)
        # The blank's, which pads.
        embedding[-1] = 0.0
        self._made["decoder.prediction.embed.weight"] = embedding
        for layer in range(shape.prediction_layers):
            for name in ("ih", "hh"):
                lstm = "decoder.prediction.dec_rnn.lstm"
                self._made[f"{lstm}.weight_{name}_l{layer}"] = self._uniform(hidden, 4 * hidden, hidden)
                self._made[f"{lstm}.bias_{name}_l{layer}"] = self._uniform(hidden, 4 * hidden)
        self._product("joint.pred", hidden, hidden)
        self._product("joint.enc", hidden, shape.d_model)
        self._product("joint.joint_net.2", tokens, hidden)

    def _product(self, name: str, outputs: int, inputs: int, *kernel: int, bias: bool = True) -> None:
        fan_in = inputs * math.prod(kernel)
        self._made[f"{name}.weight"] = self._uniform(fan_in, outputs, inputs, *kernel)
        if bias:
            self._made[f"{name}.bias"] = self._uniform(fan_in, outputs)

    def _uniform(self, fan_in: int, *shape: int) -> Tensor:
        bound = fan_in**-0.5
        return torch.empty(shape, device=self._device).uniform_(-bound, bound, generator=self._generator)


def mel_filters(mels: int) -> Tensor:
    """Makes Slaney's mel filters of equal area: float32 [mels, n_fft / 2 + 1]."""
    # Linear below 1 kHz, 27 steps for each factor of 6.4 above.
    step_hz, break_hz, log_step = 200.0 / 3, 1000.0, math.log(6.4) / 27
    break_mel = break_hz / step_hz
    top = break_mel + math.log(_RATE / 2 / break_hz) / log_step
    mel = torch.linspace(0.0, top, mels + 2, dtype=torch.float64)
    hertz = torch.where(mel < break_mel, mel * step_hz, break_hz * torch.exp(log_step * (mel - break_mel)))
    bins = torch.linspace(0.0, _RATE / 2, _N_FFT // 2 + 1, dtype=torch.float64)
    slopes = hertz[:, None] - bins
    gaps = hertz.diff()[:, None]
    rising, falling = -slopes[:-2] / gaps[:-1], slopes[2:] / gaps[1:]
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    return (filters * (2.0 / (hertz[2:] - hertz[:-2]))[:, None]).float()


@torch.inference_mode()
def _set_blank_bias(
    shape: Shape, parts: ModelParts, weights: dict[str, Tensor], device: torch.device
) -> None:
    """Sets the biases of blank, in place, by what the heads say about babble before the first token."""
    encoded = _encode(shape, parts, device)
    heads = [(f"{name}.decoder_layers.0", encoded) for name in ("ctc_decoder", "decoder")]
    if "rnnt" in shape.decoders:
        joined = torch.relu(
            functional.linear(encoded, weights["joint.enc.weight"], weights["joint.enc.bias"])
        )
        heads.append(("joint.joint_net.2", joined))
    for name, given in heads:
        if f"{name}.weight" not in weights:
            continue
        bias = weights[f"{name}.bias"]
        scores = functional.linear(given, weights[f"{name}.weight"].flatten(1), bias)
        margin = scores[:, :-1].amax(dim=1) - scores[:, -1]
        bias[-1] += margin.quantile(1 - TOKENS_PER_FRAME)


def _encode(shape: Shape, parts: ModelParts, device: torch.device) -> Tensor:
    """Encodes some babble: [frames, d_model]."""
    model = assemble(parts, ModelSettings("random", encoder="torch"), device, 1)
    found: list[Tensor] = []
    # A recorded step has the decoder's rounds in it, and asks for no other step of it.
    model._recorded = None
    inner = model._decoder.step

    def watch(slots: Tensor, encoded: Tensor, frames: Any) -> Any:
        found.append(encoded[0].clone())
        return inner(slots, encoded, frames)

    model._decoder.step = watch  # type: ignore[method-assign]
    audio, info = babble(_BABBLE_S, 1), model.info
    prompt = shape.prompts[0][1] if shape.prompts else -1
    place, size = 0, info.first_chunk_samples
    while place + size <= len(audio):
        step(model, [StepRequest(0, audio[place : place + size], place == 0, False, prompt=prompt)])
        place, size = place + size, info.chunk_samples
    return torch.cat(found)
