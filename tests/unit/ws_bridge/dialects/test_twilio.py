"""Twilio's Media Streams: what its events mean, and what parameters ask for."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb

from ws_bridge.dialects.twilio.stream import TwilioStream
from ws_bridge.messages import Audio, Close, Init, State
from ws_bridge.status import Failure, Refused


def start(media: dict[str, Any] | None = None, **parameters: str) -> str:
    told = {"callSid": "CA1", "streamSid": "MZ1", "mediaFormat": media or {}, "customParameters": parameters}
    return json.dumps({"event": "start", "start": told, "streamSid": "MZ1"})


def media(audio: bytes, track: str = "inbound") -> str:
    return json.dumps(
        {"event": "media", "media": {"track": track, "payload": base64.b64encode(audio).decode()}}
    )


def opened(media: dict[str, Any] | None = None, **parameters: str) -> tuple[TwilioStream, Init]:
    dialect = TwilioStream()
    (init,) = dialect.receive(start(media, **parameters))
    assert isinstance(init, Init) and dialect.state is State.OPEN
    return dialect, init


def test_events() -> None:
    dialect, _ = opened()
    assert dialect.receive(media(b"\1")) == (Audio(b"\1"),)
    assert dialect.receive(media(b"\1", "outbound")) == dialect.receive(media(b"")) == ()
    for event in ("mark", "dtmf", "whatever", None):
        assert dialect.receive(json.dumps({"event": event})) == ()
    assert dialect.receive('{"event":"stop"}') == (Close(),)
    assert dialect.left() == dialect.receive(media(b"\1")) == ()


def test_the_call_goes_with_everything_that_is_told() -> None:
    dialect, _ = opened(customer="42", key="secret")
    final = pb.RecognizeResponse(result=pb.RecognitionResult(text="hello", is_final=True))
    (text,) = dialect.take(final)
    told = json.loads(text)
    assert {name: told[name] for name in ("op", "sid", "text", "stream", "parameters")} == {
        "op": "final",
        "sid": "CA1",
        "text": "hello",
        "stream": "MZ1",
        "parameters": {"customer": "42"},
    }
    assert json.loads(dialect.done().messages[0])["op"] == "end"
    error = json.loads(dialect.failed(Failure("unavailable", "gone", retry_after_ms=5)).messages[0])
    assert (error["op"], error["stream"], error["retry_after_ms"]) == ("error", "MZ1", 5)


def test_what_is_no_character_can_be_told_all_the_same() -> None:
    dialect, _ = opened(customer="\ud800")
    (text,) = dialect.done().messages
    assert json.loads(text.encode())["parameters"] == {"customer": "\ud800"}


def test_what_a_call_asks_for_by_default() -> None:
    _, init = opened()
    assert init == Init("CA1", 8_000, "mulaw", interim=False, endpoint_ms=800, end_tokens=True)


def test_what_parameters_ask_for() -> None:
    media_format = {"encoding": "audio/x-l16", "sampleRate": 16_000, "channels": 1}
    dialect, init = opened(
        media_format,
        track="outbound",
        interim="true",
        words="TRUE",
        end_tokens="false",
        endpoint_ms="300",
        gap_ms="500",
        look_ahead_ms="80",
        boost="2.5",
        phrases="zulu, kilo lima,,",
        language="de-DE",
        model="mine",
        key="k",
        sid="not mine to choose",
        sr="not either",
    )
    assert init == Init(
        "CA1",
        16_000,
        "linear16",
        interim=True,
        words=True,
        endpoint_ms=300,
        end_tokens=False,
        gap_ms=500,
        look_ahead_ms=80,
        boost=2.5,
        phrases=("zulu", "kilo lima"),
        language="de-DE",
        model="mine",
        key="k",
    )
    assert dialect.receive(media(b"\1", "outbound")) == (Audio(b"\1"),)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (start(endpoint_ms="99"), "endpoint_ms"),
        (start(interim="maybe"), "interim"),
        (start(track="both_tracks"), "track"),
        (start({"encoding": "audio/opus"}), "start.mediaFormat.encoding"),
        (start({"encoding": []}), "start.mediaFormat.encoding"),
        (start({"encoding": {}}), "start.mediaFormat.encoding"),
        (start({"encoding": None}), "start.mediaFormat.encoding"),
        (start({"channels": 2}), "start.mediaFormat.channels"),
        (start({"sampleRate": "8000"}), "sr"),
        ('{"event":"start"}', "start"),
        ('{"event":"start","start":{}}', "sid"),
        ('{"event":"start","start":{"callSid":"CA1","customParameters":[1]}}', "start.customParameters"),
        ('{"event":"media"}', "event"),
        ('{"event":"stop"}', "event"),
        ("[]", "message"),
        ("x", "message"),
    ],
)
def test_what_cannot_be_served(message: str, field: str) -> None:
    with pytest.raises(Refused) as caught:
        TwilioStream().receive(message)
    assert caught.value.failure.field == field


@pytest.mark.parametrize("where", ["customParameters", "streamSid"])
def test_what_comes_back_with_each_result_is_bounded(where: str) -> None:
    def said(chars: int) -> str:
        message = json.loads(start(customer="42"))
        if where == "streamSid":
            message["streamSid"] = "x" * chars
        else:
            message["start"]["customParameters"]["customer"] = "x" * chars
        return json.dumps(message)

    assert isinstance(TwilioStream().receive(said(60_000))[0], Init)
    dialect = TwilioStream()
    with pytest.raises(Refused) as caught:
        dialect.receive(said(70_000))
    assert caught.value.failure.field == "start.customParameters"
    (error,) = dialect.failed(caught.value.failure).messages
    assert "at most 65536" in error and len(error) < 1_000
