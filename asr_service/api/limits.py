"""What fields of a request may hold: read from the contract, which states it in their options (`asr.v1.Limits`)."""

from __future__ import annotations

from asr.v1 import asr_pb2 as pb
from google.protobuf.message import Message

from asr_service.recognition.phrases import PhraseLimits


def _limits(message: type[Message], field: str) -> pb.Limits:
    limits: pb.Limits = message.DESCRIPTOR.fields_by_name[field].GetOptions().Extensions[pb.limits]
    return limits


def _range(message: type[Message], field: str) -> tuple[int, int]:
    limits = _limits(message, field)
    return int(limits.min), int(limits.max)


MIN_RATE_HZ, MAX_RATE_HZ = _range(pb.RecognitionConfig, "sample_rate_hertz")
MIN_CHANNELS, MAX_CHANNELS = _range(pb.RecognitionConfig, "audio_channel_count")
MIN_SILENCE_MS, MAX_SILENCE_MS = _range(pb.Endpointing, "trailing_silence_ms")
MIN_START_TIMEOUT_MS = int(_limits(pb.Endpointing, "start_timeout_ms").min)
MIN_GAP_MS, MAX_GAP_MS = _range(pb.RecognitionConfig, "fill_gaps_after_ms")
MAX_NAME_CHARS = _limits(pb.RecognitionConfig, "stream_id").max_length
MAX_LANGUAGE_CHARS = _limits(pb.RecognitionConfig, "language_code").max_length
MAX_MODEL_CHARS = _limits(pb.RecognitionConfig, "model").max_length
MAX_TAG_CHARS = _limits(pb.Finalize, "tag").max_length


def _phrase_limits() -> PhraseLimits:
    phrases, boost = _limits(pb.PhraseBoost, "phrases"), _limits(pb.PhraseBoost, "boost")
    return PhraseLimits(
        groups=_limits(pb.RecognitionConfig, "phrase_boosts").max_items,
        phrases=phrases.max_items,
        phrase_chars=phrases.max_length,
        chars=phrases.max_total_length,
        min_boost=boost.min,
        max_boost=boost.max,
    )


PHRASES = _phrase_limits()
