"""Writes a `.nemo` file of random weights without NeMo: for measurements where NeMo is not installed, and in seconds.

Every tensor has the name and the shape that NeMo's class saves, so that NeMo reads the file too. The weights are drawn
as torch initialises such layers; the blank's bias is set such that about `testbed.heads.TOKENS_PER_FRAME` tokens a
frame come out of babble. Features are computed as in NeMo: Slaney's mel filters (Auditory Toolbox, 1998), a Hann
window.

    python -m testbed.random_file large build/large.nemo
"""

from __future__ import annotations

import io
import math
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from asr_service.core.model import StepRequest
from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.reading import read_model
from testbed.babble import babble
from testbed.command_line import write_as_asked
from testbed.configs import model_config
from testbed.heads import TOKENS_PER_FRAME
from testbed.shapes import CLASSES, NUM_PROMPTS, Shape
from testbed.tokenizers import write_tokenizers

_CONFIG, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_RATE, _N_FFT, _WINDOW = 16_000, 512, 400
_BABBLE_S = 6.0


def write_random_file(shape: Shape, path: Path, seed: int = 0) -> None:
    """Writes a model of this shape, whose tokenizer is a single SentencePiece model.

    Args:
        shape: of the model.
        path: of the `.nemo` file.
        seed: of the weights.
    """
    if shape.tokenizer not in ("bpe", "unigram"):
        raise ValueError(f"the tokenizer is {shape.tokenizer}: bpe or unigram")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizers(shape, Path(folder), seed)
        files = {
            name: (Path(folder) / name).read_bytes()
            for name in ("tokenizer.model", "tokenizer.vocab", "vocab.txt")
        }
    tokenizer |= {
        "model_path": "nemo:tokenizer.model",
        "vocab_path": "nemo:vocab.txt",
        "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
    }
    config = model_config(shape, tokenizer)
    kind = CLASSES[shape.kind]
    # NeMo imports the class by this path.
    config["target"] = f"nemo.collections.asr.models.{kind}"
    weights = _Weights(seed).of(shape)
    _write(path, config, weights, files)
    _set_blank_bias(shape, path, weights)
    _write(path, config, weights, files)


class _Weights:
    """Draws weights by name."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
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
        return made

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
                shape.heads, width // shape.heads, generator=self._generator
            )

    def _transducer(self, shape: Shape, tokens: int) -> None:
        hidden = shape.hidden
        embedding = torch.randn(tokens, hidden, generator=self._generator)
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
        return torch.empty(shape).uniform_(-bound, bound, generator=self._generator)


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


def _write(path: Path, config: dict[str, Any], weights: dict[str, Tensor], files: dict[str, bytes]) -> None:
    saved = io.BytesIO()
    torch.save(weights, saved)
    members = {
        _CONFIG: yaml.safe_dump(config, allow_unicode=True).encode(),
        _WEIGHTS: saved.getvalue(),
        **files,
    }
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@torch.inference_mode()
def _set_blank_bias(shape: Shape, path: Path, weights: dict[str, Tensor]) -> None:
    """Sets the biases of blank, in place, by what the heads say about babble before the first token."""
    encoded = _encode(shape, path)
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


def _encode(shape: Shape, path: Path) -> Tensor:
    """Encodes some babble: [frames, d_model]."""
    cpu = torch.device("cpu")
    model = assemble(read_model(str(path), cpu), ModelSettings(str(path)), cpu, 1)
    found: list[Tensor] = []
    inner = model._decoder.step

    def watch(slots: Tensor, encoded: Tensor, frames: Any) -> Any:
        found.append(encoded[0].clone())
        return inner(slots, encoded, frames)

    model._decoder.step = watch  # type: ignore[method-assign]
    audio, info = babble(_BABBLE_S, 1), model.info
    prompt = shape.prompts[0][1] if shape.prompts else -1
    place, size = 0, info.first_chunk_samples
    while place + size <= len(audio):
        model.step([StepRequest(0, audio[place : place + size], place == 0, False, prompt=prompt)])
        place, size = place + size, info.chunk_samples
    return torch.cat(found)


if __name__ == "__main__":
    write_as_asked(__doc__, write_random_file)
