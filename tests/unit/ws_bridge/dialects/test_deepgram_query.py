"""Deepgram's query: what is read of it, what is left alone, and what is refused by name."""

from __future__ import annotations

import pytest
from asr.v1 import asr_pb2 as pb
from websockets.datastructures import Headers

from ws_bridge.dialects.deepgram.query import Query, read_query
from ws_bridge.handshake import read_handshake
from ws_bridge.status import Failure, Refused
from ws_bridge.wire import to_requests

RAW = "encoding=linear16&sample_rate=16000"


def query(text: str, **headers: str) -> Query:
    return read_query(read_handshake(f"/v1/listen?{text}", Headers(headers)))


def refusal(text: str) -> Failure:
    with pytest.raises(Refused) as caught:
        query(text)
    return caught.value.failure


def config(text: str) -> pb.RecognitionConfig:
    read = query(text)
    (request,) = to_requests(read.init("id", read.enc, read.sr, read.channels, live=True))
    return request.config


def test_what_deepgrams_defaults_become() -> None:
    asked = config(RAW)
    assert asked == pb.RecognitionConfig(
        encoding=pb.AUDIO_ENCODING_LINEAR16,
        sample_rate_hertz=16_000,
        interim_results=False,
        word_times=True,
        stream_id="id",
        end_tokens=True,
        chunk_ends=True,
        automatic_punctuation=False,
        # 10 ms are Deepgram's; this is the least that the service takes.
        endpointing=pb.Endpointing(trailing_silence_ms=100),
    )


def test_everything_that_changes_what_is_recognized() -> None:
    asked = config(
        "encoding=mulaw&channels=2&multichannel=true&interim_results=true&endpointing=300&punctuate=true"
        "&keyterm=zulu&keyterm=kilo%20lima&keywords=acme:2.5&keywords=beta&language=de-DE"
    )
    assert (asked.encoding, asked.sample_rate_hertz) == (pb.AUDIO_ENCODING_MULAW, 8_000)
    assert (asked.audio_channel_count, asked.chunk_ends, asked.interim_results) == (2, False, True)
    assert asked.endpointing.trailing_silence_ms == 300
    assert not asked.HasField("automatic_punctuation")
    assert asked.language_code == "de-DE"
    assert [(list(group.phrases), round(group.boost, 2)) for group in asked.phrase_boosts] == [
        (["zulu", "kilo lima", "beta"], 0.0),
        (["acme"], 2.5),
    ]
    assert [group.HasField("boost") for group in asked.phrase_boosts] == [False, True]


@pytest.mark.parametrize("text", ["vad_events=true", "interim_results=true&utterance_end_ms=1500"])
def test_events_are_made_of_interims(text: str) -> None:
    assert config(f"{RAW}&{text}").interim_results
    assert not query(f"{RAW}&vad_events=true").interims


@pytest.mark.parametrize(("text", "silence_ms"), [("false", 1_000), ("0", 1_000), ("true", 100), ("25", 100)])
def test_finals_come_though_no_pause_ends_an_utterance(text: str, silence_ms: int) -> None:
    asked = config(f"{RAW}&endpointing={text}")
    assert asked.endpointing.trailing_silence_ms == silence_ms
    assert asked.end_tokens == (silence_ms == 100)


def test_what_is_unknown_labels_or_bills_is_left_alone() -> None:
    ignored = "model=nova-3&version=latest&tag=a&tag=b&extra=k:v&mip_opt_out=true&no_delay=true&foo=bar"
    off = "diarize=false&numerals=False&profanity_filter=&dictation=false&redact=&filler_words=true"
    assert query(f"{RAW}&{ignored}&{off}") == query(RAW)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("nova-3", ""),
        ("Nova-2-general", ""),
        ("2-general", ""),
        ("nvidia/x", "nvidia/x"),
        ("demo", "demo"),
        ("", ""),
    ],
)
def test_deepgrams_models_stand_for_the_default(name: str, model: str) -> None:
    asked = config(f"{RAW}&model={name}&look_ahead_ms=80")
    assert (asked.model, asked.look_ahead_ms) == (model, 80)


def test_smart_format_is_punctuation() -> None:
    assert query(f"{RAW}&smart_format=true").punctuate


@pytest.mark.parametrize(
    ("text", "enc", "rate"),
    [
        ("encoding=linear32&sample_rate=48000", "float32", 48_000),
        ("encoding=alaw", "alaw", 8_000),
        ("encoding=flac", "flac", 0),
        ("encoding=FLAC&sample_rate=44100", "flac", 44_100),
        ("encoding=ogg-opus", "ogg_opus", 0),
        ("encoding=opus&sample_rate=48000", "ogg_opus", 48_000),
    ],
)
def test_encodings(text: str, enc: str, rate: int) -> None:
    assert (query(text).enc, query(text).sr) == (enc, rate)


def test_a_file_says_what_it_is() -> None:
    assert query("sample_rate=8000&channels=7").enc == ""


@pytest.mark.parametrize(
    ("text", "tells"), [("language=multi", True), ("detect_language=true", True), ("", False)]
)
def test_whether_the_language_is_told(text: str, tells: bool) -> None:
    assert query(f"{RAW}&{text}").tells_language is tells


@pytest.mark.parametrize(
    ("text", "field", "right"),
    [
        (
            "encoding=speex&sample_rate=16000",
            "encoding",
            "mulaw, alaw, flac, opus, ogg-opus, or left",
        ),
        ("encoding=linear16", "sample_rate", "sample_rate=16000"),
        ("encoding=linear16&sample_rate=7999", "sample_rate", "8000 to 192000"),
        ("encoding=linear16&sample_rate=1e4", "sample_rate", "whole number"),
        (f"{RAW}&channels=2", "channels", "multichannel=true"),
        (f"{RAW}&channels=3&multichannel=true", "channels", "from 1 to 2"),
        (f"{RAW}&punctuate=yes", "punctuate", "true or false"),
        (f"{RAW}&endpointing=-1", "endpointing", "or false"),
        (f"{RAW}&endpointing=10001", "endpointing", "from 0 to 10000"),
        (f"{RAW}&utterance_end_ms=1000", "utterance_end_ms", "interim_results=true"),
        (f"{RAW}&interim_results=true&utterance_end_ms=99", "utterance_end_ms", "from 100 to 60000"),
        (f"{RAW}&keywords=a:-1", "keywords", "from 0 to 10"),
        (f"{RAW}&keywords=a:nan", "keywords", "from 0 to 10"),
        (f"{RAW}&keywords=:2", "keywords", "WORD:BOOST"),
        (f"{RAW}&language={'x' * 36}", "language", "BCP-47"),
        (f"{RAW}&diarize=true", "diarize", "leave it out, or set it to false"),
        (f"{RAW}&redact=pci", "redact", "leave it out"),
        (f"{RAW}&replace=a:b", "replace", "leave it out"),
        (f"{RAW}&callback=https://example.com", "callback", "sent to the client itself"),
        (f"{RAW}&numerals=true", "numerals", "as the model writes them"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(text: str, field: str, right: str) -> None:
    failure = refusal(text)
    assert (failure.code, failure.field, failure.http_status) == ("invalid_argument", field, 400)
    assert failure.message.startswith(f"{field} ") and right in failure.message


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, ""),
        ({"Authorization": "Token abc"}, "abc"),
        ({"Authorization": "token  abc "}, "abc"),
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "Basic abc"}, ""),
        ({"Sec-WebSocket-Protocol": "token, abc"}, "abc"),
        ({"Sec-WebSocket-Protocol": "bearer,abc"}, "abc"),
        ({"Sec-WebSocket-Protocol": "chat, abc"}, ""),
        ({"Sec-WebSocket-Protocol": "token"}, ""),
    ],
)
def test_where_a_key_may_be(headers: dict[str, str], key: str) -> None:
    read = read_query(read_handshake(f"/v1/listen?{RAW}", Headers(headers)))
    assert read.key == key
    assert "abc" not in repr(read)
