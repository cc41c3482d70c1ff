"""Protobuf to core values and back, and errors to google.rpc.Status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest
from asr.v1 import asr_pb2 as pb
from google.rpc import code_pb2, error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from asr_service.api import messages as wire
from asr_service.api.service_info import service_info
from asr_service.core.errors import WIRE_STATUS, AsrError, AtCapacity, InternalError, InvalidArgument
from asr_service.core.model import ModelInfo
from asr_service.core.values import (
    DEFAULT_BOOST,
    Encoding,
    EndpointingConfig,
    FinalReason,
    PhraseBoost,
    Result,
    StreamConfig,
    Word,
)
from asr_service.model.null import NullModel
from asr_service.sessions.routes import Room, Wanted
from tests.support.polyglot import PROMPTS, PolyglotModel
from tests.support.routes import serving

UINT32 = st.integers(0, 2**32 - 1)
M = TypeVar("M")


def optional(message: type[M], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[M]:
    """Messages with any of these fields set or unset."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: message(**given))


CONFIGS = optional(
    pb.RecognitionConfig,
    encoding=st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 2, 3]),
    sample_rate_hertz=UINT32 | st.sampled_from([0, 7999, 8000, 16000, 48000, 192000, 192001]),
    interim_results=st.booleans(),
    word_times=st.booleans(),
    endpointing=optional(
        pb.Endpointing,
        trailing_silence_ms=UINT32 | st.sampled_from([0, 99, 100, 800, 10000, 10001]),
        max_utterance_ms=UINT32,
    ),
    stream_id=st.text(max_size=200) | st.text("abc ~-", max_size=128),
    language_code=st.text(max_size=50) | st.sampled_from(["", "auto", "de-DE", "EN_us", "de-AT", "tlh"]),
    end_tokens=st.booleans(),
    model=st.text(max_size=600) | st.sampled_from(["null", "NULL", "polyglot"]),
    look_ahead_ms=UINT32 | st.sampled_from([0, 80]),
)
INFO = NullModel(slots=1).info  # it writes lower-case letters
POLYGLOT = PolyglotModel(slots=1).info


def read(message: pb.RecognitionConfig, info: ModelInfo | None = None) -> StreamConfig:
    """The config of a stream of a service with this one model, or none yet."""
    return wire.stream_config(message, wire.find_route(message, serving(info) if info else None))


@given(CONFIGS, st.sampled_from([None, INFO, POLYGLOT]))
def test_any_config_is_served_or_refused_by_field(
    message: pb.RecognitionConfig, info: ModelInfo | None
) -> None:
    """Nothing but InvalidArgument comes out, it names a field that is set, and what is served is within the limits."""
    refused: InvalidArgument | None = None
    try:
        config = read(message, info)
    except InvalidArgument as error:
        refused = error
    if refused is not None:
        path = refused.field.split(".")
        assert path[0] == "config"
        holder: Any = message
        for name in path[1:]:
            value = getattr(holder, name)
            assert value or holder.HasField(name)
            holder = value
        assert refused.field in refused.message
        return
    assert 8000 <= config.sample_rate <= 192000
    assert config.name
    assert config.name.isascii()
    assert len(config.name) <= 128
    assert config.interim_results is (message.interim_results or not message.HasField("interim_results"))
    assert (config.endpointing is not None) == message.HasField("endpointing")
    assert config.end_tokens is (message.end_tokens or not message.HasField("end_tokens"))
    assert info is not POLYGLOT or config.language in ("", *dict(PROMPTS))
    if info is not None:
        assert (config.model, config.look_ahead_ms) == (info.name, info.look_ahead_ms)
        assert message.model.casefold() in ("", info.name)
        assert not message.HasField("look_ahead_ms") or message.look_ahead_ms == info.look_ahead_ms


def test_defaults_are_those_the_contract_states() -> None:
    config = read(pb.RecognitionConfig(stream_id="x", endpointing=pb.Endpointing()))
    assert config == StreamConfig("x", Encoding.LINEAR16, 16_000, True, False, EndpointingConfig(800, 30_000))
    assert read(pb.RecognitionConfig()).endpointing is None


def test_phrases_with_the_boosts_of_their_groups() -> None:
    message = pb.RecognitionConfig(
        phrase_boosts=[
            pb.PhraseBoost(phrases=["Alpha", "x-ray"], boost=10),
            pb.PhraseBoost(phrases=["zulu"]),
            pb.PhraseBoost(boost=0),
        ]
    )
    expected = (PhraseBoost(("Alpha", "x-ray"), 10.0), PhraseBoost(("zulu",), DEFAULT_BOOST))
    assert read(message, INFO).boosts == expected
    assert read(message).boosts == expected


@pytest.mark.parametrize(
    ("groups", "field", "says"),
    [
        ([pb.PhraseBoost(phrases=["a"]), pb.PhraseBoost(phrases=["a", "b 7"])], "[1].phrases[1]", "'7'"),
        ([pb.PhraseBoost(phrases=["\u65e5\u672c"])], "[0].phrases[0]", "cannot write"),
        ([pb.PhraseBoost(phrases=[""])], "[0].phrases[0]", "1 to 100"),
        ([pb.PhraseBoost(phrases=["a", " \n"])], "[0].phrases[1]", "1 to 100"),
        ([pb.PhraseBoost(phrases=["-"])], "[0].phrases[0]", "should hold words"),
        ([pb.PhraseBoost(phrases=["a" * 101])], "[0].phrases[0]", "1 to 100"),
        ([pb.PhraseBoost(phrases=["a"], boost=10.5)], "[0].boost", "0 to 10"),
        ([pb.PhraseBoost(phrases=["a"], boost=-1)], "[0].boost", "0 to 10"),
        ([pb.PhraseBoost(boost=float("nan"))], "[0].boost", "0 to 10"),
        ([pb.PhraseBoost(phrases=["a"] * 501), pb.PhraseBoost(phrases=["a"] * 500)], "", "1000 phrases"),
        ([pb.PhraseBoost(phrases=["a" * 100] * 201)], "", "20000 characters"),
        ([pb.PhraseBoost()] * 1001, "", "1000 groups"),
        ([pb.PhraseBoost(phrases=[""] * 2_000_000)], "", "1000 phrases"),
    ],
)
def test_phrases_that_cannot_be_served(groups: list[pb.PhraseBoost], field: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(pb.RecognitionConfig(phrase_boosts=groups), INFO)
    assert caught.value.field == f"config.phrase_boosts{field}"
    assert caught.value.field in caught.value.message
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("info", "asked", "told"),
    [
        (POLYGLOT, "", ""),
        (POLYGLOT, "auto", "auto"),
        (POLYGLOT, "DE_de", "de-DE"),
        (POLYGLOT, "de-AT", "de-DE"),
        (INFO, "auto", ""),
        (INFO, "de-at", "de-AT"),
        (replace(INFO, languages=("en-US",)), "en-GB", "en-US"),
        (None, "tlh", "tlh"),
    ],
)
def test_the_language_is_spelt_as_the_model_does(info: ModelInfo | None, asked: str, told: str) -> None:
    assert read(pb.RecognitionConfig(language_code=asked), info).language == told


@pytest.mark.parametrize(
    ("info", "asked", "says"),
    [
        (POLYGLOT, "tlh", "en-US, de-DE, ja-JP"),
        (replace(INFO, languages=("en-US", "de-DE")), "fr-FR", "en-US or de-DE"),
        (replace(POLYGLOT, prompts=PROMPTS[:3]), "", "en-US, de-DE, ja-JP"),
        (INFO, "not a code", "BCP-47"),
        (INFO, "caf\u00e9", "BCP-47"),
        (INFO, "-", "BCP-47"),
        (INFO, "x" * 36, "at most 35"),
        (None, "x" * 1_000_000, "at most 35"),
    ],
)
def test_a_language_that_cannot_be_served(info: ModelInfo | None, asked: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(pb.RecognitionConfig(language_code=asked), info)
    assert caught.value.field == "config.language_code"
    assert caught.value.message.startswith("config.language_code ")
    assert says in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", "demo", "is 'demo', which is not served; it should be null, or unset"),
        ("model", "x" * 513, "has 513 characters"),
        ("look_ahead_ms", 1040, "is 1040; it should be 80, or unset"),
        ("look_ahead_ms", 0, "is 0; it should be 80, or unset"),
    ],
)
def test_a_model_or_a_look_ahead_that_is_not_served(field: str, value: object, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(pb.RecognitionConfig(**{field: value}), INFO)  # type: ignore[arg-type]
    assert caught.value.field == f"config.{field}"
    assert caught.value.message.startswith(f"config.{field} {says}")


def test_a_config_is_that_of_the_model_that_it_asks_for() -> None:
    """Its phrases and its language are spelt as that model does, and it carries what finds the model again."""
    routes = serving(
        replace(INFO, name="a/first"), POLYGLOT, replace(POLYGLOT, chunk_frames=7, att_context=(70, 6))
    )
    for asked, model, look_ahead_ms, language in (
        (pb.RecognitionConfig(), "a/first", 80, ""),
        (pb.RecognitionConfig(model="First", language_code="de_at"), "a/first", 80, "de-AT"),
        (pb.RecognitionConfig(model=POLYGLOT.name, language_code="de_at"), POLYGLOT.name, 80, "de-DE"),
        (pb.RecognitionConfig(model=POLYGLOT.name, look_ahead_ms=480), POLYGLOT.name, 480, ""),
    ):
        config = wire.stream_config(asked, wire.find_route(asked, routes))
        assert (config.model, config.look_ahead_ms, config.language) == (model, look_ahead_ms, language)
        again = routes.find(Wanted(config.model, config.language, config.look_ahead_ms))
        assert (again.model, again.look_ahead_ms) == (model, look_ahead_ms)


def test_before_the_models_are_made_nothing_is_chosen() -> None:
    config = read(pb.RecognitionConfig(model="demo", look_ahead_ms=0))
    assert (config.model, config.look_ahead_ms) == ("", None)


def test_everything_that_is_served_is_told_with_the_room_of_its_engines() -> None:
    far = replace(POLYGLOT, chunk_frames=14, att_context=(70, 13), device="cuda:1")
    routes = serving(POLYGLOT, replace(POLYGLOT, device="cuda:0"), far)
    rooms = [Room(1, 10, 0.5, "host"), Room(2, 400, 0.1, "recorded"), Room(0, 500, 0.0, "eager")]
    told = service_info(
        routes,
        rooms.__getitem__,
        version="1",
        max_streams=910,
        active_streams=3,
        max_message_bytes=1,
        measured_streams=0,
        load=0.5,
    )
    shared = {
        "name": POLYGLOT.name,
        "languages": POLYGLOT.languages,
        "takes_language": True,
        "default_language_code": "auto",
        "decoder": "rnnt",
        "precision": "fp32",
    }
    first = pb.ServedModel(
        look_ahead_ms=80, att_context=[70, 1], chunk_ms=160, devices=["cpu", "cuda:0"],
        max_streams=410, active_streams=3, steps=["host", "recorded"], **shared,  # type: ignore[arg-type]
    )  # fmt: skip
    second = pb.ServedModel(
        look_ahead_ms=1040, att_context=[70, 13], devices=["cuda:1"],
        max_streams=500, steps=["eager"], **shared,  # type: ignore[arg-type]
    )  # fmt: skip
    second.chunk_ms = round(far.chunk_ms)
    assert list(told.served) == [first, second]
    assert (told.model, told.look_ahead_ms, told.device) == (POLYGLOT.name, 80, "cpu")


@pytest.mark.parametrize(
    ("info", "takes", "default"),
    [
        (POLYGLOT, True, "auto"),
        (replace(POLYGLOT, prompts=PROMPTS[:1]), True, "en-US"),
        (replace(POLYGLOT, prompts=PROMPTS[:3]), True, ""),
        (replace(INFO, languages=("en-US",)), False, ""),
        (INFO, False, ""),
    ],
)
def test_service_info_says_whether_a_language_is_taken(info: ModelInfo, takes: bool, default: str) -> None:
    told = service_info(
        serving(info),
        lambda _: Room(0, 1, 0.0),
        version="1",
        max_streams=1,
        active_streams=0,
        max_message_bytes=1,
        measured_streams=0,
        load=0,
    )
    assert tuple(told.languages) == info.languages
    assert (told.takes_language, told.default_language_code) == (takes, default)
    (served,) = told.served
    assert (served.name, served.look_ahead_ms, served.max_streams) == (info.name, 80, 1)
    assert (served.takes_language, served.default_language_code) == (takes, default)


@pytest.mark.parametrize("reason", [None, *FinalReason])
def test_every_reason_has_its_own(reason: FinalReason | None) -> None:
    result = Result("hello", reason, 0, (), 0.75, 80, "", 0, language="de-DE")
    message = wire.response("call", result).result
    name = "UNSPECIFIED" if reason is None else reason.name
    assert pb.FinalReason.Name(message.final_reason) == f"FINAL_REASON_{name}"
    assert (message.is_final, message.language_code) == (reason is not None, "de-DE")


def test_response() -> None:
    words = (Word("hello", 80, 400, 0.5), Word("you", 480, 560, 1.0))
    result = Result("hello you", FinalReason.FINALIZE, 3, words, 0.75, 1540, "turn-1", 1_700_000_000_123)
    message = wire.response("call", result)
    assert message.stream_id == "call"
    assert message.result.final_reason == pb.FINAL_REASON_FINALIZE
    assert message.result.is_final
    assert [(word.word, word.start_ms, word.end_ms, word.confidence) for word in message.result.words] == [
        ("hello", 80, 400, 0.5),
        ("you", 480, 560, 1.0),
    ]
    assert message.server_time.ToMilliseconds() == 1_700_000_000_123
    assert (message.audio_processed_ms, message.result.utterance_index, message.result.confidence) == (
        1540,
        3,
        0.75,
    )


def made(kind: type[AsrError]) -> AsrError:
    return InternalError() if kind is InternalError else kind("what to do", field="a.b", retry_after_s=2.5)


@pytest.mark.parametrize("kind", WIRE_STATUS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status_and_details(kind: type[AsrError]) -> None:
    error = made(kind)
    status = wire.status(error)
    assert status.message == error.message
    assert code_pb2.Code.Name(status.code) == WIRE_STATUS[kind].name
    found = {packed.TypeName(): packed for packed in status.details}
    info = error_details_pb2.ErrorInfo()
    assert found["google.rpc.ErrorInfo"].Unpack(info)
    assert info.domain == "asr.v1"
    assert ("google.rpc.BadRequest" in found) == (kind is InvalidArgument)
    assert ("google.rpc.RequestInfo" in found) == (kind is InternalError)
    assert ("google.rpc.RetryInfo" in found) == (kind is not InternalError)


def test_retry_delay_is_exact() -> None:
    (packed,) = [
        one for one in wire.status(made(AtCapacity)).details if one.TypeName() == "google.rpc.RetryInfo"
    ]
    retry = error_details_pb2.RetryInfo()
    packed.Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500
