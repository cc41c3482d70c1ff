"""Reads a model through NeMo and makes the parts that stream it: features, encoder step, decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from asr_service.core.errors import ModelError, SettingsError
from asr_service.core.model import ModelInfo
from asr_service.core.model_settings import ModelSettings
from asr_service.model import precision
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.decoders.boosting_tree import TreeMaker
from asr_service.model.locate import find_nemo_file
from asr_service.model.look_ahead import choose_att_context
from asr_service.model.slot_budget import DEVICE_SHARE, host_slots, slots_in
from asr_service.observability.log import quiet_third_party
from asr_service.recognition.phrases import alphabet

quiet_third_party()

import torch  # noqa: E402  NeMo and torch read the settings above while they are imported

from asr_service.model.decoders.ctc import CtcDecoder  # noqa: E402
from asr_service.model.decoders.rnnt import RnntDecoder  # noqa: E402
from asr_service.model.devices import choose_device, cpu_has_bf16  # noqa: E402
from asr_service.model.features import FeatureExtractor  # noqa: E402
from asr_service.model.out_of_memory import is_out_of_memory  # noqa: E402
from asr_service.model.reference.nemo_encoder import NemoEncoder  # noqa: E402
from asr_service.model.streaming import Decoder, Encoder, NemoStreamingModel  # noqa: E402
from asr_service.model.torch_encoder.cuda_graphs import CudaRecorder, RecordedEncoder  # noqa: E402
from asr_service.model.torch_encoder.encoder import TorchEncoder  # noqa: E402
from asr_service.model.weights import EncoderWeights, UnsupportedLayer, read_encoder  # noqa: E402

_log = logging.getLogger(__name__)
Made = TypeVar("Made")

WORD_LAG_MS = {"rnnt": (250.0, 148.0), "ctc": (241.0, 158.0)}
"""Lag of words' starts and ends by decoder, ms: medians that `bench.word_times` measured on the demo model;
docs/words.md."""


def make_nemo_model(settings: ModelSettings) -> NemoStreamingModel:
    """Makes a model of the cache-aware FastConformer Hybrid family; see `asr_service.model.make_model`."""
    device = choose_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        nemo = read_nemo(settings.name, device)
        if settings.slots is not None:
            return assemble(nemo, settings, device, settings.slots)
        return make_within_memory(lambda slots: assemble(nemo, settings, device, slots), _slot_budget(device))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise SettingsError(
            f"ASR_MAX_STREAMS: {device} has no memory for the model and {settings.slots or 1} streams "
            f"({_first_line(error)}); set a smaller number, or free memory on the device",
            field="ASR_MAX_STREAMS",
        ) from error


def make_within_memory(make: Callable[[int], Made], slots: int) -> Made:
    """Calls `make` with a number of slots, then with half of it, and so on, until there is memory for what it makes.

    The error that there is no memory even for one slot is raised as it came.

    Args:
        make: makes something with so many slots of state.
        slots: to begin with.
    """
    while True:
        try:
            return make(slots)
        except Exception as error:
            if slots == 1 or not is_out_of_memory(error):
                raise
        # This is outside the handler, since the error's traceback keeps alive what was made so far.
        _log.warning("no memory for %d streams: trying half of them", slots)
        slots //= 2
        torch.cuda.empty_cache()


def _slot_budget(device: torch.device) -> int:
    """Returns how many slots to make for a device that the model is already on."""
    if device.type == "cuda":
        return slots_in(torch.cuda.mem_get_info(device)[0], DEVICE_SHARE)
    return host_slots()


def read_nemo(name: str, device: torch.device) -> Any:
    """Reads a hub's model or a `.nemo` file through NeMo.

    Returns:
        NeMo's model object, in eval mode, in fp32 on the device.

    Raises:
        ModelError: there is no such model. That there is no memory for it is raised as it came.
    """
    path = find_nemo_file(name)
    from nemo.collections.asr.models import ASRModel

    # Once more, since NeMo sets up its own logging while it is imported.
    quiet_third_party()
    try:
        if path is not None:
            _log.info("reading %s", path)
            nemo = ASRModel.restore_from(str(path), map_location=device)
        else:
            _log.info("reading %s from the hub (fetched once, then cached)", name)
            nemo = ASRModel.from_pretrained(name, map_location=device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"ASR_MODEL {name!r} could not be loaded: {_first_line(error)}. Give a hub name that this machine can "
            "reach, the path of a .nemo file, or `demo`",
            field="ASR_MODEL",
        ) from error
    nemo.eval()
    nemo.requires_grad_(False)
    return nemo


def assemble(nemo: Any, settings: ModelSettings, device: torch.device, slots: int) -> NemoStreamingModel:
    """Makes the streaming model around NeMo's model object.

    Args:
        nemo: from `read_nemo`, on the device.
        settings: of which the name, attention context, decoder, precision and encoder are used.
        device: where the model runs.
        slots: streams that can be open at the same time.

    Raises:
        SettingsError: look-ahead, decoder, precision or encoder is not offered.
        ModelError: the model cannot stream.
    """
    _refuse_unstreamable(nemo, settings)
    plan, context = _make_plan(nemo, settings.att_context)
    if reason := precision.why_unsupported(settings.precision, device.type, cpu_has_bf16=cpu_has_bf16()):
        raise SettingsError(f"ASR_PRECISION={settings.precision}: {reason}", field="ASR_PRECISION")
    if device.type == "cuda":
        # Both flags, since torch lets convolutions use TF32 by default: fp32 has to mean fp32.
        tf32 = settings.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    # One more than there are slots: the spare row of `NemoStreamingModel`.
    rows = slots + 1
    featurizer = nemo.preprocessor.featurizer
    features = FeatureExtractor(featurizer, plan, rows, device)
    with torch.inference_mode():
        encoder = _make_encoder(nemo.encoder, plan, features.mels, rows, device, settings)
        decoder = _make_decoder(nemo, rows, device, settings.decoder)
    info = ModelInfo(
        name=settings.name,
        device=str(device),
        precision=settings.precision,
        decoder=settings.decoder,
        sample_rate=int(featurizer.sample_rate),
        att_context=context,
        pieces=_pieces(nemo.tokenizer),
        frame_samples=plan.hop * plan.stride,
        chunk_frames=plan.chunk_frames,
        first_chunk_samples=plan.first_chunk_samples,
        chunk_samples=plan.chunk_samples,
        languages=tuple(nemo.cfg.get("languages", ("en-US",))),
        word_lag_ms=WORD_LAG_MS[settings.decoder],
    )
    trees = _make_tree_maker(nemo.tokenizer, info)
    return NemoStreamingModel(info, plan, features, encoder, decoder, slots, device, trees)


def _refuse_unstreamable(nemo: Any, settings: ModelSettings) -> None:
    """Raises ModelError with the reason if the model cannot stream with the decoder that is set."""
    name, decoder = settings.name, settings.decoder

    def refuse(reason: str) -> ModelError:
        return ModelError(f"ASR_MODEL {name!r} cannot stream: {reason}", field="ASR_MODEL")

    encoder: Any = getattr(nemo, "encoder", None)
    if type(encoder).__name__ not in ("ConformerEncoder", "ConformerEncoderAdapter"):
        raise refuse(f"its encoder is {type(encoder).__name__}, not a cache-aware Conformer")
    if encoder.att_context_style != "chunked_limited" or encoder.att_context_size_all[0][1] < 0:
        raise refuse("its attention is not limited to chunks (att_context_style is not chunked_limited)")
    if list(encoder.conv_context_size)[1] != 0 or not getattr(encoder.pre_encode, "is_causal", False):
        raise refuse("its convolutions look into the future (they are not causal)")
    normalize = nemo.preprocessor.featurizer.normalize
    if normalize not in (None, False, "NA", "None", ""):
        raise refuse(
            f"its features are normalised over the whole recording (normalize: {normalize}), which is not known while "
            "audio is still coming"
        )
    if decoder == "ctc" and not hasattr(nemo, "ctc_decoder"):
        raise ModelError(f"ASR_MODEL {name!r} has no CTC decoder: set ASR_DECODER=rnnt", field="ASR_DECODER")
    if decoder == "rnnt" and not hasattr(nemo, "joint"):
        raise ModelError(f"ASR_MODEL {name!r} has no RNN-T decoder: set ASR_DECODER=ctc", field="ASR_DECODER")


def _make_plan(nemo: Any, wanted: tuple[int, int]) -> tuple[ChunkPlan, tuple[int, int]]:
    """Makes the chunk plan and chooses the attention context, which it also sets in NeMo's encoder."""
    featurizer, encoder = nemo.preprocessor.featurizer, nemo.encoder
    if featurizer.exact_pad or featurizer.frame_splicing != 1 or featurizer.win_length % 2:
        raise ModelError(
            "ASR_MODEL has features with exact padding, splicing or an odd window", field="ASR_MODEL"
        )
    stride = int(encoder.subsampling_factor)
    frame_ms = 1000.0 * featurizer.hop_length * stride / featurizer.sample_rate
    offered = [(int(left), int(right)) for left, right in encoder.att_context_size_all]
    context = choose_att_context(wanted, offered, frame_ms)
    encoder.set_default_att_context_size(list(context))
    chunk = context[1] + 1
    plan = ChunkPlan(
        hop=int(featurizer.hop_length),
        window=int(featurizer.win_length),
        stride=stride,
        chunk_frames=chunk,
        left_frames=max(context[0], 0) // chunk * chunk,
    )
    return plan, context


def _make_encoder(
    encoder: Any, plan: ChunkPlan, mels: int, rows: int, device: torch.device, settings: ModelSettings
) -> Encoder:
    """Makes the encoder step that the settings name, or NeMo's own where the fast one cannot run the model."""
    if settings.encoder not in ("fast", "nemo"):
        raise SettingsError(f"ASR_ENCODER is {settings.encoder!r}: fast or nemo", field="ASR_ENCODER")
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    if settings.encoder == "fast":
        try:
            weights = read_encoder(encoder, plan, mels)
        except UnsupportedLayer as reason:
            _log.warning(
                "the fast encoder step does not know this model (%s): NeMo's own step is used", reason
            )
        else:
            return _make_fast_encoder(weights, plan, mels, rows, device, dtype)
    if dtype != torch.float32:
        raise SettingsError("ASR_PRECISION: NeMo's own encoder step runs in fp32 only", field="ASR_PRECISION")
    return NemoEncoder(encoder, plan, mels, rows, device)


def _make_decoder(nemo: Any, rows: int, device: torch.device, name: str) -> Decoder:
    makers: dict[str, Callable[..., Decoder]] = {"rnnt": RnntDecoder, "ctc": CtcDecoder}
    if name not in makers:
        raise SettingsError(f"ASR_DECODER is {name!r}: rnnt or ctc", field="ASR_DECODER")
    return makers[name](nemo, rows, device)


def _make_fast_encoder(
    weights: EncoderWeights, plan: ChunkPlan, mels: int, rows: int, device: torch.device, dtype: torch.dtype
) -> Encoder:
    """Makes the encoder step for a device.

    It is compiled loops on a CPU, recorded torch operations on a GPU, and plain ones on a CPU where the loops cannot
    run the model.
    """
    if device.type == "cpu" and torch._C._has_mkldnn:
        try:
            # Imported here since the loops are compiled, or read from the cache, at their import and first use.
            from asr_service.model.cpu_encoder.encoder import CpuEncoder

            return CpuEncoder(weights, plan, rows, dtype)
        except UnsupportedLayer as reason:
            _log.info(
                "the compiled encoder step does not know this model (%s): torch operations are used", reason
            )
    plain = TorchEncoder(weights, plan, rows, device, dtype)
    if device.type == "cuda":
        return RecordedEncoder(plain, plan, mels, rows, device, CudaRecorder(device))
    return plain


def _pieces(tokenizer: Any) -> tuple[str, ...]:
    """Returns the vocabulary's pieces by token id, as SentencePiece writes them."""
    return tuple(str(piece) for piece in tokenizer.ids_to_tokens(list(range(tokenizer.vocab_size))))


def _make_tree_maker(tokenizer: Any, info: ModelInfo) -> TreeMaker:
    unknown = info.pieces.index("<unk>") if "<unk>" in info.pieces else None
    return TreeMaker(tokenizer.text_to_ids, alphabet(info.pieces), len(info.pieces), unknown)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
