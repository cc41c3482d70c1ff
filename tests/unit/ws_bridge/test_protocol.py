"""The protocol without I/O: every message in every state, every bad value, and results byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asr.v1 import asr_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ws_bridge.messages import Audio, Close, Finalize, Init, KeepAlive, State
from ws_bridge.protocol import MAX_CONTROL_CHARS, MAX_INIT_CHARS, Conversation
from ws_bridge.status import Failure, Refused
from ws_bridge.wire import (
    MAX_AUDIO_BYTES,
    bytes_per_s,
    error_json,
    joins_packets,
    result_json,
    to_requests,
)

INIT = '{"op":"init","sid":"call-17","sr":16000}'


def opened(init: str = INIT) -> Conversation:
    talk = Conversation()
    talk.receive(init)
    return talk


def refusal(talk: Conversation, data: str | bytes) -> Failure:
    with pytest.raises(Refused) as caught:
        talk.receive(data)
    return caught.value.failure


def test_documented_exchange() -> None:
    talk = Conversation()
    assert talk.receive(INIT) == Init(sid="call-17", sr=16000)
    assert talk.receive(b"\0" * 640) == Audio(b"\0" * 640)
    assert talk.receive('{"op":"close","sid":"call-17"}') == Close()
    assert talk.state is State.CLOSING


def test_additions() -> None:
    talk = Conversation()
    init = (
        '{"op":"init","sid":"a","sr":8000,"enc":"mulaw",'
        '"interim":false,"words":true,"details":true,"endpoint_ms":500,"language":"de-DE",'
        '"model":"demo","look_ahead_ms":480}'
    )
    assert talk.receive(init) == Init(
        "a", 8000, "mulaw", False, True, True, 500,
        language="de-DE", end_tokens=True, model="demo", look_ahead_ms=480,
    )  # fmt: skip
    assert talk.receive('{"op":"keepalive"}') == KeepAlive()
    assert talk.receive('{"op":"finalize"}') == Finalize()
    assert talk.receive('{"op":"finalize","sid":"a","tag":"turn 1"}') == Finalize("turn 1")
    assert talk.receive('{"op":"close"}') == Close()


def test_defaults_and_unknown_fields() -> None:
    assert Conversation().receive('{"op":"init","sid":"a","lang":"en"}') == Init("a", 16000)
    assert Conversation().receive('{"op":"init","sid":"a","endpoint_ms":null}') == Init("a", 16000)


@pytest.mark.parametrize(
    ("fields", "end_tokens"),
    [
        ("", False),
        (',"endpoint_ms":500', True),
        (',"endpoint_ms":500,"end_tokens":false', False),
        (',"end_tokens":true', True),
    ],
)
def test_who_asks_for_nothing_gets_one_final(fields: str, end_tokens: bool) -> None:
    """Tokens of the model end no utterance of a client that does not know of several finals."""
    init = Conversation().receive(f'{{"op":"init","sid":"a"{fields}}}')
    assert isinstance(init, Init)
    (request,) = to_requests(init)
    assert (request.config.HasField("end_tokens"), request.config.end_tokens) == (True, end_tokens)


def test_the_language_goes_to_the_service_as_it_is() -> None:
    for value, sent in (('"de_at"', "de_at"), ('"auto"', "auto"), ('""', ""), ("null", "")):
        init = Conversation().receive(f'{{"op":"init","sid":"a","language":{value}}}')
        assert isinstance(init, Init)
        (request,) = to_requests(init)
        assert request.config.language_code == sent


def test_a_model_and_its_look_ahead_go_to_the_service_as_they_are() -> None:
    for fields, model, look_ahead_ms in (
        ('"model":"Demo","look_ahead_ms":0', "Demo", 0),
        ('"model":"","look_ahead_ms":null', "", None),
        ('"model":null,"look_ahead_ms":60000', "", 60_000),
    ):
        init = Conversation().receive(f'{{"op":"init","sid":"a",{fields}}}')
        assert isinstance(init, Init)
        (request,) = to_requests(init)
        assert request.config.model == model
        assert request.config.HasField("look_ahead_ms") is (look_ahead_ms is not None)
        assert request.config.look_ahead_ms == (look_ahead_ms or 0)


def test_what_follows_close_is_not_looked_at() -> None:
    talk = opened()
    talk.receive('{"op":"close"}')
    for data in (b"\0\0", INIT, "rubbish", '{"op":"close","sid":"other"}'):
        assert talk.receive(data) is None


@pytest.mark.parametrize("data", [b"", b"\0", b"\1\2\3"])
def test_audio_of_any_size_is_accepted(data: bytes) -> None:
    assert opened().receive(data) == Audio(data)
    assert [request.audio for request in to_requests(Audio(data))] == [data]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0\0", "binary message before init"),
        ('{"op":"close","sid":"a"}', "close before init"),
        ('{"op":"finalize"}', "finalize before init"),
        ('{"op":"keepalive"}', "keepalive before init"),
    ],
)
def test_before_init(data: str | bytes, says: str) -> None:
    failure = refusal(Conversation(), data)
    assert (failure.code, failure.close_code, failure.field) == ("failed_precondition", 1008, "op")
    assert failure.message.startswith(says)
    assert '{"op":"init"' in failure.message


def test_second_init() -> None:
    failure = refusal(opened(), INIT)
    assert (failure.code, failure.close_code) == ("failed_precondition", 1008)
    assert "one stream" in failure.message


@pytest.mark.parametrize("state", ["new", "open"])
@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("UklGRiQAAABXQVZF", "message", "audio goes in binary"),
        ("", "message", "not JSON"),
        ("{", "message", "not JSON"),
        ("[" * 4000, "message", "not JSON"),
        ("A" * (MAX_INIT_CHARS + 1), "message", f"{MAX_INIT_CHARS + 1} characters"),
        ("[1,2]", "message", "not an object"),
        ("null", "message", "not an object"),
        ('"init"', "message", "not an object"),
        ('{"sid":"a"}', "op", "op is missing"),
        ("{}", "op", "op is missing"),
        ('{"op":"start"}', "op", "'start' is unknown"),
        ('{"op":null}', "op", "null is unknown"),
        ('{"op":["init"]}', "op", "['init'] is unknown"),
        ('{"op":{"a":{"b":{"c":1}}}}', "op", "is unknown"),
    ],
)
def test_bad_text(state: str, text: str, field: str, says: str) -> None:
    failure = refusal(Conversation() if state == "new" else opened(), text)
    assert (failure.code, failure.close_code, failure.field) == ("invalid_argument", 1008, field)
    assert says in failure.message


def test_only_init_may_be_long() -> None:
    init = json.dumps({"op": "init", "sid": "a", "phrases": ["a"] * 1000})
    assert len(init) > MAX_CONTROL_CHARS
    assert Conversation().receive(init)
    assert "4097 characters" in refusal(opened(), "A" * (MAX_CONTROL_CHARS + 1)).message


@pytest.mark.parametrize("op", ["close", "finalize", "keepalive"])
@pytest.mark.parametrize("sid", ['"other"', "null", "17", '"call-17 "'])
def test_wrong_sid(op: str, sid: str) -> None:
    failure = refusal(opened(), f'{{"op":"{op}","sid":{sid}}}')
    assert (failure.code, failure.close_code, failure.field) == ("invalid_argument", 1008, "sid")
    assert "'call-17'" in failure.message


BAD_INIT = [
    ("sid", value, "1 to 128 printable ASCII")
    for value in ('""', "null", "7", "true", '["a"]', '"caf\\u00e9"', '"a\\nb"', '"' + "x" * 129 + '"')
]
BAD_INIT += [
    ("sr", value, "from 8000 to 192000")
    for value in (
        "0",
        "7",
        "-1",
        "7999",
        "192001",
        "10000000",
        '"16000"',
        "true",
        "16000.0",
        "1e999",
        "NaN",
        "null",
    )
]
BAD_INIT += [
    ("enc", value, "linear16, mulaw, alaw") for value in ('"opus"', "1", "null", '"LINEAR16"', '["alaw"]')
]
BAD_INIT += [(flag, "1", "true or false") for flag in ("interim", "words", "details", "end_tokens")]
BAD_INIT += [
    ("language", value, "at most 35 characters")
    for value in ("7", "true", '["de"]', '"\\ud800"', f'"{"x" * 36}"')
]
BAD_INIT += [
    ("model", value, "at most 512 characters")
    for value in ("7", "true", '["demo"]', '"\\ud800"', f'"{"x" * 513}"')
]
BAD_INIT += [("look_ahead_ms", value, "from 0 to 60000") for value in ("-1", "60001", "true", '"80"', "80.5")]
BAD_INIT += [
    ("endpoint_ms", value, "from 100 to 10000") for value in ("0", "99", "10001", "true", '"500"', "500.5")
]
BAD_INIT += [
    ("boost", value, "should be a number") for value in ('"2"', "true", "NaN", "1e999", "[2]", "-1e10")
]
BAD_INIT += [("phrases", value, "a list of strings") for value in ('"acme"', "7", "true", '{"a":1}')]


@pytest.mark.parametrize(("field", "value", "says"), BAD_INIT)
def test_bad_init_value(field: str, value: str, says: str) -> None:
    sid = "" if field == "sid" else '"sid":"a",'
    failure = refusal(Conversation(), f'{{"op":"init",{sid}"{field}":{value}}}')
    assert (failure.code, failure.close_code, failure.field) == ("invalid_argument", 1008, field)
    assert says in failure.message


@pytest.mark.parametrize("bad", ["7", "null", '["b"]', '"\\ud800"'])
def test_a_phrase_that_is_no_text_is_named(bad: str) -> None:
    failure = refusal(Conversation(), f'{{"op":"init","sid":"a","phrases":["acme",{bad}]}}')
    assert (failure.code, failure.field) == ("invalid_argument", "phrases[1]")


def test_phrases_go_to_the_service_as_they_are() -> None:
    init = Conversation().receive(
        json.dumps({"op": "init", "sid": "a", "phrases": ["Acme", "caf\u00e9"] * 400, "boost": 3})
    )
    assert isinstance(init, Init)
    (request,) = to_requests(init)
    (group,) = request.config.phrase_boosts
    assert list(group.phrases) == ["Acme", "caf\u00e9"] * 400
    assert group.boost == 3.0
    (request,) = to_requests(Init("a", phrases=("x",)))
    assert not request.config.phrase_boosts[0].HasField("boost")
    (request,) = to_requests(Init("a"))
    assert not request.config.phrase_boosts


def test_missing_sid() -> None:
    failure = refusal(Conversation(), '{"op":"init","sr":16000}')
    assert failure.field == "sid"
    assert "is missing" in failure.message


@pytest.mark.parametrize("tag", ["7", "null", '"' + "x" * 129 + '"', '"\\ud800"'])
def test_bad_tag(tag: str) -> None:
    failure = refusal(opened(), f'{{"op":"finalize","tag":{tag}}}')
    assert (failure.code, failure.field) == ("invalid_argument", "tag")


def test_values_are_shown_short_and_in_ascii() -> None:
    shown = refusal(Conversation(), json.dumps({"op": "\ud800 é " + "y" * 3000})).message
    assert shown.isascii()
    assert len(shown) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(
    (
        "op sid sr enc interim words details endpoint_ms tag phrases boost language end_tokens model look_ahead_ms "
        "key"
    ).split()
) | st.text(max_size=4)
likely = st.sampled_from(
    [
        "init",
        "close",
        "finalize",
        "keepalive",
        "call-17",
        16000,
        8000,
        True,
        "mulaw",
        500,
        None,
        "",
        0,
        ["zulu", ""],
        2.5,
    ]
)
objects = st.dictionaries(names, likely | json_values, max_size=6).map(json.dumps)
messages = (
    st.binary(max_size=64) | st.text(max_size=64) | json_values.map(json.dumps) | objects | st.just(INIT)
)


@settings(max_examples=400)
@given(st.lists(messages, max_size=8))
@example([INIT, '{"op":"finalize","tag":"\\udfff"}'])
@example(['{"op":"init","sid":"' + "1" * 4200 + '"}'])
def test_any_messages_are_served_or_refused_as_documented(said: list[str | bytes]) -> None:
    talk = Conversation()
    for data in said:
        try:
            message = talk.receive(data)
        except Refused as refused:
            failure = refused.failure
            assert failure.code in ("invalid_argument", "failed_precondition")
            assert failure.close_code == 1008
            assert failure.field
            answer = json.loads(error_json(failure, talk.sid))
            assert list(answer)[:4] == ["op", "sid", "code", "message"]
            error_json(failure, talk.sid).encode()
            return
        if message is None:
            assert talk.state is State.CLOSING
        else:
            for request in to_requests(message):
                assert request.SerializeToString()


@given(st.binary(max_size=3 * MAX_AUDIO_BYTES))
def test_large_packets_are_cut_and_nothing_is_lost(data: bytes) -> None:
    pieces = [request.audio for request in to_requests(Audio(data))]
    assert b"".join(pieces) == data
    assert all(len(piece) <= MAX_AUDIO_BYTES for piece in pieces)


def test_config_says_what_init_said() -> None:
    (request,) = to_requests(Init("a", 8000, "alaw", False, True, False, 700))
    assert request.config == asr_pb2.RecognitionConfig(
        encoding=asr_pb2.AUDIO_ENCODING_ALAW,
        sample_rate_hertz=8000,
        interim_results=False,
        word_times=True,
        stream_id="a",
        endpointing=asr_pb2.Endpointing(trailing_silence_ms=700),
        end_tokens=False,
        chunk_ends=True,
    )
    (request,) = to_requests(Init("a"))
    assert not request.config.HasField("endpointing")
    assert request.config.encoding == asr_pb2.AUDIO_ENCODING_LINEAR16
    assert list(to_requests(Close())) == []


@pytest.mark.parametrize(
    ("enc", "encoding", "a_second"),
    [
        ("float32", asr_pb2.AUDIO_ENCODING_FLOAT32, 64_000),
        ("flac", asr_pb2.AUDIO_ENCODING_FLAC, 0),
        ("ogg_opus", asr_pb2.AUDIO_ENCODING_OGG_OPUS, 0),
        ("webm_opus", asr_pb2.AUDIO_ENCODING_WEBM_OPUS, 0),
        ("auto", asr_pb2.AUDIO_ENCODING_AUTO, 0),
    ],
)
def test_compressed_audio_says_its_rate_itself(enc: str, encoding: Any, a_second: int) -> None:
    plain = Conversation().receive(json.dumps({"op": "init", "sid": "a", "enc": enc}))
    stated = Conversation().receive(json.dumps({"op": "init", "sid": "a", "enc": enc, "sr": 44_100}))
    assert isinstance(plain, Init) and isinstance(stated, Init)
    (first,), (second,) = to_requests(plain), to_requests(stated)
    assert first.config.encoding == encoding
    assert first.config.HasField("sample_rate_hertz") == bool(a_second)
    assert second.config.sample_rate_hertz == 44_100
    # Of compressed audio nobody can say how many bytes make a chunk.
    assert joins_packets(plain) == first.config.chunk_ends == bool(a_second)
    assert not a_second or bytes_per_s(plain) == a_second


def result(final: bool) -> asr_pb2.RecognizeResponse:
    return asr_pb2.RecognizeResponse(
        stream_id="call-17",
        result=asr_pb2.RecognitionResult(
            text='caf\u00e9 "now"',
            is_final=final,
            final_reason=asr_pb2.FINAL_REASON_FINALIZE if final else asr_pb2.FINAL_REASON_UNSPECIFIED,
            utterance_index=2,
            words=[asr_pb2.WordInfo(word="caf\u00e9", start_ms=80, end_ms=240, confidence=0.5)]
            if final
            else [],
            confidence=0.75,
        ),
        audio_processed_ms=960,
        server_time=Timestamp(seconds=1767225600, nanos=123_999_999),
    )


def test_results_byte_by_byte() -> None:
    init = Init("call-17")
    assert result_json(result(False), init) == (
        '{"op":"interim","sid":"call-17","text":"caf\u00e9 \\"now\\"","final":false,"ts":1767225600123}'
    )
    assert result_json(result(True), init) == (
        '{"op":"final","sid":"call-17","text":"caf\u00e9 \\"now\\"","final":true,"ts":1767225600123}'
    )


def test_additions_to_results_only_when_asked_for() -> None:
    wanted = Init("call-17", words=True, details=True)
    tagged = result(True)
    tagged.result.finalize_tag = "turn-1"
    extra = json.loads(result_json(tagged, wanted))
    assert extra["tag"] == "turn-1"
    assert extra["words"] == [{"word": "caf\u00e9", "start_ms": 80, "end_ms": 240, "confidence": 0.5}]
    assert (extra["utterance"], extra["audio_ms"], extra["reason"], extra["confidence"]) == (
        2,
        960,
        "finalize",
        0.75,
    )
    interim = json.loads(result_json(result(False), wanted))
    assert list(interim) == ["op", "sid", "text", "final", "ts", "utterance", "audio_ms"]


def test_a_language_only_where_it_is_known_and_asked_for() -> None:
    plain, heard = result(True), result(True)
    heard.result.language_code = "ja-JP"
    assert result_json(heard, Init("call-17")) == result_json(plain, Init("call-17"))
    for init in (Init("call-17", language="auto"), Init("call-17", details=True)):
        assert json.loads(result_json(heard, init))["language"] == "ja-JP"
        assert "language" not in json.loads(result_json(plain, init))


def test_a_final_of_the_model_says_so() -> None:
    final = result(True)
    final.result.final_reason = asr_pb2.FINAL_REASON_END_OF_UTTERANCE
    assert json.loads(result_json(final, Init("a", details=True)))["reason"] == "end_of_utterance"


def test_every_reason_of_the_contract_has_a_name() -> None:
    names = set()
    for reason in asr_pb2.FinalReason.values():
        final = result(True)
        final.result.final_reason = reason
        names.add(json.loads(result_json(final, Init("a", details=True)))["reason"])
    assert len(names) == len(asr_pb2.FinalReason.values())


def test_errors_byte_by_byte() -> None:
    assert error_json(Failure("invalid_argument", "m", field="sr"), "a") == (
        '{"op":"error","sid":"a","code":"invalid_argument","message":"m","field":"sr"}'
    )
    assert error_json(Failure("unavailable", "m", retry_after_ms=0), "") == (
        '{"op":"error","sid":"","code":"unavailable","message":"m","retry_after_ms":0}'
    )


@given(st.binary(max_size=64) | st.binary(max_size=62).map(lambda inside: b"{" + inside + b"}"))
@example(b"{}")
@example(b"{" * 640)
@example(b'{"op' * 160)
def test_pcm_is_never_refused(data: bytes) -> None:
    """Whatever bytes samples have: only what is a JSON object in full is no audio."""
    assert opened().receive(data) == Audio(data)
