"""Makes models with random weights of the streaming FastConformer Hybrid family, for parity tests and measurements.

Random weights recognise nothing, but every tensor has the shape that NVIDIA's model has, so a step costs the same. The
configuration follows NeMo's published `fastconformer_hybrid_transducer_ctc_bpe_streaming` recipe.

    python -m testbed.models tiny build/tiny.nemo
    python -m testbed.models large build/large.nemo
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Shape:
    """Sizes of one model.

    Attributes:
        layers, d_model, heads: of the Conformer encoder.
        channels: of the subsampling convolutions.
        hidden: of the prediction network and the joint.
        prediction_layers: LSTM layers of the prediction network.
        pieces: vocabulary size without blank.
        subsampling: mel frames an encoder frame stands for.
        mels: features per mel frame.
        kernel: of the Conformer convolution.
        look_aheads: att_context_size pairs.
        xscaling: whether the encoder's input is scaled by sqrt(d_model).
        activation: of the joint.
        max_symbols: most tokens a frame may emit.
    """

    layers: int
    d_model: int
    heads: int
    channels: int
    hidden: int
    pieces: int
    prediction_layers: int = 1
    subsampling: int = 8
    mels: int = 80
    kernel: int = 9
    look_aheads: tuple[tuple[int, int], ...] = ((70, 13), (70, 6), (70, 1), (70, 0))
    xscaling: bool = True
    activation: str = "relu"
    max_symbols: int = 10


SHAPES: dict[str, Shape] = {
    "tiny": Shape(layers=2, d_model=64, heads=4, channels=32, hidden=48, pieces=64),
    "small": Shape(
        layers=4, d_model=96, heads=4, channels=48, hidden=64, pieces=96, prediction_layers=2, xscaling=False
    ),
    "odd": Shape(
        layers=3, d_model=80, heads=2, channels=24, hidden=56, pieces=50, subsampling=4, mels=64, kernel=5,
        look_aheads=((28, 6), (28, 3), (28, 1), (28, 0)), activation="tanh",
    ),
    # One token a frame at most: speech has 0.3, and random heads know only none or the limit.
    "large": Shape(layers=17, d_model=512, heads=8, channels=256, hidden=640, pieces=1024, max_symbols=1),
}  # fmt: skip


def model_config(shape: Shape, tokenizer_dir: str) -> dict[str, Any]:
    """Makes the NeMo configuration of a model of this shape, with a SentencePiece tokenizer from a folder."""
    return {
        "sample_rate": 16000,
        "log_prediction": False,
        "model_defaults": {
            "enc_hidden": shape.d_model,
            "pred_hidden": shape.hidden,
            "joint_hidden": shape.hidden,
        },
        "tokenizer": {"dir": tokenizer_dir, "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": shape.mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": shape.mels,
            "feat_out": -1,
            "n_layers": shape.layers,
            "d_model": shape.d_model,
            "subsampling": "dw_striding",
            "subsampling_factor": shape.subsampling,
            "subsampling_conv_channels": shape.channels,
            "causal_downsampling": True,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": shape.heads,
            "att_context_size": [list(pair) for pair in shape.look_aheads],
            "att_context_style": "chunked_limited",
            "xscaling": shape.xscaling,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": shape.kernel,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": shape.hidden,
                "pred_rnn_layers": shape.prediction_layers,
                "t_max": None,
                "dropout": 0.2,
            },
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "jointnet": {
                "joint_hidden": shape.hidden,
                "activation": shape.activation,
                "dropout": 0.2,
                "encoder_hidden": shape.d_model,
                "pred_hidden": shape.hidden,
            },
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": shape.max_symbols}},
        "aux_ctc": {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy_batch"},
        },
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0}},
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def write_tokenizer(folder: Path, pieces: int, seed: int) -> None:
    """Trains a SentencePiece BPE model with so many pieces on made-up words; writes what NeMo expects in `folder`."""
    import sentencepiece

    rng = random.Random(seed)
    syllables = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s", "l")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(4000)]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(rng.choices(words, k=8)) for _ in range(4000)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=pieces, model_type="bpe",
        character_coverage=1.0, bos_id=-1, eos_id=-1, unk_id=0, minloglevel=2,
    )  # fmt: skip
    vocab = (folder / "tokenizer.vocab").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(line.split("\t")[0] for line in vocab))


def build_model(shape: Shape, seed: int = 0) -> Any:
    """Builds `EncDecHybridRNNTCTCBPEModel` of this shape with random weights, in eval mode on the CPU.

    The heads are scaled up so that tokens depend on the audio and on each other. Blank biases are then set such that
    about 0.4 tokens a frame come out, since random heads make either none or `max_symbols` on every frame.
    """
    import torch
    from omegaconf import OmegaConf

    from asr_service.observability.log import quiet_third_party

    quiet_third_party()
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), shape.pieces, seed)
        model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(model_config(shape, folder)))
        # `save_to` later packs the tokenizer from these paths, so they must outlive this folder.
        keep = Path(tempfile.mkdtemp(prefix="asr-tokenizer-"))
        for file in Path(folder).iterdir():
            (keep / file.name).write_bytes(file.read_bytes())
    for name, artifact in list(model.artifacts.items()):
        artifact.path = str(keep / Path(artifact.path).name)
        model.artifacts[name] = artifact
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.self_attn.pos_bias_u.normal_(0, 0.1)
            layer.self_attn.pos_bias_v.normal_(0, 0.1)
        model.joint.joint_net[-1].weight.mul_(4.0)
        model.ctc_decoder.decoder_layers[0].weight.mul_(4.0)
    model.eval()
    model.preprocessor.featurizer.dither = 0.0
    _discourage_repeats(model)
    _set_blank_biases(model, seed)
    return model


def babble(seconds: float, seed: int, rate: int = 16_000) -> npt.NDArray[np.float32]:
    """Makes a signal with the rhythm of speech, gliding tones in bursts over faint noise: float32 [n]."""
    rng = np.random.default_rng(seed)
    n = int(seconds * rate)
    t = np.arange(n) / rate
    bursts = np.repeat(rng.uniform(0, 1, n // 1600 + 1) * (rng.random(n // 1600 + 1) < 0.8), 1600)[:n]
    tones = np.zeros(n)
    for base in rng.uniform(90, 3500, 8):
        tones += np.sin(
            2 * np.pi * base * t + 3 * np.sin(2 * np.pi * rng.uniform(1, 4) * t) + rng.uniform(0, 6)
        )
    return (0.03 * tones * bursts + rng.normal(0, 0.002, n)).astype(np.float32)


def _discourage_repeats(model: Any, strength: float = 3.0) -> None:
    """Turns each token's row of the joint against what the prediction network says after that token.

    Otherwise a random prediction network falls into one token for ever.
    """
    import torch

    out = model.joint.joint_net[-1]
    tokens = torch.arange(out.weight.shape[0] - 1)
    with torch.no_grad():
        start, _ = model.decoder.predict(None, state=None, add_sos=False, batch_size=1)
        after, _ = model.decoder.predict(tokens[:, None], state=None, add_sos=False)
        change = model.joint.pred(after[:, 0]) - model.joint.pred(start[:, 0])
        # As loud as the encoder's part will be, so that a token changes what comes next.
        model.joint.pred.weight.mul_(4.0 / change.std())
        change = model.joint.pred(after[:, 0]) - model.joint.pred(start[:, 0])
        push = strength * out.weight.norm(dim=1).mean() * torch.nn.functional.normalize(change, dim=1)
        out.weight[:-1] -= push
        out.weight[-1] += push.mean(dim=0)


def _set_blank_biases(model: Any, seed: int, rate: float = 0.4) -> None:
    """Bisects the blank biases of both heads for `rate` tokens a frame on babble."""
    import torch

    audio = torch.from_numpy(babble(12.0, seed))[None]
    joint, ctc = model.joint.joint_net[-1].bias, model.ctc_decoder.decoder_layers[0].bias
    with torch.inference_mode():
        encoded, _ = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
        # The first frames, with little to attend to, differ from all others; the rest of the stream counts here.
        encoded = encoded[:, :, encoded.shape[2] // 2 :].contiguous()
        length = torch.tensor([encoded.shape[2]])

    # Random encoders answer with nearly the same vector everywhere: centred and stretched, heads see a difference.
    frames = encoded[0].t()
    with torch.no_grad():
        for weight, shift in (
            (model.joint.enc.weight, model.joint.enc.bias),
            (model.ctc_decoder.decoder_layers[0].weight, ctc),
        ):
            flat = weight.view(weight.shape[0], -1)
            flat.mul_(3.0 / (frames @ flat.t()).std(dim=0).mean())
            shift.copy_(-(flat @ frames.mean(dim=0)))

    def rnnt_tokens() -> int:
        found = model.decoding.decoding(
            encoder_output=encoded, encoded_lengths=length, partial_hypotheses=None
        )
        return len(found[0][0].y_sequence)

    def ctc_tokens() -> int:
        best = model.ctc_decoder(encoder_output=encoded)[0].argmax(dim=-1)
        return int(((best[1:] != best[:-1]) & (best[1:] != len(ctc) - 1)).sum())

    for bias, count in ((joint, rnnt_tokens), (ctc, ctc_tokens)):
        low, high = -400.0, 400.0
        for _ in range(18):
            middle = (low + high) / 2
            with torch.no_grad():
                bias[-1] = middle
            with torch.inference_mode():
                few = count() <= rate * int(length[0])
            low, high = (low, middle) if few else (middle, high)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "shape", choices=sorted(SHAPES), help="size of the model; `large` has NVIDIA's shape, 114M"
    )
    parser.add_argument("out", type=Path, help="the .nemo file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    model = build_model(SHAPES[arguments.shape], arguments.seed)
    model.save_to(str(arguments.out))
    print(f"{arguments.out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
