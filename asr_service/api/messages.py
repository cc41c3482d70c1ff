"""Protobuf messages to core values and back, and errors to `google.rpc.Status`. Pure; no grpc here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence

from asr.v1 import asr_pb2 as pb
from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from asr_service.api import limits
from asr_service.core.errors import AsrError, InternalError, InvalidArgument, wire_status
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
from asr_service.recognition.languages import choose_language
from asr_service.recognition.phrases import Alphabet, alphabet
from asr_service.sessions.routes import Route, Routes, Wanted

ERROR_DOMAIN = "asr.v1"

ENCODINGS = {
    pb.AUDIO_ENCODING_UNSPECIFIED: Encoding.LINEAR16,
    pb.AUDIO_ENCODING_LINEAR16: Encoding.LINEAR16,
    pb.AUDIO_ENCODING_MULAW: Encoding.MULAW,
    pb.AUDIO_ENCODING_ALAW: Encoding.ALAW,
    pb.AUDIO_ENCODING_FLOAT32: Encoding.FLOAT32,
}
CODINGS = {
    pb.AUDIO_ENCODING_FLAC: Coding.FLAC,
    pb.AUDIO_ENCODING_OGG_OPUS: Coding.OGG_OPUS,
    pb.AUDIO_ENCODING_WEBM_OPUS: Coding.WEBM_OPUS,
    pb.AUDIO_ENCODING_AUTO: Coding.AUTO,
}
_REASONS = {
    FinalReason.ENDPOINT: pb.FINAL_REASON_ENDPOINT,
    FinalReason.FINALIZE: pb.FINAL_REASON_FINALIZE,
    FinalReason.END_OF_STREAM: pb.FINAL_REASON_END_OF_STREAM,
    FinalReason.END_OF_UTTERANCE: pb.FINAL_REASON_END_OF_UTTERANCE,
    FinalReason.ENDED_BY_SERVER: pb.FINAL_REASON_ENDED_BY_SERVER,
}
_DEFAULTS = EndpointingConfig()
PATH = "config."
"""What comes before the names of a config's fields in errors."""
_LANGUAGE_FIELD = f"{PATH}language_code"
# Subtags of RFC 5646, section 2.1, and the underscore that many programs write between them.
_LANGUAGE = re.compile(r"([A-Za-z0-9]+([-_][A-Za-z0-9]+)*)?")


def find_route(config: pb.RecognitionConfig, routes: Routes | None) -> Route | None:
    """What serves a stream, by the model, language and look-ahead that its config asks for.

    Args:
        config: as it came.
        routes: what is served, None before the models are made: then only the form of the fields is checked.

    Raises:
        InvalidArgument: nothing does, or a field has a form that means nothing.
    """
    _check_language_form(config.language_code)
    if len(config.model) > limits.MAX_MODEL_CHARS:
        raise InvalidArgument(
            f"{PATH}model has {len(config.model)} characters; it should have at most {limits.MAX_MODEL_CHARS}, or be "
            "unset",
            field=f"{PATH}model",
        )
    look_ahead_ms = config.look_ahead_ms if config.HasField("look_ahead_ms") else None
    wanted = Wanted(config.model, config.language_code, look_ahead_ms)
    return None if routes is None else routes.find(wanted, PATH)


def stream_config(config: pb.RecognitionConfig, route: Route | None = None) -> StreamConfig:
    """What a stream asked for, with defaults filled in.

    Args:
        config: as it came.
        route: what serves it, from `find_route`; None before the models are made.

    Raises:
        InvalidArgument: the first field that cannot be served, by its path in the request.
    """
    info = None if route is None else route.info
    coding = CODINGS.get(config.encoding)
    encoding = Encoding.LINEAR16 if coding else ENCODINGS.get(config.encoding)
    if encoding is None:
        known = [value for value in (*ENCODINGS, *CODINGS) if value != pb.AUDIO_ENCODING_UNSPECIFIED]
        names = [
            f"{pb.AudioEncoding.Name(value).removeprefix('AUDIO_ENCODING_')} ({value})" for value in known
        ]
        raise InvalidArgument(
            f"config.encoding is {config.encoding}, which is no AudioEncoding; it should be {', '.join(names[:-1])} or "
            f"{names[-1]}, or unset for LINEAR16",
            field="config.encoding",
        )
    name = config.stream_id
    if len(name) > limits.MAX_NAME_CHARS or not re.fullmatch(r"[ -~]*", name):
        raise InvalidArgument(
            f"config.stream_id has {len(name)} characters; it should be at most {limits.MAX_NAME_CHARS} printable "
            "ASCII characters, or unset for one made by the server",
            field="config.stream_id",
        )
    return StreamConfig(
        name=name or uuid.uuid4().hex,
        encoding=encoding,
        sample_rate=stated_rate(config) or 16_000,
        interim_results=config.interim_results if config.HasField("interim_results") else True,
        word_times=config.word_times,
        endpointing=_endpointing(config.endpointing) if config.HasField("endpointing") else None,
        punctuation=config.automatic_punctuation if config.HasField("automatic_punctuation") else True,
        boosts=_boosts(config.phrase_boosts, info),
        language=checked_language(config.language_code, info),
        end_tokens=config.end_tokens if config.HasField("end_tokens") else True,
        fill_gaps_after_ms=_gap(config),
        model=route.model if route else "",
        look_ahead_ms=route.look_ahead_ms if route else None,
        coding=coding,
    )


def stated_rate(config: pb.RecognitionConfig) -> int | None:
    """The sample rate that a config states, None if it states none.

    Raises:
        InvalidArgument: audio of this rate cannot be recognized.
    """
    return checked_rate(config.sample_rate_hertz) if config.HasField("sample_rate_hertz") else None


def channels(config: pb.RecognitionConfig) -> int:
    """Channels of a stream's audio.

    Raises:
        InvalidArgument: there are none or too many.
    """
    return checked_channels(config.audio_channel_count) if config.HasField("audio_channel_count") else 1


def checked_rate(rate: int) -> int:
    """The sample rate. Raises InvalidArgument if audio of this rate cannot be recognized."""
    if not limits.MIN_RATE_HZ <= rate <= limits.MAX_RATE_HZ:
        raise InvalidArgument(
            f"config.sample_rate_hertz is {rate}; it should be {limits.MIN_RATE_HZ} to "
            f"{limits.MAX_RATE_HZ}, or unset for 16000",
            field="config.sample_rate_hertz",
        )
    return rate


def checked_channels(count: int) -> int:
    """The number of channels. Raises InvalidArgument if audio of so many cannot be recognized."""
    if not limits.MIN_CHANNELS <= count <= limits.MAX_CHANNELS:
        raise InvalidArgument(
            f"config.audio_channel_count is {count}; it should be {limits.MIN_CHANNELS} to "
            f"{limits.MAX_CHANNELS}, or unset for 1",
            field="config.audio_channel_count",
        )
    return count


def checked_language(code: str, info: ModelInfo | None) -> str:
    """The language that a stream's model is told, as the model spells it ("" if there is nothing to tell).

    Args:
        code: what the client asks for, in any case; "" for the default.
        info: of the model, None before it is made: then only the code's form is checked.

    Raises:
        InvalidArgument: this is no BCP-47 code, or none of a language that the model knows; the message lists those.
    """
    _check_language_form(code)
    return code if info is None else choose_language(code, info, _LANGUAGE_FIELD)


def _check_language_form(code: str) -> None:
    if len(code) > limits.MAX_LANGUAGE_CHARS or not _LANGUAGE.fullmatch(code):
        shown = f"has {len(code)} characters" if len(code) > limits.MAX_LANGUAGE_CHARS else f"is {code!a}"
        raise InvalidArgument(
            f"{_LANGUAGE_FIELD} {shown}; it should be a BCP-47 code of at most {limits.MAX_LANGUAGE_CHARS} characters, "
            "such as en-US, or unset",
            field=_LANGUAGE_FIELD,
        )


def _gap(config: pb.RecognitionConfig) -> int:
    gap_ms = config.fill_gaps_after_ms
    if config.HasField("fill_gaps_after_ms") and not limits.MIN_GAP_MS <= gap_ms <= limits.MAX_GAP_MS:
        raise InvalidArgument(
            f"config.fill_gaps_after_ms is {gap_ms}; it should be {limits.MIN_GAP_MS} to {limits.MAX_GAP_MS}, or unset "
            "for time without audio that does not count",
            field="config.fill_gaps_after_ms",
        )
    return gap_ms


def _endpointing(message: pb.Endpointing) -> EndpointingConfig:
    silence, longest = _DEFAULTS.trailing_silence_ms, _DEFAULTS.max_utterance_ms
    if message.HasField("trailing_silence_ms"):
        silence = message.trailing_silence_ms
        if not limits.MIN_SILENCE_MS <= silence <= limits.MAX_SILENCE_MS:
            raise InvalidArgument(
                f"config.endpointing.trailing_silence_ms is {silence}; it should be {limits.MIN_SILENCE_MS} to "
                f"{limits.MAX_SILENCE_MS}, or unset for {_DEFAULTS.trailing_silence_ms}",
                field="config.endpointing.trailing_silence_ms",
            )
    if message.HasField("max_utterance_ms"):
        longest = message.max_utterance_ms
    start = 0
    if message.HasField("start_timeout_ms"):
        start = message.start_timeout_ms
        if start < limits.MIN_START_TIMEOUT_MS:
            raise InvalidArgument(
                f"config.endpointing.start_timeout_ms is {start}; it should be {limits.MIN_START_TIMEOUT_MS} or "
                "more, or unset for no such final",
                field="config.endpointing.start_timeout_ms",
            )
    return EndpointingConfig(trailing_silence_ms=silence, max_utterance_ms=longest, start_timeout_ms=start)


def _boosts(messages: Sequence[pb.PhraseBoost], info: ModelInfo | None) -> tuple[PhraseBoost, ...]:
    """Phrases to listen for, each of which the model can write.

    A message has room for millions of groups or phrases: what may be many is counted before it is looked at.
    """
    _at_most(limits.PHRASES.groups, "groups", len(messages))
    _at_most(limits.PHRASES.phrases, "phrases", sum(len(message.phrases) for message in messages))
    chars = sum(len(phrase) for message in messages for phrase in message.phrases)
    _at_most(limits.PHRASES.chars, "characters", chars)
    known = alphabet(info.pieces) if info else None
    groups = []
    for at, message in enumerate(messages):
        path = f"config.phrase_boosts[{at}]"
        low, high = limits.PHRASES.min_boost, limits.PHRASES.max_boost
        boost = message.boost if message.HasField("boost") else DEFAULT_BOOST
        # A NaN is not in any range either.
        if not low <= boost <= high:
            raise InvalidArgument(
                f"{path}.boost is {boost:g}; it should be {low:g} to {high:g}, or unset for {DEFAULT_BOOST:g}",
                field=f"{path}.boost",
            )
        for number, phrase in enumerate(message.phrases):
            if problem := _problem(phrase, known):
                field = f"{path}.phrases[{number}]"
                raise InvalidArgument(f"{field} {problem}", field=field)
        if message.phrases:
            groups.append(PhraseBoost(tuple(message.phrases), boost))
    return tuple(groups)


def _at_most(limit: int, what: str, count: int) -> None:
    if count > limit:
        raise InvalidArgument(
            f"config.phrase_boosts has {count} {what}; there should be at most {limit} {what} in all",
            field="config.phrase_boosts",
        )


def _problem(phrase: str, known: Alphabet | None) -> str:
    """What is wrong with a phrase, without repeating it (messages are logged); "" if nothing is."""
    if not phrase.strip() or len(phrase) > limits.PHRASES.phrase_chars:
        return f"has {len(phrase.strip())} characters; it should have 1 to {limits.PHRASES.phrase_chars}"
    if known is None:
        return ""
    written = known.spell(phrase)
    if written.unwritable:
        shown = ", ".join(repr(char) for char in written.unwritable[:5])
        return f"has {shown}, which the model cannot write; spell the phrase as the model writes it, in words"
    return "" if written.text else "has nothing that the model can write; it should hold words"


def finalize_tag(message: pb.Finalize) -> str:
    """The tag of a finalize request.

    Raises:
        InvalidArgument: the tag is too long.
    """
    if len(message.tag) > limits.MAX_TAG_CHARS:
        raise InvalidArgument(
            f"finalize.tag has {len(message.tag)} characters; it should be at most {limits.MAX_TAG_CHARS}",
            field="finalize.tag",
        )
    return message.tag


def response(name: str, result: Result, channel: int = 0) -> pb.RecognizeResponse:
    """One result of one channel as it goes out, under the stream's name."""
    seconds, milliseconds = divmod(result.made_unix_ms, 1000)
    return pb.RecognizeResponse(
        stream_id=name,
        result=pb.RecognitionResult(
            text=result.text,
            is_final=result.reason is not None,
            final_reason=pb.FINAL_REASON_UNSPECIFIED if result.reason is None else _REASONS[result.reason],
            utterance_index=result.utterance,
            words=[
                pb.WordInfo(word=w.text, start_ms=w.start_ms, end_ms=w.end_ms, confidence=w.confidence)
                for w in result.words
            ],
            confidence=result.confidence,
            finalize_tag=result.tag,
            channel=channel,
            stability=result.stability,
            language_code=result.language,
        ),
        audio_processed_ms=result.audio_ms,
        server_time=timestamp_pb2.Timestamp(seconds=seconds, nanos=milliseconds * 1_000_000),
    )


def status(error: AsrError) -> status_pb2.Status:
    """The status of an error with its details: ErrorInfo always, and what its kind calls for."""
    wire = wire_status(error)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.facts)
    ]
    if isinstance(error, InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.problem)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InternalError):
        details.append(error_details_pb2.RequestInfo(request_id=error.request_id))
    result = status_pb2.Status(code=wire.grpc_code, message=error.message)
    for detail in details:
        result.details.add().Pack(detail)
    return result
