"""Deepgram's live protocol: what messages mean, and what results, pauses and ends become."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from ws_bridge.dialect import Reply
from ws_bridge.dialects.deepgram.door import DeepgramDoor
from ws_bridge.dialects.deepgram.live import DeepgramLive
from ws_bridge.handshake import read_handshake
from ws_bridge.messages import Audio, Close, Finalize, Init, KeepAlive, State
from ws_bridge.status import Failure, Refused

RAW = "encoding=linear16&sample_rate=16000"
CLOSE = '{"type":"CloseStream"}'


def talk(text: str = RAW, *, opened: bool = True) -> DeepgramLive:
    dialect = DeepgramDoor().open(read_handshake(f"/v1/listen?{text}", Headers()))
    dialect.learn(pb.GetServiceInfoResponse(model="demo", version="1.2", decoder="rnnt"))
    if opened:
        (init,) = dialect.opening()
        assert isinstance(init, Init)
    return dialect


def wav(
    encoding: int = 1, bits: int = 16, channels: int = 1, rate: int = 8_000, before: bytes = b""
) -> bytes:
    fmt = struct.pack("<HHIIHH", encoding, channels, rate, 0, 0, bits)
    chunks = before + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", 4)
    return b"RIFF" + struct.pack("<I", len(chunks) + 8) + b"WAVE" + chunks + b"\1\2\3\4"


def response(
    text: str,
    audio_ms: int,
    *words: tuple[str, int, int],
    reason: pb.FinalReason.ValueType = pb.FINAL_REASON_UNSPECIFIED,
    channel: int = 0,
) -> pb.RecognizeResponse:
    """An interim, or with a reason a final."""
    final = reason != pb.FINAL_REASON_UNSPECIFIED
    result = pb.RecognitionResult(
        text=text, is_final=final, final_reason=reason, confidence=0.75, channel=channel, language_code="en"
    )
    for word, start, end in words:
        result.words.add(word=word, start_ms=start, end_ms=end, confidence=0.5)
    return pb.RecognizeResponse(result=result, audio_processed_ms=audio_ms)


def told(dialect: DeepgramLive, *responses: pb.RecognizeResponse) -> list[dict[str, Any]]:
    """What a client that reads everything is told."""
    messages: list[str] = []
    for one in responses:
        messages += dialect.take(one)
        if not one.result.is_final:
            messages += dialect.interim(one)
    return [json.loads(text) for text in messages]


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


ENDPOINT, FINALIZE = pb.FINAL_REASON_ENDPOINT, pb.FINAL_REASON_FINALIZE


def test_messages() -> None:
    dialect = talk()
    assert dialect.state is State.OPEN
    assert dialect.receive(b"\1\2") == (Audio(b"\1\2"),)
    assert dialect.receive('{"type":"KeepAlive"}') == (KeepAlive(),)
    assert dialect.receive('{"type":"Finalize","channel":0}') == (Finalize(),)
    assert dialect.receive(CLOSE) == (Close(),)
    assert dialect.state is State.CLOSING
    assert dialect.receive(b"\1") == dialect.receive("whatever") == ()


def test_a_message_without_bytes_closes() -> None:
    dialect = talk()
    assert dialect.receive(b"") == (Close(),)
    assert dialect.state is State.CLOSING


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"type":7}', '{"type":"X"}', "[" * 5_000, "9" * 5_000]
)
def test_text_that_says_nothing_is_answered_and_the_stream_goes_on(text: str) -> None:
    dialect = talk()
    (reply,) = dialect.receive(text)
    assert isinstance(reply, Reply)
    error = json.loads(reply.text)
    assert (error["type"], error["variant"]) == ("Error", "SchemaError")
    assert "KeepAlive, Finalize, CloseStream" in error["description"]
    assert text.startswith(error.get("message", "")) and len(error.get("message", "")) <= 200
    assert dialect.receive(b"\1") == (Audio(b"\1"),)


def test_what_a_stream_was_opened_with_stays() -> None:
    (reply,) = talk().receive('{"type":"Configure","keyterms":["a"]}')
    assert isinstance(reply, Reply) and json.loads(reply.text)["type"] == "ConfigureFailure"


def test_one_of_two_channels_cannot_be_finalized() -> None:
    dialect = talk(f"{RAW}&channels=2&multichannel=true")
    assert dialect.receive('{"type":"Finalize"}') == (Finalize(),)
    (reply,) = dialect.receive('{"type":"Finalize","channel":1}')
    assert isinstance(reply, Reply)


@given(st.integers(1, 60), st.sampled_from([b"", b"LIST\x05\0\0\0abcde\0"]))
def test_a_wav_file_opens_the_stream_with_what_its_header_says(size: int, before: bytes) -> None:
    data, dialect = wav(7, 8, 2, 8_000, before), talk("multichannel=true", opened=False)
    assert dialect.opening() == ()
    steps: list[Any] = []
    for at in range(0, len(data), size):
        steps += dialect.receive(data[at : at + size])
    init = steps[0]
    assert isinstance(init, Init) and dialect.state is State.OPEN
    assert (init.enc, init.sr, init.channels) == ("mulaw", 8_000, 2)
    assert b"".join(step.data for step in steps[1:]) == data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"ID3", "encoding=linear16"),
        (b"RIFFxxxxAVI ", "encoding=linear16"),
        (wav(1, 24), "16-bit PCM, mu-law or A-law"),
        (wav(channels=2), "multichannel=true"),
        (b"fLaC" + bytes(16) + b"\2\0", "multichannel=true"),
        (b"OggS" + bytes(23) + b"\1vorbis", "Opus in Ogg"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "does not say what its audio is"),
        (b"RIFF\0\0\0\0WAVELIST" + struct.pack("<I", 70_000), "longer than"),
    ],
)
def test_audio_that_says_nothing_of_itself(data: bytes, says: str) -> None:
    dialect = talk("", opened=False)
    with pytest.raises(Refused) as caught:
        dialect.receive(data)
    ending = dialect.failed(caught.value.failure)
    assert ending.code == 1008
    assert ending.reason.startswith("DATA-0000: audio ") and says in ending.reason


def test_control_before_a_files_start_is_for_nothing_and_a_close_has_its_end() -> None:
    dialect = talk("", opened=False)
    assert dialect.receive('{"type":"KeepAlive"}') == dialect.receive('{"type":"Finalize"}') == ()
    init, close = dialect.receive(CLOSE)
    assert isinstance(init, Init) and close == Close()
    assert json.loads(dialect.done().messages[0])["duration"] == 0


def test_a_stream_of_results() -> None:
    dialect = talk(f"{RAW}&interim_results=true&vad_events=true&utterance_end_ms=1000&punctuate=true")
    messages = told(
        dialect,
        response("", 160),
        response("hello", 320),
        response("Hello, wor", 480),
        response("Hello, World.", 1_200, ("Hello,", 200, 400), ("World.", 420, 700), reason=ENDPOINT),
        response("", 1_600),
        response("", 1_760),
        response("", 1_920),
        response("next", 2_080),
        response("next", 2_100, ("next", 2_000, 2_090), reason=FINALIZE),
        response("", 2_100, reason=pb.FINAL_REASON_END_OF_STREAM),
    )
    assert kinds(messages) == [
        *("SpeechStarted", "Results", "Results", "Results", "UtteranceEnd"),
        *("SpeechStarted", "Results", "Results", "Results"),
    ]
    started, first, _, final, end, again, _, finalized, last = messages
    assert started == {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.16}
    model = {"name": "demo", "version": "1.2", "arch": "rnnt"}
    uuid = first["metadata"]["model_uuid"]
    assert first == {
        "type": "Results",
        "channel_index": [0, 1],
        "duration": 0.32,
        "start": 0.0,
        "is_final": False,
        "speech_final": False,
        "channel": {"alternatives": [{"transcript": "hello", "confidence": 0.75, "words": []}]},
        "metadata": {"request_id": dialect.sid, "model_info": model, "model_uuid": uuid},
    }
    assert (final["is_final"], final["speech_final"], final["from_finalize"]) == (True, True, False)
    assert (final["start"], final["duration"]) == (0.0, 1.2)
    assert final["channel"]["alternatives"][0]["words"] == [
        {"word": "hello", "start": 0.2, "end": 0.4, "confidence": 0.5, "punctuated_word": "Hello,"},
        {"word": "world", "start": 0.42, "end": 0.7, "confidence": 0.5, "punctuated_word": "World."},
    ]
    # At 1.76 s, a second after the word's end.
    assert end == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 0.7}
    assert again["timestamp"] == 1.92
    assert finalized["from_finalize"] and finalized["start"] == 1.2
    assert last["channel"]["alternatives"][0]["transcript"] == "" and last["is_final"]


def test_without_interims_there_are_events_and_finals_alone() -> None:
    dialect = talk(f"{RAW}&vad_events=true")
    heard = told(dialect, response("a", 160), response("a", 320, ("a", 0, 90), reason=ENDPOINT))
    assert kinds(heard) == ["SpeechStarted", "Results"] and heard[1]["is_final"]
    assert "punctuated_word" not in heard[1]["channel"]["alternatives"][0]["words"][0]


def test_events_are_told_though_interims_give_way() -> None:
    dialect = talk(f"{RAW}&interim_results=true&utterance_end_ms=1000&vad_events=true")
    heard = [response("a", 500, ("a", 100, 200), reason=ENDPOINT), response("", 1_300), response("b", 1_400)]
    messages = [json.loads(text) for one in heard for text in dialect.take(one)]
    assert kinds(messages) == ["SpeechStarted", "Results", "UtteranceEnd", "SpeechStarted"]


def test_a_final_whose_interims_were_left_out_starts_speech_too() -> None:
    heard = told(talk(f"{RAW}&vad_events=true"), response("a", 320, ("a", 0, 90), reason=ENDPOINT))
    assert kinds(heard) == ["SpeechStarted", "Results"]


def test_words_before_the_pause_is_long_enough_are_no_utterances_end() -> None:
    dialect = talk(f"{RAW}&interim_results=true&utterance_end_ms=1000")
    heard = told(
        dialect,
        response("a", 500, ("a", 100, 200), reason=ENDPOINT),
        response("b", 1_100),
        response("b", 1_300),
        response("b", 1_900, ("b", 1_000, 1_100), reason=ENDPOINT),
        response("", 2_100),
    )
    ends = [message["last_word_end"] for message in heard if message["type"] == "UtteranceEnd"]
    assert ends == [1.1]


@pytest.mark.parametrize(
    ("query", "audio_ms", "word_end_ms", "speech_final"),
    [
        ("", 1_000, 900, True),
        # Ended by its length: someone is still speaking.
        ("&endpointing=300", 30_500, 30_450, False),
        ("&endpointing=300", 30_500, 30_100, True),
        ("&endpointing=false", 2_000, 900, False),
    ],
)
def test_which_finals_end_speech(query: str, audio_ms: int, word_end_ms: int, speech_final: bool) -> None:
    final = response("a", audio_ms, ("a", 0, 100), ("b", 110, word_end_ms), reason=ENDPOINT)
    (message,) = told(talk(RAW + query), final)
    assert (message["is_final"], message["speech_final"]) == (True, speech_final)


def test_channels_are_told_apart() -> None:
    dialect = talk(f"{RAW}&channels=2&multichannel=true&interim_results=true")
    heard = told(
        dialect,
        response("a", 500, ("a", 100, 200), reason=ENDPOINT, channel=0),
        response("b", 600, channel=1),
    )
    assert [(one["channel_index"], one["start"], one["duration"]) for one in heard] == [
        ([0, 2], 0.0, 0.5),
        ([1, 2], 0.0, 0.6),
    ]


def test_the_language_that_was_heard() -> None:
    final = response("a", 320, ("a", 0, 90), reason=ENDPOINT)
    assert told(talk(f"{RAW}&language=multi"), final)[0]["channel"]["alternatives"][0]["languages"] == ["en"]
    assert "languages" not in told(talk(), final)[0]["channel"]["alternatives"][0]


def test_metadata_ends_the_stream() -> None:
    dialect = talk()
    dialect.receive(b"\1\2")
    dialect.receive(b"\3")
    told(dialect, response("a", 320, ("a", 0, 90), reason=ENDPOINT))
    ending = dialect.done()
    metadata = json.loads(ending.messages[0])
    assert (ending.code, ending.reason) == (1000, "")
    assert (metadata["request_id"], metadata["duration"], metadata["channels"]) == (dialect.sid, 0.32, 1)
    assert metadata["sha256"] == hashlib.sha256(b"\1\2\3").hexdigest()
    assert metadata["model_info"][metadata["models"][0]]["name"] == "demo"
    assert metadata["created"].endswith("Z")


@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        (Failure("invalid_argument", "keyterm no", "keyterm"), 1008, "keyterm no"),
        (Failure("invalid_argument", "audio no", "audio"), 1008, "DATA-0000: audio no"),
        (Failure("deadline_exceeded", "nothing"), 1011, "NET-0001: nothing"),
        (Failure("unavailable", "lost", lost=True), 1011, "NET-0000: lost"),
        (Failure("resource_exhausted", "full", retry_after_ms=5), 1011, "NET-0000: full"),
        (Failure("internal", "bug"), 1011, "NET-0000: bug"),
    ],
)
def test_failures_close_as_deepgrams_do(failure: Failure, code: int, reason: str) -> None:
    ending = talk().failed(failure)
    assert (ending.code, ending.reason) == (code, reason)
    error = json.loads(ending.messages[0])
    assert (error["type"], error["description"]) == ("Error", failure.message)


def test_refused_handshakes_are_told_in_body_and_headers() -> None:
    answer = DeepgramDoor().refuse(Failure("unauthenticated", "no kéy", retry_after_ms=None))
    assert answer.status == 401
    body, headers = json.loads(answer.body), dict(answer.headers)
    assert body["err_code"] == "INVALID_AUTH" and body["err_msg"] == "no kéy"
    assert headers == {"dg-error": "no k?y", "dg-request-id": body["request_id"]}


@pytest.mark.parametrize(("offered", "got"), [("token, abc", "token"), ("chat, abc", None), (None, None)])
def test_the_subprotocol_that_carried_the_key_is_the_one_agreed_on(
    offered: str | None, got: str | None
) -> None:
    headers = Headers({"Sec-WebSocket-Protocol": offered} if offered else {})
    dialect = DeepgramDoor().open(read_handshake(f"/v1/listen?{RAW}", headers))
    assert dict(dialect.headers).get("Sec-WebSocket-Protocol") == got
    assert dict(dialect.headers)["dg-request-id"] == dialect.sid


def test_who_keeps_a_stream_alive_that_has_not_begun_is_waited_for() -> None:
    dialect = talk("", opened=False)
    for message, still_there in (('{"type":"KeepAlive"}', True), ("x", False), (b"RI", False)):
        dialect.receive(message)
        assert (dialect.state, dialect.still_there) == (State.NEW, still_there), message
    dialect.receive('{"type":"KeepAlive"}')
    dialect.receive(wav()[2:])
    assert (dialect.state, dialect.still_there) == (State.OPEN, False)
