"""Maps Riva's messages to core values and back. Pure; no grpc here.

Fields for features that this service does not have (inverse normalisation, profanity filters, diarization, most of
custom configuration) are accepted and change nothing.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from itertools import islice

import riva.client.proto.riva_asr_pb2 as pb
import riva.client.proto.riva_audio_pb2 as audio_pb
import riva.client.proto.riva_common_pb2 as common_pb
from asr.v1 import asr_pb2 as asr_v1_pb

from asr_service.api import limits
from asr_service.api import messages as asr_v1
from asr_service.core.errors import InvalidArgument
from asr_service.core.model import ModelInfo
from asr_service.core.values import (
    DEFAULT_BOOST,
    Coding,
    Encoding,
    EndpointingConfig,
    FinalReason,
    PhraseBoost,
    Result,
    StreamConfig,
)
from asr_service.recognition.phrases import keep_servable
from asr_service.recognition.wav_header import AudioFormat
from asr_service.sessions.routes import Route, Routes

FORCE_FINAL = "force_eou"
"""Key of `runtime_config` by which a client asks for a final."""

MOST_BOOST = 2.0
"""Largest boost that a phrase of a Riva client gets: the boosts that clients send are on another scale."""

_ENCODINGS = {
    audio_pb.ENCODING_UNSPECIFIED: Encoding.LINEAR16,
    audio_pb.LINEAR_PCM: Encoding.LINEAR16,
    audio_pb.MULAW: Encoding.MULAW,
    audio_pb.ALAW: Encoding.ALAW,
}
_CODINGS = {audio_pb.FLAC: Coding.FLAC, audio_pb.OGGOPUS: Coding.OGG_OPUS}
_RIVA_ENCODINGS = {
    Encoding.LINEAR16: audio_pb.LINEAR_PCM,
    Encoding.MULAW: audio_pb.MULAW,
    Encoding.ALAW: audio_pb.ALAW,
}
_DEFAULT_RATE = 16_000

FILL_GAPS = "fill_gaps_after_ms"
"""Key of `custom_configuration` for the time without audio after which silence takes its place."""
DEFAULT_GAP_MS = 1000
"""That time for streams: clients of Riva expect that a pause without packets ends an utterance as any other does. It is
longer than what networks commonly hold up."""


@dataclass(frozen=True, slots=True)
class RequestedConfig:
    """The config of a stream as its client sent it.

    Attributes:
        format: of the audio, unless a WAV header at its start says otherwise.
        interim_results, word_times, endpointing, punctuation, boosts: see `StreamConfig`.
        language: as the client names it; "" and "multi" leave it to the model.
        fill_gaps_after_ms: see `StreamConfig`.
        model: as the client names it. It chooses only where several are served: clients of Riva send the names of
            NVIDIA's.
        coding: see `StreamConfig`.
    """

    format: AudioFormat
    interim_results: bool
    word_times: bool
    endpointing: EndpointingConfig | None
    punctuation: bool
    boosts: tuple[PhraseBoost, ...]
    language: str = ""
    fill_gaps_after_ms: int = 0
    model: str = ""
    coding: Coding | None = None

    def stream_config(
        self,
        name: str,
        format: AudioFormat,  # noqa: A002 - as RIFF calls it
        routes: Routes | None = None,
    ) -> StreamConfig:
        """Makes the config of the stream.

        Args:
            name: of the stream.
            format: of the audio.
            routes: what is served, None before the models are made.

        Raises:
            InvalidArgument: audio of this format, or this model or language, cannot be recognized.
        """
        route = _find_route(self.model, self.language, routes)
        asr_v1.checked_channels(format.channels)
        return StreamConfig(
            name=name,
            encoding=format.encoding,
            sample_rate=asr_v1.checked_rate(format.sample_rate),
            interim_results=self.interim_results,
            word_times=self.word_times,
            endpointing=self.endpointing,
            punctuation=self.punctuation,
            boosts=self.boosts,
            language=asr_v1.checked_language(self.language, route.info if route else None),
            fill_gaps_after_ms=self.fill_gaps_after_ms,
            model=route.model if route else "",
            look_ahead_ms=route.look_ahead_ms if route else None,
            coding=self.coding,
        )


def read_config(
    message: pb.StreamingRecognitionConfig, *, endpoints: bool, routes: Routes | None = None
) -> RequestedConfig:
    """Reads a stream's config.

    Args:
        message: the config.
        endpoints: whether it is of a stream, whose utterances end by themselves where the config does not say so.
        routes: what is served, None before the models are made.

    Raises:
        InvalidArgument: a field cannot be served; the error names it.
    """
    config = message.config
    route = _find_route(config.model, config.language_code, routes)
    # Whole files are decoded before.
    coding = _CODINGS.get(config.encoding) if endpoints else None
    encoding = Encoding.LINEAR16 if coding else _ENCODINGS.get(config.encoding)
    if encoding is None:
        names = {number: name for name, number in audio_pb.AudioEncoding.items()}
        raise InvalidArgument(
            f"config.encoding is {names.get(config.encoding, config.encoding)}; streams take LINEAR_PCM, MULAW, ALAW, "
            "FLAC and OGGOPUS, and Recognize takes raw audio of the first three and whole files",
            field="config.encoding",
        )
    return RequestedConfig(
        format=AudioFormat(
            encoding, config.sample_rate_hertz or _DEFAULT_RATE, config.audio_channel_count or 1
        ),
        interim_results=message.interim_results,
        word_times=config.enable_word_time_offsets,
        endpointing=_endpointing(config, endpoints=endpoints),
        punctuation=config.enable_automatic_punctuation,
        boosts=_boosts(config, route.info if route else None),
        language=config.language_code,
        fill_gaps_after_ms=_gap(config, default_ms=DEFAULT_GAP_MS) if endpoints else 0,
        model=config.model,
        coding=coding,
    )


def _find_route(model: str, language: str, routes: Routes | None) -> Route | None:
    """Finds what serves a stream, None before the models are made. Raises InvalidArgument where nothing does."""
    chosen = model if routes and len(routes.models) > 1 else ""
    return asr_v1.find_route(asr_v1_pb.RecognitionConfig(model=chosen, language_code=language), routes)


def _endpointing(config: pb.RecognitionConfig, *, endpoints: bool) -> EndpointingConfig | None:
    """Reads when utterances end by themselves.

    `stop_history` is the silence that ends an utterance; the other thresholds belong to Riva's own detector.
    """
    silence_ms = config.endpointing_config.stop_history
    if silence_ms > 0:
        silence_ms = min(max(silence_ms, limits.MIN_SILENCE_MS), limits.MAX_SILENCE_MS)
        return EndpointingConfig(trailing_silence_ms=silence_ms)
    return EndpointingConfig() if endpoints or config.HasField("endpointing_config") else None


def _gap(config: pb.RecognitionConfig, *, default_ms: int) -> int:
    """Reads after which time without audio silence takes its place; 0 for never."""
    text = config.custom_configuration.get(FILL_GAPS, "").strip()
    if not text:
        return default_ms
    gap_ms = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
    if gap_ms == 0 or limits.MIN_GAP_MS <= gap_ms <= limits.MAX_GAP_MS:
        return gap_ms
    field = f"config.custom_configuration[{FILL_GAPS}]"
    raise InvalidArgument(
        f"{field} is {text[:20]!a}; it should be {limits.MIN_GAP_MS} to {limits.MAX_GAP_MS} (ms), 0 for never, or "
        f"unset for {DEFAULT_GAP_MS}",
        field=field,
    )


def _boosts(config: pb.RecognitionConfig, info: ModelInfo | None) -> tuple[PhraseBoost, ...]:
    """Reads the phrases of `speech_contexts`; no stream is refused for them.

    Riva's boosts are those of another decoder (NVIDIA recommends 20 to 100, its scripts send 4): one above `MOST_BOOST`
    counts as that. 0 is protobuf's "unset". A negative boost is for words to avoid, which greedy decoding cannot do;
    its phrases are left out. Of too many contexts or phrases the first are read.
    """
    groups, left = [], limits.PHRASES.phrases
    for context in islice(config.speech_contexts, limits.PHRASES.groups):
        # Is false of NaN too.
        if context.boost >= 0:
            phrases = tuple(context.phrases[:left])
            left -= len(phrases)
            groups.append(PhraseBoost(phrases, min(context.boost, MOST_BOOST) or DEFAULT_BOOST))
    return keep_servable(groups, info.pieces if info else None, limits.PHRASES)


def check_file(found: AudioFormat, stated_rate: int) -> None:
    """Checks a file's format, which counts for more than that in the config, but may not contradict its rate.

    Args:
        found: in the file.
        stated_rate: the config's sample rate in Hz, 0 if it states none.

    Raises:
        InvalidArgument: audio of this format cannot be recognized, or the rates differ; the message has the file's.
    """
    rate, channels = found.sample_rate, found.channels
    if not limits.MIN_RATE_HZ <= rate <= limits.MAX_RATE_HZ:
        raise InvalidArgument(
            f"audio is a file of {rate} Hz; it should have {limits.MIN_RATE_HZ} to {limits.MAX_RATE_HZ}",
            field="audio",
        )
    if not limits.MIN_CHANNELS <= channels <= limits.MAX_CHANNELS:
        raise InvalidArgument(
            f"audio is a file of {channels} channels; it should have {limits.MIN_CHANNELS} to {limits.MAX_CHANNELS}",
            field="audio",
        )
    if stated_rate not in (0, rate):
        raise InvalidArgument(
            f"config.sample_rate_hertz is {stated_rate}, and the audio is a file of {rate} Hz; they should agree, or "
            "the config leave it unset",
            field="config.sample_rate_hertz",
        )


def with_format(config: pb.RecognitionConfig, format: AudioFormat) -> pb.RecognitionConfig:  # noqa: A002
    """Returns a copy of the config for audio of another format."""
    changed = pb.RecognitionConfig()
    changed.CopyFrom(config)
    changed.encoding = _RIVA_ENCODINGS[format.encoding]
    changed.sample_rate_hertz = format.sample_rate
    changed.audio_channel_count = format.channels
    return changed


def stream_name(request_id: str) -> str:
    """Returns the client's id of its request, or a new one if it has none or one that is not printable or too long."""
    usable = re.fullmatch(rf"[ -~]{{1,{limits.MAX_NAME_CHARS}}}", request_id)
    return request_id if usable else uuid.uuid4().hex


def forces_final(request: pb.StreamingRecognizeRequest) -> bool:
    """Returns whether a request asks for a final of what has come so far."""
    return request.runtime_config.get(FORCE_FINAL, "").strip().lower() in ("true", "1")


def streaming_response(result: Result, channel: int, request_id: str) -> pb.StreamingRecognizeResponse | None:
    """Makes the message of a result; None for one without text, unless it answers a request for a final.

    Such an empty final tells that there was nothing to say, which silence would not.
    """
    if not result.text and result.reason is not FinalReason.FINALIZE:
        return None
    final = result.reason is not None
    return pb.StreamingRecognizeResponse(
        results=[
            pb.StreamingRecognitionResult(
                alternatives=[_alternative(result)],
                is_final=final,
                stability=1.0 if final else result.stability,
                channel_tag=channel + 1,
                audio_processed=result.audio_ms / 1000,
            )
        ],
        id=common_pb.RequestId(value=request_id) if request_id else None,
    )


def empty_final(channel: int, request_id: str) -> pb.StreamingRecognizeResponse:
    """Makes the answer to a request for a final that comes before any audio."""
    return pb.StreamingRecognizeResponse(
        results=[
            pb.StreamingRecognitionResult(
                alternatives=[pb.SpeechRecognitionAlternative()],
                is_final=True,
                stability=1.0,
                channel_tag=channel + 1,
            )
        ],
        id=common_pb.RequestId(value=request_id) if request_id else None,
    )


def offline_response(responses: list[pb.StreamingRecognizeResponse], request_id: str) -> pb.RecognizeResponse:
    """Makes one message of the finals of a whole upload, channel by channel."""
    results = sorted((response.results[0] for response in responses), key=lambda result: result.channel_tag)
    return pb.RecognizeResponse(
        results=[
            pb.SpeechRecognitionResult(
                alternatives=result.alternatives,
                channel_tag=result.channel_tag,
                audio_processed=result.audio_processed,
            )
            for result in results
        ],
        id=common_pb.RequestId(value=request_id) if request_id else None,
    )


def _alternative(result: Result) -> pb.SpeechRecognitionAlternative:
    return pb.SpeechRecognitionAlternative(
        transcript=result.text,
        confidence=result.confidence,
        words=[
            pb.WordInfo(
                start_time=word.start_ms, end_time=word.end_ms, word=word.text, confidence=word.confidence
            )
            for word in result.words
        ],
        language_code=[result.language] if result.language else [],
    )


def service_config(routes: Routes, wanted: str) -> pb.RivaSpeechRecognitionConfigResponse:
    """Makes the message that says what is served, for streams and for whole files.

    Each model is told with its first look-ahead, the one that clients of Riva get. Its `language_code` has the
    languages with commas between them, and is empty where they are not known.

    Args:
        routes: what is served.
        wanted: name of the model that the client asks about, "" for any; the message is empty for one that is not
            served.
    """
    kinds = ({"type": "online", "streaming": "True"}, {"type": "offline", "streaming": "False"})
    return pb.RivaSpeechRecognitionConfigResponse(
        model_config=[
            pb.RivaSpeechRecognitionConfigResponse.Config(
                model_name=model, parameters=kind | _parameters(first.info)
            )
            for model, (first, *_) in routes.by_model.items()
            if wanted in ("", model)
            for kind in kinds
        ]
    )


def _parameters(info: ModelInfo) -> dict[str, str]:
    return {
        "language_code": ",".join(info.languages),
        "sample_rate": str(info.sample_rate),
        "decoder": info.decoder,
        "chunk_size": f"{info.chunk_ms / 1000:g}",
        "look_ahead": f"{info.look_ahead_ms / 1000:g}",
    }
