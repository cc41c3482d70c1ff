"""Sizes and kinds of the models that `testbed.models` builds: one of each class and shape that is published.

The small ones stand for a public model in all but its number of layers and its widths; docs/models.md says for which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Pairs = tuple[tuple[int, int], ...]
Prompts = tuple[tuple[str, int], ...]

CLASSES = {
    "hybrid": "EncDecHybridRNNTCTCBPEModel",
    "rnnt": "EncDecRNNTBPEModel",
    "ctc": "EncDecCTCModelBPE",
    "rnnt-prompt": "EncDecRNNTBPEModelWithPrompt",
    "hybrid-prompt": "EncDecHybridRNNTCTCBPEModelWithPrompt",
    "rnnt-characters": "EncDecRNNTModel",
    "ctc-characters": "EncDecCTCModel",
    "multitalker": "EncDecMultiTalkerRNNTBPEModel",
}
"""NeMo's class by the kind of a shape."""

NUM_PROMPTS = 128
"""Width of the one-hot language prompt, in NeMo's default and in the published models."""


@dataclass(frozen=True)
class Shape:
    """Sizes and kinds of the parts of one model.

    Attributes:
        layers, d_model, heads: of the Conformer encoder.
        channels: of the subsampling convolutions.
        hidden: of the prediction network and the joint.
        pieces: vocabulary size without blank, of each tokenizer if there are several.
        kind: which of NeMo's classes, a key of `CLASSES`.
        prediction_layers: LSTM layers of the prediction network.
        subsampling: mel frames an encoder frame stands for.
        mels: features per mel frame.
        normalize: NeMo's name for how features are normalised.
        kernel: of the Conformer convolution.
        conv_norm: its normalisation, "layer_norm" or "batch_norm".
        look_aheads: att_context_size pairs; a single one is written as one flat list, as in the published files.
        att_style: which frames attention sees; "chunked_limited" in every model that streams with caches.
        xscaling: whether the encoder's input is scaled by sqrt(d_model).
        untie_biases: whether each layer has position biases of its own.
        use_bias: whether the encoder's products and convolutions have biases.
        activation: of the joint.
        max_symbols: most tokens a frame may emit.
        tokenizer: "bpe", "unigram", "wordpiece", "aggregate" or "characters".
        byte_fallback: whether the vocabulary has a piece for each byte.
        languages: of which the vocabulary has a tag, such as `<en-US>`; of an aggregate, one for each tokenizer.
        end_tokens: pieces that end the vocabulary and, in the model, an utterance.
        prompts: (language, index) of the language prompts.
        stateless: whether the prediction network is a table of embeddings instead of an LSTM.
        voices: recordings of babble that the random heads are fitted to: with several, as many tokens come from others.
        durations: frames that a token may last, for a token-and-duration transducer (TDT).
    """

    layers: int
    d_model: int
    heads: int
    channels: int
    hidden: int
    pieces: int
    kind: str = "hybrid"
    prediction_layers: int = 1
    subsampling: int = 8
    mels: int = 80
    normalize: str = "NA"
    kernel: int = 9
    conv_norm: str = "layer_norm"
    look_aheads: Pairs = ((70, 13), (70, 6), (70, 1), (70, 0))
    att_style: str = "chunked_limited"
    xscaling: bool = True
    untie_biases: bool = True
    use_bias: bool = True
    activation: str = "relu"
    max_symbols: int = 10
    tokenizer: str = "bpe"
    byte_fallback: bool = False
    languages: tuple[str, ...] = ()
    end_tokens: tuple[str, ...] = ()
    prompts: Prompts = ()
    voices: int = 1
    stateless: bool = False
    durations: tuple[int, ...] = ()

    @property
    def decoders(self) -> tuple[str, ...]:
        """Which decoders the model has, of "rnnt" and "ctc"."""
        if self.kind.startswith("hybrid"):
            return ("rnnt", "ctc")
        return ("ctc",) if self.kind.startswith("ctc") else ("rnnt",)

    @property
    def streams(self) -> bool:
        """Whether a service can stream the model; the others are there to be refused."""
        refused = (
            self.stateless or self.durations or self.kind == "multitalker" or self.tokenizer == "wordpiece"
        )
        return not (refused or self.att_style != "chunked_limited" or self.normalize != "NA")

    @property
    def vocabulary(self) -> int:
        """Number of tokens without blank."""
        return self.pieces * (len(self.languages) if self.tokenizer == "aggregate" else 1)


# Index by language as in the published model, where several names share one; all of its tags that are used here.
PROMPTS: Prompts = (
    ("en", 0), ("en-US", 0), ("en-GB", 1), ("es-ES", 2), ("es", 3), ("es-US", 3), ("zh-CN", 4), ("de", 9),
    ("de-DE", 9), ("ja-JP", 10), ("auto", 101),
)  # fmt: skip
TAGS = ("en-US", "en-GB", "es-ES", "es-US", "zh-CN", "de-DE", "ja-JP")

_SMALL = Shape(layers=2, d_model=64, heads=8, channels=32, hidden=48, pieces=96, voices=12)
_NEMOTRON_EN = replace(_SMALL, kind="rnnt", mels=128, use_bias=False, prediction_layers=2)
_NEMOTRON_35 = replace(
    _NEMOTRON_EN, kind="rnnt-prompt", xscaling=False, look_aheads=((56, 3), (56, 0), (56, 6), (56, 13)),
    tokenizer="unigram", languages=TAGS, prompts=PROMPTS,
)  # fmt: skip

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
    # The class and the options of a public model, in small.
    "nemotron-en": _NEMOTRON_EN,
    "nemotron-3.5": _NEMOTRON_35,
    "parakeet-eou": replace(
        _SMALL, kind="rnnt", mels=128, use_bias=False, xscaling=False, look_aheads=((70, 1),),
        end_tokens=("<EOU>", "<EOB>"),
    ),
    # What recipes and fine-tunes make.
    "rnnt": replace(_SMALL, kind="rnnt"),
    "ctc": replace(_SMALL, kind="ctc", look_aheads=((70, 6),)),
    "hybrid-prompt": replace(_NEMOTRON_35, kind="hybrid-prompt", mels=80, use_bias=True, prediction_layers=1),
    "rnnt-characters": replace(_SMALL, kind="rnnt-characters", tokenizer="characters", pieces=28),
    "ctc-characters": replace(_SMALL, kind="ctc-characters", tokenizer="characters", pieces=28),
    "byte-fallback": replace(_SMALL, byte_fallback=True, pieces=352),
    "aggregate": replace(_SMALL, kind="rnnt", tokenizer="aggregate", languages=("en", "es"), pieces=48),
    "tied": replace(_SMALL, untie_biases=False, use_bias=False),
    "wide": replace(_SMALL, kind="rnnt", layers=1, d_model=1024, channels=64, mels=128, use_bias=False),
    "batch-norm": replace(_SMALL, conv_norm="batch_norm"),
    # What is refused.
    "tdt": replace(_SMALL, kind="rnnt", durations=(0, 1, 2, 3, 4)),
    "stateless": replace(_SMALL, kind="rnnt", stateless=True),
    "multitalker": replace(_NEMOTRON_EN, kind="multitalker"),
    "wordpiece": replace(_SMALL, tokenizer="wordpiece"),
    "buffered": replace(_SMALL, kind="rnnt", att_style="chunked_limited_with_rc"),
    "normalized": replace(_SMALL, normalize="per_feature"),
    # Both published 0.6B models at full size: Nemotron 3.5, and the look-ahead that is common with the English one too.
    "0.6b": replace(
        _NEMOTRON_35, layers=24, d_model=1024, channels=256, hidden=640, pieces=13_087, max_symbols=1,
        look_aheads=((56, 3), (56, 0), (56, 6), (56, 13), (70, 1)),
    ),
}  # fmt: skip
