"""Makes the parts that stream a model of what its file holds: features, encoder step, prompts, decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from asr_service.core.errors import ModelError, SettingsError, first_line
from asr_service.core.model import ModelInfo
from asr_service.core.model_settings import ModelSettings
from asr_service.model import precision
from asr_service.model.batch import SPARE_ROWS
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.decoders.boosting_tree import TreeMaker
from asr_service.model.decoders.ctc import CtcDecoder
from asr_service.model.decoders.heads import ctc_head_name, read_ctc, read_rnnt
from asr_service.model.decoders.rnnt import RnntDecoder
from asr_service.model.devices import choose_device, cpu_has_bf16
from asr_service.model.features import FeatureExtractor
from asr_service.model.languages import offered_languages, offered_prompts, tagged_languages
from asr_service.model.look_ahead import choose_att_context
from asr_service.model.nemo_file.architecture import Architecture
from asr_service.model.nemo_file.names import WEIGHTS
from asr_service.model.nemo_file.tokenizer import UNKNOWN
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.prompts import PromptProjection
from asr_service.model.reading import ModelParts, read_model
from asr_service.model.refusals import cannot_be_served
from asr_service.model.slot_budget import DEVICE_SHARE, MOST_DEVICE_SLOTS, host_slots, slots_in
from asr_service.model.step_parts import Decoder, Encoder
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.threads import step_threads
from asr_service.model.torch_encoder.cuda_graphs import CudaRecorder
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.torch_encoder.kernel_check import why_without_kernels
from asr_service.model.weights import EncoderWeights, UnsupportedLayer, read_encoder
from asr_service.recognition.phrases import alphabet

_log = logging.getLogger(__name__)
Made = TypeVar("Made")

# Bound on what a slot takes beside the encoder's layers: the subsampling, the decoder, the bonuses of phrases.
_OTHER_STATE_BYTES = 2**19
_ROOM_FRAMES = 16
WORD_LAG_MS = {"rnnt": (250.0, 148.0), "ctc": (241.0, 158.0)}
"""Lag of words' starts and ends by decoder, ms: medians that `bench.word_times` measured on an earlier demo model;
docs/words.md."""


def make_nemo_model(settings: ModelSettings) -> NemoStreamingModel:
    """Makes a model of the cache-aware FastConformer family; see `asr_service.model.make_model`."""
    device = choose_device(settings.device)
    torch.set_num_threads(step_threads(settings.threads))
    try:
        parts = read_model(settings.name, device)
        if settings.slots is not None:
            return assemble(parts, settings, device, settings.slots)
        budget = _slot_budget(device, _slot_bytes(parts, settings), settings.sharers)
        return make_within_memory(lambda slots: assemble(parts, settings, device, slots), budget)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise SettingsError(
            f"ASR_MAX_STREAMS: {device} has no memory for the model and {settings.slots or 1} streams "
            f"({first_line(error)}); set a smaller number, or free memory on the device",
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


def _slot_budget(device: torch.device, slot_bytes: int, sharers: int) -> int:
    """Returns how many slots of so many bytes to make for a device that the model is already on.

    Args:
        device: where the slots will be.
        slot_bytes: bytes of a slot.
        sharers: engines that share the device's memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return slots_in(free, DEVICE_SHARE, slot_bytes, MOST_DEVICE_SLOTS, sharers)
    return host_slots(slot_bytes, sharers)


def _slot_bytes(parts: ModelParts, settings: ModelSettings) -> int:
    """Returns about how many bytes of state a slot will take: nearly all of it are keys, values and contexts."""
    shape = parts.architecture.encoder
    plan, _ = _make_plan(parts.architecture, settings.att_context)
    # The step of CPUs has a place more for the new chunk, and room up to whole vectors.
    frames = plan.left_frames + 2 * plan.chunk_frames + _ROOM_FRAMES
    numbers = shape.layers * shape.d_model * (2 * frames + shape.kernel - 1)
    return numbers * (2 if settings.precision == "bf16" else 4) + _OTHER_STATE_BYTES


def assemble(
    parts: ModelParts, settings: ModelSettings, device: torch.device, slots: int
) -> NemoStreamingModel:
    """Makes the streaming model of what its file holds.

    Args:
        parts: from `read_model`, with the weights on the device.
        settings: of which the attention context, decoder, precision, encoder and languages are used.
        device: where the model runs.
        slots: streams that can be open at the same time.

    Raises:
        SettingsError: look-ahead, decoder, precision, encoder or a language is not offered.
        ModelError: the model cannot be run exactly.
    """
    plan, context = _make_plan(parts.architecture, settings.att_context)
    if reason := precision.why_unsupported(settings.precision, device.type, cpu_has_bf16=cpu_has_bf16()):
        raise SettingsError(f"ASR_PRECISION={settings.precision}: {reason}", field="ASR_PRECISION")
    if device.type == "cuda":
        # For this thread, from now on: what is made without a device's name belongs to this one.
        torch.cuda.set_device(device)
        # Both flags, since torch lets convolutions use TF32 by default: fp32 has to mean fp32. Where TF32 is wanted,
        # the encoder alone turns it on.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = slots + SPARE_ROWS
    shape = parts.architecture.features
    tagged = tagged_languages(parts.tokenizer.pieces)
    offered = offered_prompts(parts.dictionary, tagged, settings.languages) if parts.prompts else ()
    with torch.inference_mode():
        features = FeatureExtractor(shape, parts.weights, plan, rows, device)
        decoder_name, decoder = _make_decoder(parts, rows, device, settings.decoder)
        encoder = _make_encoder(parts, plan, context, rows, device, settings)
        prompts = PromptProjection(parts.prompts, device) if parts.prompts else None
    _refuse_unknown_weights(parts)
    info = ModelInfo(
        name=settings.name,
        device=str(device),
        precision=settings.precision,
        decoder=decoder_name,
        sample_rate=shape.sample_rate,
        att_context=context,
        pieces=parts.tokenizer.pieces,
        frame_samples=plan.hop * plan.stride,
        chunk_frames=plan.chunk_frames,
        first_chunk_samples=plan.first_chunk_samples,
        chunk_samples=plan.chunk_samples,
        languages=offered_languages(
            settings.name,
            wanted=settings.languages,
            tagged=tagged,
            prompts=offered,
            parts=parts.tokenizer.languages,
        ),
        prompts=offered,
        word_lag_ms=WORD_LAG_MS[decoder_name],
    )
    trees = TreeMaker(parts.tokenizer.encode, alphabet(info.pieces), len(info.pieces), UNKNOWN)
    is_recorded = device.type == "cuda" and isinstance(encoder, TorchEncoder)
    recorder = CudaRecorder(device) if is_recorded else None
    return NemoStreamingModel(info, plan, features, encoder, decoder, slots, device, trees, prompts, recorder)


def _make_plan(
    architecture: Architecture, wanted: tuple[int, int] | None
) -> tuple[ChunkPlan, tuple[int, int]]:
    """Makes the chunk plan and chooses the attention context."""
    features, encoder = architecture.features, architecture.encoder
    context = choose_att_context(wanted, encoder.att_contexts, architecture.frame_ms)
    chunk = context[1] + 1
    plan = ChunkPlan(
        hop=features.hop,
        window=features.window,
        stride=encoder.stride,
        chunk_frames=chunk,
        left_frames=max(context[0], 0) // chunk * chunk,
    )
    return plan, context


def _make_decoder(
    parts: ModelParts, rows: int, device: torch.device, wanted: str | None
) -> tuple[str, Decoder]:
    """Makes the decoder that is wanted, or the one that the model has; returns its name too."""
    weights, d_model = parts.weights, parts.architecture.encoder.d_model
    vocabulary = len(parts.tokenizer.pieces)
    has_rnnt, head = parts.architecture.has_joint, ctc_head_name(weights)
    name = wanted or ("rnnt" if has_rnnt else "ctc")
    if name not in ("rnnt", "ctc"):
        raise SettingsError(f"ASR_DECODER is {name!r}: rnnt or ctc", field="ASR_DECODER")
    if name == "rnnt" and not has_rnnt:
        raise ModelError(
            f"ASR_MODEL {parts.name!r} has no RNN-T decoder: leave ASR_DECODER unset, or set it to ctc",
            field="ASR_DECODER",
        )
    if name == "ctc" and head is None:
        has = "set it to rnnt" if has_rnnt else "choose another model"
        raise ModelError(
            f"ASR_MODEL {parts.name!r} has no CTC head: leave ASR_DECODER unset, or {has}",
            field="ASR_DECODER",
        )
    if name == "rnnt":
        rnnt = read_rnnt(weights, d_model, vocabulary, parts.activation)
        weights.ignore("ctc_decoder.")
        return name, RnntDecoder(rnnt, parts.architecture.max_symbols, rows, device)
    assert head is not None
    ctc = CtcDecoder(read_ctc(weights, head, d_model, vocabulary), rows, device)
    if has_rnnt:
        weights.ignore("decoder.", "joint.")
    return name, ctc


def _make_encoder(
    parts: ModelParts,
    plan: ChunkPlan,
    context: tuple[int, int],
    rows: int,
    device: torch.device,
    settings: ModelSettings,
) -> Encoder:
    """Makes the encoder step that the settings name, or NeMo's own where the fast one cannot run the model."""
    if settings.encoder not in ("fast", "torch", "fused", "nemo"):
        raise SettingsError(f"ASR_ENCODER is {settings.encoder!r}: fast, torch or nemo", field="ASR_ENCODER")
    mels = parts.architecture.features.mels
    why = "ASR_ENCODER=nemo"
    if settings.encoder != "nemo":
        try:
            weights = read_encoder(parts.weights, parts.architecture.encoder, plan, mels)
        except UnsupportedLayer as reason:
            why = f"the fast encoder step does not know this model ({reason})"
            _log.warning("%s: NeMo's own step is used", why)
        else:
            return _make_fast_encoder(weights, plan, mels, rows, device, settings)
    if context[1] == 0:
        raise _refused_look_ahead(parts, why)
    if _products_type(settings) != torch.float32:
        raise SettingsError("ASR_PRECISION: NeMo's own encoder step runs in fp32 only", field="ASR_PRECISION")
    # Imported here since it is the only part that needs NeMo, which takes seconds to import.
    from asr_service.model.reference.nemo_encoder import NemoEncoder
    from asr_service.model.reference.nemo_model import read_nemo

    nemo = read_nemo(parts.path, device, why).encoder
    nemo.set_default_att_context_size(list(context))
    parts.weights.ignore("encoder.")
    return NemoEncoder(nemo, plan, mels, rows, device)


def _refused_look_ahead(parts: ModelParts, why: str) -> SettingsError:
    """Returns the error that NeMo's step is not what NeMo's offline encoder is, at look-ahead 0."""
    others = [f"{left},{right}" for left, right in parts.architecture.encoder.att_contexts if right]
    advice = f"set ASR_ATT_CTX to {' or '.join(others)}" if others else "it offers no other look-ahead"
    return SettingsError(
        f"ASR_ATT_CTX: {why}, and NeMo's own step is not exact without look-ahead: {advice}",
        field="ASR_ATT_CTX",
    )


def _products_type(settings: ModelSettings) -> torch.dtype:
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


def _make_fast_encoder(
    weights: EncoderWeights,
    plan: ChunkPlan,
    mels: int,
    rows: int,
    device: torch.device,
    settings: ModelSettings,
) -> Encoder:
    """Makes the encoder step for a device.

    It is compiled loops on a CPU. On a GPU it is products with Triton kernels between them, where these work ("fused"
    asks for them anyhow), and torch operations where not, as on a CPU where the loops cannot run the model, or where
    they are asked for to compare with ("torch").
    """
    dtype = _products_type(settings)
    if device.type == "cpu" and torch._C._has_mkldnn and settings.encoder == "fast":
        try:
            # Imported here since a GPU has no use for the compiler.
            from asr_service.model.cpu_encoder.encoder import CpuEncoder
            from asr_service.model.cpu_encoder.precompile import compile_missing

            encoder = CpuEncoder(weights, plan, rows, dtype)
            compile_missing([(encoder, plan, mels)], _log.info)
            return encoder
        except UnsupportedLayer as reason:
            _log.info(
                "the compiled encoder step does not know this model (%s): torch operations are used", reason
            )
    fused, tf32 = settings.encoder == "fused", settings.precision == "tf32"
    if device.type == "cuda" and settings.encoder == "fast":
        why = why_without_kernels(weights, plan, mels, device, dtype, tf32=tf32)
        if why:
            _log.warning("Triton's kernels are not used on %s (%s): torch's operations serve", device, why)
        fused = not why
    return TorchEncoder(weights, plan, rows, device, dtype, tf32=tf32, fused=fused)


def _refuse_unknown_weights(parts: ModelParts) -> None:
    """Raises ModelError if the file has weights that nothing here uses: what they do to the words is not known."""
    # Positions are worked out here, and the features' window and filters taken where they are used.
    parts.weights.ignore("encoder.pos_enc.", "preprocessor.")
    if unknown := parts.weights.left_over():
        shown = ", ".join(sorted(unknown)[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise cannot_be_served(
            f"{parts.path}: {WEIGHTS}", f"it has weights whose use is not known here ({shown})"
        )
