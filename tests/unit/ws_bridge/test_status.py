"""gRPC statuses to failures, and agreement with the service's own table."""

from __future__ import annotations

from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from asr_service.api import messages as wire
from asr_service.core.errors import (
    WIRE_STATUS,
    AsrError,
    InvalidArgument,
    Overloaded,
    StreamTimeout,
    Unauthenticated,
)
from tests.support.polyglot import PolyglotModel
from tests.support.routes import serving
from ws_bridge.status import from_grpc


@pytest.mark.parametrize("kind", WIRE_STATUS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("admitted", [False, True])
def test_close_codes_and_names_agree_with_the_services_table(kind: type[AsrError], admitted: bool) -> None:
    expected = WIRE_STATUS[kind]
    # The service gives the errors that mean "come back later" a time to do so; the table's two kinds of
    # RESOURCE_EXHAUSTED differ in just that.
    hint = 1.5 if expected.ws_close == 1013 else None
    error = kind("a sentence")
    error.retry_after_s = hint
    status = wire.status(error)
    failure = from_grpc(status.code, status.message, status.SerializeToString(), admitted=admitted)
    assert failure.code == expected.name.lower()
    assert failure.close_code == expected.ws_close
    assert failure.message == status.message != ""
    assert failure.retry_after_ms == (None if hint is None else 1500)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("config.sample_rate_hertz", "sr"),
        ("config.endpointing.trailing_silence_ms", "endpoint_ms"),
        ("config.stream_id", "sid"),
        ("config.phrase_boosts", "phrases"),
        ("config.phrase_boosts[0].phrases[3]", "phrases[3]"),
        ("config.phrase_boosts[0].boost", "boost"),
        ("config.language_code", "language"),
        ("config.end_tokens", "end_tokens"),
        ("finalize.tag", "tag"),
        ("audio", "audio"),
    ],
)
def test_fields_have_the_names_the_client_used(path: str, field: str) -> None:
    status = wire.status(InvalidArgument("m", field=path))
    assert from_grpc(3, "m", status.SerializeToString(), admitted=True).field == field


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"sample_rate_hertz": 7}, "sr is 7; it should be 8000 to 192000"),
        (
            {"endpointing": pb.Endpointing(trailing_silence_ms=7)},
            "endpoint_ms is 7; it should be 100 to 10000",
        ),
        ({"stream_id": "a" * 129}, "sid has 129 characters"),
        ({"phrase_boosts": [pb.PhraseBoost(phrases=["a", " "])]}, "phrases[1] has 0 characters"),
        ({"phrase_boosts": [pb.PhraseBoost(phrases=["a"] * 1001)]}, "phrases has 1001 phrases"),
        ({"phrase_boosts": [pb.PhraseBoost(phrases=["a"], boost=11)]}, "boost is 11; it should be 0 to 10"),
        ({"language_code": "tlh"}, "language must be one of en-US, de-DE, ja-JP, auto, not 'tlh'"),
        ({"model": "demo"}, "model is 'demo', which is not served; it should be "),
        ({"look_ahead_ms": 7}, "look_ahead_ms is 7; it should be 80, or unset"),
        ({"language_code": "a b"}, "language is 'a b'; it should be a BCP-47 code"),
    ],
)
def test_messages_name_fields_as_the_client_did(config: dict[str, Any], told: str) -> None:
    message = pb.RecognitionConfig(**config)
    with pytest.raises(InvalidArgument) as refused:
        wire.stream_config(message, wire.find_route(message, serving(PolyglotModel(slots=1).info)))
    status = wire.status(refused.value)
    failure = from_grpc(status.code, status.message, status.SerializeToString(), admitted=False)
    assert failure.message.startswith(told)
    assert told.split()[0] == failure.field


def test_fields_amid_a_sentence_have_the_clients_names_too() -> None:
    message = "audio begins as a WAV file, and config.encoding is FLAC; config.endpointing.other stays"
    status = wire.status(InvalidArgument(message, field="audio"))
    failure = from_grpc(status.code, status.message, status.SerializeToString(), admitted=True)
    assert (
        failure.message == "audio begins as a WAV file, and enc is FLAC; endpointing.other stays"
        and failure.field == "audio"
    )


@pytest.mark.parametrize("number", [1, 13, 14], ids=["reset by HAProxy", "reset by nginx", "of gRPC"])
def test_a_service_that_cannot_be_reached_and_one_that_was_lost(number: int) -> None:
    unreached = from_grpc(number, "failed to connect to ipv4:10.0.0.7:50051", b"", admitted=False)
    assert (unreached.code, unreached.close_code, unreached.retry_after_ms) == ("unavailable", 1013, 1000)
    lost = from_grpc(number, "recvmsg: connection reset by 10.0.0.7", b"", admitted=True)
    assert (lost.code, lost.close_code, lost.retry_after_ms) == ("unavailable", 1011, 1000)
    assert "10.0.0.7" not in unreached.message + lost.message


@pytest.mark.parametrize("number", [1, 13])
def test_a_refusal_that_a_proxy_reset_behind_its_back(number: int) -> None:
    """HAProxy resets a stream that is refused while its client still sends; the trailers came before that."""
    told = wire.status(InvalidArgument("config.sample_rate_hertz is 7", field="config.sample_rate_hertz"))
    failure = from_grpc(number, "Received RST_STREAM", told.SerializeToString(), admitted=False)
    assert (failure.code, failure.field, failure.message) == ("invalid_argument", "sr", "sr is 7")
    full = Overloaded("all streams are taken", retry_after_s=1.5)
    failure = from_grpc(number, "Received RST_STREAM", wire.status(full).SerializeToString(), admitted=False)
    assert (failure.code, failure.close_code, failure.retry_after_ms) == ("resource_exhausted", 1013, 1500)


@pytest.mark.parametrize("number", [2, 5, 6, 10, 11, 12, 15, 99])
def test_every_other_status_is_our_fault(number: int) -> None:
    failure = from_grpc(number, "", b"", admitted=True)
    assert (failure.code, failure.close_code) == ("internal", 1011)
    assert failure.message


def test_a_limit_of_the_library_is_the_clients_fault() -> None:
    assert from_grpc(8, "message larger than max", b"", admitted=True).close_code == 1008


@given(st.integers(-1, 20), st.text(), st.binary(max_size=60), st.booleans())
def test_any_status_has_a_close_code(number: int, message: str, details: bytes, admitted: bool) -> None:
    assert from_grpc(number, message, details, admitted=admitted).close_code in (1008, 1011, 1013)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            StreamTimeout("send this", facts={"silent_s": "60"}),
            "nothing was received for 60 s; send audio, or keepalive while there is none",
        ),
        (StreamTimeout("results were not read for 60 s"), "results were not read for 60 s"),
        (
            Unauthenticated("send that", facts={"api_key": "missing"}),
            'an API key is needed; send it as header \'Authorization: Bearer KEY\', or as "key":"KEY" in init',
        ),
        (
            Unauthenticated("send that", facts={"api_key": "unknown"}),
            'the API key is not known here; send it as header \'Authorization: Bearer KEY\', or as "key":"KEY" in '
            "init",
        ),
    ],
)
def test_advice_is_what_a_client_of_the_bridge_can_do(error: AsrError, told: str) -> None:
    status = wire.status(error)
    assert from_grpc(status.code, status.message, status.SerializeToString(), admitted=True).message == told


def test_reasons_of_others_mean_nothing_here() -> None:
    packed = any_pb2.Any()
    packed.Pack(
        error_details_pb2.ErrorInfo(
            reason="UNAUTHENTICATED", domain="proxy.example.com", metadata={"api_key": "missing"}
        )
    )
    status = status_pb2.Status(code=16, message="no entry", details=[packed])
    assert from_grpc(16, "no entry", status.SerializeToString(), admitted=False).message == "no entry"


def test_details_of_other_kinds_are_passed_over() -> None:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000)))
    unknown = any_pb2.Any(type_url="type.googleapis.com/other.Thing", value=b"\xff")
    status = status_pb2.Status(code=8, details=[unknown, packed])
    failure = from_grpc(8, "m", status.SerializeToString(), admitted=False)
    assert (failure.retry_after_ms, failure.close_code) == (250, 1013)
