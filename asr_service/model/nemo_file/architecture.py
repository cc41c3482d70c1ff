"""Says what a model file describes, as far as its configuration tells, and refuses models that cannot stream exactly.

The names and the defaults are those of NeMo 3.0 (nemo/collections/asr/modules: `ConformerEncoder`,
`AudioToMelSpectrogramPreprocessor`, `RNNTDecoder`, `RNNTJoint`).
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_service.core.errors import ModelError
from asr_service.model.nemo_file.config import Section

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
_UNNORMALIZED = (None, False, "", "NA", "None")


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """The constants of a model's mel features.

    Attributes:
        sample_rate: Hz.
        window, hop, n_fft: samples.
        mels: features of a frame.
        preemphasis: factor of the sample before.
        log: whether the logarithm is taken.
        guard_added: whether `guard` is added before the logarithm; else it is the least value.
        guard: keeps the logarithm finite.
        power: of the magnitudes, 2 for a power spectrum.
        has_window: whether the window is another than the rectangle.
    """

    sample_rate: int
    window: int
    hop: int
    n_fft: int
    mels: int
    preemphasis: float
    log: bool
    guard_added: bool
    guard: float
    power: float
    has_window: bool


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
        feat_out: width of a projection after the layers, 0 without one.
        reduces: whether a layer reduces the number of frames.
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
    feat_out: int
    reduces: bool


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


def read_architecture(config: Section) -> Architecture:
    """Reads what a model's configuration describes.

    Raises:
        ModelError: the model cannot stream, or cannot be run exactly; the message says why.
    """
    class_name = config.text("target", "").rpartition(".")[2]
    if class_name not in _CLASSES:
        raise refused(
            config,
            _WHY_NOT.get(
                class_name,
                f"its class {class_name or '(target is missing)'} is not one whose words are known here",
            ),
        )
    if adapters := [name for name in config.section("adapters") if name != "__global_adapter_cfg__"]:
        raise refused(config, f"it has adapters ({', '.join(adapters)}), which are not known here")
    _refuse_joint(config)
    return Architecture(
        class_name=class_name,
        features=_features(config),
        encoder=_encoder(config),
        has_joint="joint" in config,
        max_symbols=_max_symbols(config),
    )


def refused(config: Section, reason: str) -> ModelError:
    """Makes the error that says why a model is not served."""
    return ModelError(
        f"ASR_MODEL: {config.path.partition(': ')[0]} cannot be served: {reason}", field="ASR_MODEL"
    )


def _features(config: Section) -> FeatureShape:
    section = config.section("preprocessor")
    kind = _class_of(section)
    if kind != "AudioToMelSpectrogramPreprocessor":
        raise refused(config, f"its features are made by {kind}, not by AudioToMelSpectrogramPreprocessor")
    normalize = section.get("normalize") if section.given("normalize") else "per_feature"
    if normalize not in _UNNORMALIZED:
        raise refused(
            config,
            f"its features are normalised over the whole recording (normalize: {normalize}), which is not known while "
            "audio is still coming",
        )
    sample_rate = section.integer("sample_rate", 16_000)
    window = _samples(section, "n_window_size", "window_size", 0.02, sample_rate)
    hop = _samples(section, "n_window_stride", "window_stride", 0.01, sample_rate)
    if section.flag("exact_pad", False) or section.integer("frame_splicing", 1) != 1 or window % 2:
        raise refused(config, "its features have exact padding, splicing or an odd window")
    guard = section.get("log_zero_guard_value")
    if isinstance(guard, str):
        # Of float32, as torch.finfo has them.
        if guard not in _GUARDS:
            raise refused(config, f"log_zero_guard_value is {guard!r}")
        guard = _GUARDS[guard]
    else:
        guard = section.number("log_zero_guard_value", 2.0**-24)
    # An explicit null turns the pre-emphasis off.
    preemphasis = section.number("preemph", 0.0 if section.given("preemph") else 0.97)
    return FeatureShape(
        sample_rate=sample_rate,
        window=window,
        hop=hop,
        n_fft=section.integer("n_fft", 1 << (window - 1).bit_length()),
        mels=section.integer("features", 64),
        preemphasis=preemphasis,
        log=section.flag("log", True),
        guard_added=section.text("log_zero_guard_type", "add") == "add",
        guard=guard,
        power=section.number("mag_power", 2.0),
        has_window=section.text("window", "hann") in ("hann", "hamming", "blackman", "bartlett"),
    )


_GUARDS = {"tiny": 2.0**-126, "eps": 2.0**-23}


def _samples(section: Section, in_samples: str, in_seconds: str, default_s: float, rate: int) -> int:
    """Reads a duration that is given in samples or in seconds."""
    if in_samples in section:
        return section.integer(in_samples)
    return int(section.number(in_seconds, default_s) * rate)


def _encoder(config: Section) -> EncoderShape:
    section = config.section("encoder")
    kind = _class_of(section)
    if kind not in ("ConformerEncoder", "ConformerEncoderAdapter"):
        raise refused(config, f"its encoder is {kind or 'missing'}, not a cache-aware Conformer")
    style = section.text("att_context_style", "regular")
    if style == "chunked_limited_with_rc":
        raise refused(
            config,
            "its attention looks at the right context of every chunk again (att_context_style: "
            "chunked_limited_with_rc), which is buffered and not cache-aware streaming",
        )
    contexts = _att_contexts(section)
    if style != "chunked_limited" or contexts[0][1] < 0:
        raise refused(
            config,
            f"its attention is not limited to chunks (att_context_style: {style}, att_context_size: {contexts})",
        )
    d_model, kernel = section.integer("d_model"), section.integer("conv_kernel_size", 31)
    conv_context = section.get("conv_context_size")
    causal = conv_context in ("causal", [kernel - 1, 0]) and section.flag("causal_downsampling", False)
    if not causal or section.text("conv_context_style", "regular") != "regular":
        raise refused(config, "its convolutions look into the future (they are not causal)")
    channels = section.get("subsampling_conv_channels")
    feat_out = section.integer("feat_out", -1, least=-1)
    return EncoderShape(
        layers=section.integer("n_layers"),
        d_model=d_model,
        heads=section.integer("n_heads", 4),
        d_ff=d_model * section.integer("ff_expansion_factor", 4),
        kernel=kernel,
        bias=section.flag("use_bias", True),
        xscaling=section.flag("xscaling", True),
        subsampling=section.text("subsampling", "striding"),
        stride=section.integer("subsampling_factor", 4),
        channels=d_model if channels in (None, -1) else section.integer("subsampling_conv_channels"),
        att_contexts=contexts,
        conv_norm=section.text("conv_norm_type", "batch_norm"),
        attention=section.text("self_attention_model", "rel_pos"),
        feat_out=feat_out if feat_out not in (-1, 0, d_model) else 0,
        reduces="reduction" in section and section.integer("reduction_factor", 1) > 1,
    )


def _att_contexts(section: Section) -> tuple[tuple[int, int], ...]:
    """Reads the attention contexts, written as one pair or as a list of them."""
    value = section.get("att_context_size")
    pairs = [value] if value and isinstance(value, list) and isinstance(value[0], int) else value
    if not pairs or not isinstance(pairs, list):
        return ((-1, -1),)
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, int) for n in p) for p in pairs):
        raise ModelError(
            f"{section.path}.att_context_size is {value!r}; it should be a pair of whole numbers or a list of pairs",
            field="ASR_MODEL",
        )
    return tuple((left, right) for left, right in pairs)


def _refuse_joint(config: Section) -> None:
    """Raises ModelError for an RNN-T decoder that is not the plain one."""
    if "joint" not in config:
        return
    joint, decoder = config.section("joint"), config.section("decoder")
    decoding = config.section("decoding")
    extra = joint.integer("num_extra_outputs", 0, least=0)
    if extra or decoding.get("durations") or config.section("loss").get("loss_name") == "tdt":
        raise refused(config, "it predicts durations of tokens (TDT), which is not known here")
    if (kind := _class_of(joint)) != "RNNTJoint":
        raise refused(config, f"its joint is {kind}, not RNNTJoint")
    if (kind := _class_of(decoder)) != "RNNTDecoder":
        raise refused(config, f"its prediction network is {kind}, not the LSTM of RNNTDecoder")
    if decoder.get("normalization_mode") is not None:
        raise refused(config, "its prediction network is normalised (normalization_mode)")


def _max_symbols(config: Section) -> int:
    """Returns how many tokens a frame may emit, by the model's own decoding configuration (NeMo's default is 10)."""
    greedy = config.section("decoding").section("greedy")
    value = greedy.get("max_symbols") or greedy.get("max_symbols_per_step")
    return int(value) if value else 10


def _class_of(section: Section) -> str:
    """Returns the name of the class that a section says to make."""
    return section.text("_target_", "").rpartition(".")[2]
