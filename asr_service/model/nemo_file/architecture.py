"""Says what a model file describes, as far as its configuration tells, and refuses models that cannot stream exactly.

The names and the defaults are those of NeMo 3.0 (nemo/collections/asr/modules: `ConformerEncoder`,
`RNNTDecoder`, `RNNTJoint`, `ConvASRDecoder`).
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_service.model.nemo_file.config import Section, nemo_class, shown
from asr_service.model.nemo_file.feature_shape import FeatureShape, read_features

# Classes whose forward pass is known here. Any other may do something else with the same weights.
_CLASSES = frozenset(
    {
        "EncDecRNNTModel",
        "EncDecRNNTBPEModel",
        "EncDecRNNTBPEModelWithPrompt",
        "EncDecCTCModel",
        "EncDecCTCModelBPE",
        "EncDecHybridRNNTCTCModel",
        "EncDecHybridRNNTCTCBPEModel",
        "EncDecHybridRNNTCTCBPEModelWithPrompt",
    }
)
_WHY_NOT = {
    "EncDecMultiTalkerRNNTBPEModel": (
        "it adds what a speaker diarization model hears to a layer of the encoder, and that model is not here"
    ),
}
# Longest context of attention that is believed: eleven hours of 80 ms.
_MOST_FRAMES = 500_000
# Normalisations of the convolution that each frame takes by itself. Others take all frames that there are.
_NORMS = ("layer_norm", "batch_norm", "fused_batch_norm")
# NeMo's own, where a file does not say it.
_DEFAULT_SYMBOLS = 10
# Of a frame. A model that never says that a frame has no more would otherwise hold up everybody's step.
_MOST_SYMBOLS = 100
# Of a chunk, of any stream: what an answer can count.
_MOST_TOKENS = 2**16 - 1


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes and kinds of an encoder's parts.

    Attributes:
        layers, d_model, heads, d_ff, kernel: of the Conformer layers.
        bias: whether products and convolutions of the layers have biases.
        xscaling: whether the encoder's input is scaled by sqrt(d_model).
        subsampling: kind of the subsampling, "dw_striding" or another.
        stride: mel frames that an encoder frame stands for.
        channels: of the subsampling.
        att_contexts: (left, right) in encoder frames that the model offers, in its order.
        conv_norm: kind of normalisation inside the convolution.
        attention: kind of attention, "rel_pos" or another.
    """

    layers: int
    d_model: int
    heads: int
    d_ff: int
    kernel: int
    bias: bool
    xscaling: bool
    subsampling: str
    stride: int
    channels: int
    att_contexts: tuple[tuple[int, int], ...]
    conv_norm: str
    attention: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a model file describes.

    Attributes:
        class_name: NeMo's class of the model.
        features, encoder: their shapes.
        has_joint: whether the configuration has an RNN-T joint.
        max_symbols: most tokens that a frame may emit by RNN-T.
    """

    class_name: str
    features: FeatureShape
    encoder: EncoderShape
    has_joint: bool
    max_symbols: int

    @property
    def frame_ms(self) -> float:
        """Duration of an encoder frame in ms."""
        return 1000.0 * self.features.hop * self.encoder.stride / self.features.sample_rate


def read_architecture(config: Section) -> Architecture:
    """Reads what a model's configuration describes.

    Raises:
        ModelError: the model cannot stream, or cannot be run exactly; the message says why.
    """
    class_name = nemo_class(config, "target")
    if class_name not in _CLASSES:
        reason = (
            f"its class {class_name} is not one whose words are known here: {', '.join(sorted(_CLASSES))}"
        )
        raise config.refused(_WHY_NOT.get(class_name, reason))
    if adapters := [name for name in config.section("adapters") if name != "__global_adapter_cfg__"]:
        raise config.refused(f"it has adapters ({shown(adapters)}), which are not known here")
    _refuse_joint(config)
    _refuse_ctc_head(config)
    encoder, most = _encoder(config), _max_symbols(config)
    if max(right + 1 for _, right in encoder.att_contexts) * most > _MOST_TOKENS:
        raise config.refused(
            f"a chunk may have more tokens than {_MOST_TOKENS} (att_context_size: {shown(encoder.att_contexts)}, "
            f"max_symbols: {most})"
        )
    return Architecture(
        class_name=class_name,
        features=read_features(config),
        encoder=encoder,
        has_joint="joint" in config,
        max_symbols=most,
    )


def _encoder(config: Section) -> EncoderShape:
    section = config.section("encoder")
    kind = nemo_class(section, "_target_")
    if kind not in ("ConformerEncoder", "ConformerEncoderAdapter"):
        raise config.refused(f"its encoder is {kind}, not NeMo's ConformerEncoder")
    style = section.text("att_context_style", "regular")
    if style == "chunked_limited_with_rc":
        raise config.refused(
            "its attention looks at the right context of every chunk again (att_context_style: "
            "chunked_limited_with_rc), which is buffered and not cache-aware streaming"
        )
    contexts = _att_contexts(section)
    if style != "chunked_limited" or any(left < 0 or right < 0 for left, right in contexts):
        raise config.refused(
            f"its attention is not limited to chunks (att_context_style: {style}, att_context_size: {shown(contexts)})"
        )
    if any(left % (right + 1) for left, right in contexts):
        raise config.refused(
            f"its attention does not see whole chunks (att_context_size: {shown(contexts)}): left should be a multiple "
            "of right + 1"
        )
    if any(left <= right for left, right in contexts):
        raise config.refused(
            f"its attention does not see the chunk before (att_context_size: {shown(contexts)}): left should be "
            "right + 1 or more"
        )
    d_model, kernel = section.integer("d_model"), section.integer("conv_kernel_size", 31)
    heads, stride = section.integer("n_heads", 4), section.integer("subsampling_factor", 4)
    if d_model % heads or d_model % 2:
        raise section.wrong("d_model", f"an even multiple of the {heads} heads")
    # Each layer of the subsampling halves the frames.
    if stride < 2 or stride & (stride - 1):
        raise section.wrong("subsampling_factor", "a power of two, 2 or more")
    conv_context = section.get("conv_context_size")
    causal = conv_context in ("causal", [kernel - 1, 0]) and section.flag("causal_downsampling", False)
    if not causal or section.text("conv_context_style", "regular") != "regular":
        raise config.refused("its convolutions look into the future (they are not causal)")
    _refuse_parts(config, section)
    channels = section.get("subsampling_conv_channels")
    return EncoderShape(
        layers=section.integer("n_layers"),
        d_model=d_model,
        heads=heads,
        d_ff=d_model * section.integer("ff_expansion_factor", 4),
        kernel=kernel,
        bias=section.flag("use_bias", True),
        xscaling=section.flag("xscaling", True),
        subsampling=section.text("subsampling", "striding"),
        stride=stride,
        channels=d_model if channels in (None, -1) else section.integer("subsampling_conv_channels"),
        att_contexts=contexts,
        conv_norm=section.text("conv_norm_type", "batch_norm"),
        attention=section.text("self_attention_model", "rel_pos"),
    )


def _refuse_parts(config: Section, section: Section) -> None:
    """Raises ModelError for parts of an encoder with which no step by chunks is exact."""
    norm = section.text("conv_norm_type", "batch_norm")
    if norm not in _NORMS:
        raise config.refused(
            f"its convolutions are normalised over all of the audio (conv_norm_type: {norm}), which a stream does not "
            "know"
        )
    if section.integer("conv_kernel_size", 31) < 2:
        raise config.refused(
            "its convolutions see a frame alone (conv_kernel_size: 1), which is not known here"
        )
    if section.get("reduction") is not None and section.integer("reduction_factor", 1) > 1:
        raise config.refused(
            f"a layer of its encoder reduces the frames (reduction: {shown(section.get('reduction'))}), which is not "
            "known here"
        )
    if section.integer("feat_out", -1, least=-1) not in (-1, 0, section.integer("d_model")):
        raise config.refused("its encoder ends with a projection (feat_out), which is not known here")


def _att_contexts(section: Section) -> tuple[tuple[int, int], ...]:
    """Reads the attention contexts, written as one pair or as a list of them."""
    value = section.get("att_context_size")
    pairs = [value] if value and isinstance(value, list) and isinstance(value[0], int) else value
    if not pairs or not isinstance(pairs, list):
        return ((-1, -1),)
    if not all(isinstance(p, list) and len(p) == 2 and all(map(_is_frames, p)) for p in pairs):
        raise section.wrong(
            "att_context_size",
            f"a pair of whole numbers or a list of pairs, each number at most {_MOST_FRAMES}",
        )
    return tuple((left, right) for left, right in pairs)


def _is_frames(value: object) -> bool:
    return type(value) is int and -1 <= value <= _MOST_FRAMES


def _refuse_joint(config: Section) -> None:
    """Raises ModelError for an RNN-T decoder that is not the plain one."""
    if "joint" not in config:
        return
    joint, decoder = config.section("joint"), config.section("decoder")
    decoding = config.section("decoding")
    extra = joint.integer("num_extra_outputs", 0, least=0)
    if extra or decoding.get("durations") or config.section("loss").get("loss_name") == "tdt":
        raise config.refused("it predicts durations of tokens (TDT), which is not known here")
    if (kind := nemo_class(joint, "_target_")) != "RNNTJoint":
        raise config.refused(f"its joint is {kind}, not NeMo's RNNTJoint")
    if (kind := nemo_class(decoder, "_target_")) != "RNNTDecoder":
        raise config.refused(f"its prediction network is {kind}, not the LSTM of NeMo's RNNTDecoder")
    if decoder.get("normalization_mode") is not None:
        raise config.refused("its prediction network is normalised (normalization_mode)")


def _refuse_ctc_head(config: Section) -> None:
    """Raises ModelError for a CTC head that is not the plain one; a model with a joint need not have any."""
    has_joint = "joint" in config
    holder = config.section("aux_ctc") if has_joint else config
    if has_joint and "decoder" not in holder:
        return
    if (kind := nemo_class(holder.section("decoder"), "_target_")) != "ConvASRDecoder":
        raise config.refused(f"its CTC head is {kind}, not NeMo's ConvASRDecoder")


def _max_symbols(config: Section) -> int:
    """Returns how many tokens a frame may emit, by the model's own decoding configuration."""
    greedy = config.section("decoding").section("greedy")
    for name in ("max_symbols", "max_symbols_per_step"):
        if value := greedy.integer(name, 0, least=0):
            if value > _MOST_SYMBOLS:
                raise greedy.wrong(name, f"a whole number, {_MOST_SYMBOLS} at most")
            return value
    return _DEFAULT_SYMBOLS
