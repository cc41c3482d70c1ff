"""OpenAI's realtime transcription: settings in both shapes, turns, deltas, and what is answered with an error."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from ws_bridge.dialect import Reply, Step
from ws_bridge.dialects.openai.door import RealtimeDoor
from ws_bridge.dialects.openai.realtime import OpenAIRealtime
from ws_bridge.handshake import read_handshake
from ws_bridge.messages import Audio, Finalize, Init, State
from ws_bridge.status import Failure, Refused
from ws_bridge.wire import to_requests

ENDPOINT, FINALIZE = pb.FINAL_REASON_ENDPOINT, pb.FINAL_REASON_FINALIZE
END, BY_SERVER = pb.FINAL_REASON_END_OF_STREAM, pb.FINAL_REASON_ENDED_BY_SERVER
SECOND = bytes(48_000)
TRANSCRIPTION = "conversation.item.input_audio_transcription"


def opened(query: str = "intent=transcription", headers: dict[str, str] | None = None) -> OpenAIRealtime:
    return RealtimeDoor().open(read_handshake(f"/v1/realtime?{query}", Headers(headers or {})))


def say(dialect: OpenAIRealtime, kind: str, **fields: Any) -> tuple[list[dict[str, Any]], list[Step]]:
    """What an event is answered with, and what of it goes to the service."""
    steps = dialect.receive(json.dumps({"type": kind, **fields}))
    told = [json.loads(step.text) for step in steps if isinstance(step, Reply)]
    return told, [step for step in steps if not isinstance(step, Reply)]


def append(dialect: OpenAIRealtime, audio: bytes = SECOND) -> list[Step]:
    told, steps = say(dialect, "input_audio_buffer.append", audio=base64.b64encode(audio).decode())
    assert not told
    return steps


def update(dialect: OpenAIRealtime, **fields: Any) -> dict[str, Any]:
    """Changes settings as clients do today; what comes back."""
    (told,), steps = say(
        dialect, "session.update", session={"type": "transcription", "audio": {"input": fields}}
    )
    assert not steps
    return told


def error(dialect: OpenAIRealtime, kind: str, **fields: Any) -> dict[str, Any]:
    (told,), steps = say(dialect, kind, event_id="mine", **fields)
    assert told["type"] == "error" and not steps
    assert told["error"]["event_id"] == "mine"
    problem: dict[str, Any] = told["error"]
    return problem


def response(
    text: str,
    audio_ms: int,
    reason: pb.FinalReason.ValueType = pb.FINAL_REASON_UNSPECIFIED,
    stability: float = 0.5,
) -> pb.RecognizeResponse:
    """An interim, or with a reason a final."""
    final = reason != pb.FINAL_REASON_UNSPECIFIED
    result = pb.RecognitionResult(text=text, is_final=final, final_reason=reason, stability=stability)
    return pb.RecognizeResponse(result=result, audio_processed_ms=audio_ms)


def told(dialect: OpenAIRealtime, *responses: pb.RecognizeResponse) -> list[dict[str, Any]]:
    """What a client that reads everything is told."""
    messages: list[str] = []
    for one in responses:
        messages += dialect.take(one)
        if not one.result.is_final:
            messages += dialect.interim(one)
    return [json.loads(text) for text in messages]


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    """Types, without what they have in common."""
    return [
        message["type"]
        .removeprefix("conversation.item.")
        .removeprefix("input_audio_")
        .removeprefix("buffer.")
        for message in messages
    ]


def transcripts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["transcript"] for message in messages if message["type"] == f"{TRANSCRIPTION}.completed"]


def config(dialect: OpenAIRealtime) -> pb.RecognitionConfig:
    init = append(dialect)[0]
    assert isinstance(init, Init)
    (request,) = to_requests(init)
    return request.config


# ------------------------------------------------------------------------------------------------------------ settings


def test_the_session_is_told_first() -> None:
    dialect = opened("intent=transcription&model=gpt-4o-transcribe")
    (reply,) = dialect.opening()
    assert isinstance(reply, Reply)
    created = json.loads(reply.text)
    assert created["type"] == "session.created" and dialect.state is State.NEW
    session = created["session"]
    assert (session["type"], session["object"]) == ("transcription", "realtime.transcription_session")
    heard = session["audio"]["input"]
    assert heard["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert heard["transcription"] == {"model": "gpt-4o-transcribe", "language": None}
    assert heard["turn_detection"] == {"type": "server_vad", "silence_duration_ms": 500}


def test_what_the_defaults_become() -> None:
    asked = config(opened())
    assert asked == pb.RecognitionConfig(
        encoding=pb.AUDIO_ENCODING_LINEAR16,
        sample_rate_hertz=24_000,
        interim_results=True,
        stream_id=asked.stream_id,
        end_tokens=True,
        chunk_ends=True,
        endpointing=pb.Endpointing(trailing_silence_ms=500),
    )


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        (["a"] * 1_001, "has 1001 phrases: there should be at most 1000"),
        (["a" * 21] * 1_000, "has 21000 characters: there should be at most 20000"),
    ],
)
def test_keywords_have_the_limits_of_the_contract(keywords: list[str], says: str) -> None:
    """A session keeps them, and each `session.updated` repeats them."""
    dialect = opened()
    session = {"audio": {"input": {"transcription": {"keywords": keywords}}}}
    problem = error(dialect, "session.update", session=session)
    assert problem["param"] == "session.audio.input.transcription.keywords" and says in problem["message"]
    most = ["a" * 20] * 1_000
    told = update(dialect, transcription={"keywords": most})
    assert told["session"]["audio"]["input"]["transcription"]["keywords"] == most


@pytest.mark.parametrize(("chars", "is_told"), [(512, True), (513, False), (1_000_000, False)])
def test_an_event_id_that_is_longer_than_ids_are_is_not_repeated(chars: int, is_told: bool) -> None:
    (told,), _ = say(opened(), "response.create", event_id="x" * chars)
    assert told["error"]["event_id"] == ("x" * chars if is_told else None)


@pytest.mark.parametrize(
    ("given_format", "encoding", "rate"),
    [
        ({"type": "audio/pcm", "rate": 24_000}, pb.AUDIO_ENCODING_LINEAR16, 24_000),
        ({"type": "audio/pcm", "rate": 16_000.0}, pb.AUDIO_ENCODING_LINEAR16, 16_000),
        ({"type": "audio/pcmu"}, pb.AUDIO_ENCODING_MULAW, 8_000),
        ({"type": "audio/pcma"}, pb.AUDIO_ENCODING_ALAW, 8_000),
    ],
)
def test_formats(given_format: dict[str, Any], encoding: int, rate: int) -> None:
    dialect = opened()
    assert (
        update(dialect, format=given_format)["session"]["audio"]["input"]["format"]["type"]
        == given_format["type"]
    )
    asked = config(dialect)
    assert (asked.encoding, asked.sample_rate_hertz) == (encoding, rate)


def test_what_an_update_leaves_out_stays() -> None:
    dialect = opened()
    update(
        dialect, transcription={"model": "mine", "language": "de", "keywords": ["zulu"], "look_ahead_ms": 80}
    )
    update(dialect, turn_detection={"type": "server_vad", "silence_duration_ms": 300, "threshold": 0.5})
    updated = update(dialect, transcription={"model": "gpt-live-transcribe", "prompt": "hm", "delay": "low"})
    assert updated["type"] == "session.updated"
    asked = config(dialect)
    assert (asked.model, asked.language_code, asked.look_ahead_ms) == ("", "de", 80)
    assert [list(group.phrases) for group in asked.phrase_boosts] == [["zulu"]]
    assert asked.endpointing.trailing_silence_ms == 300


@pytest.mark.parametrize(
    ("turns", "silence_ms", "end_tokens"),
    [
        ({"type": "server_vad", "silence_duration_ms": 20}, 100, True),
        ({"type": "server_vad", "silence_duration_ms": None}, 500, True),
        ({"type": "semantic_vad"}, 4_000, True),
        ({"type": "semantic_vad", "eagerness": "high"}, 2_000, True),
        (None, 0, False),
    ],
)
def test_turns(turns: dict[str, Any] | None, silence_ms: int, end_tokens: bool) -> None:
    dialect = opened()
    shown = update(dialect, turn_detection=turns)["session"]["audio"]["input"]["turn_detection"]
    assert (shown is None) is (turns is None)
    asked = config(dialect)
    assert (asked.endpointing.trailing_silence_ms, asked.end_tokens) == (silence_ms, end_tokens)
    assert asked.HasField("endpointing") is bool(silence_ms)


@pytest.mark.parametrize(("languages", "code"), [([], ""), (["de"], "de"), (["de", "en"], "multi")])
def test_languages(languages: list[str], code: str) -> None:
    dialect = opened()
    update(dialect, transcription={"languages": languages})
    assert config(dialect).language_code == code


def test_the_first_shape_of_sessions() -> None:
    dialect = opened(headers={"OpenAI-Beta": "realtime=v1"})
    (reply,) = dialect.opening()
    assert isinstance(reply, Reply)
    assert json.loads(reply.text)["type"] == "transcription_session.created"
    session = {
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1", "language": "en", "prompt": ""},
        "input_audio_noise_reduction": {"type": "near_field"},
        "turn_detection": None,
        "include": ["item.input_audio_transcription.logprobs"],
    }
    (updated,), _ = say(dialect, "transcription_session.update", session=session)
    assert updated["type"] == "transcription_session.updated"
    shown = updated["session"]
    assert (shown["input_audio_format"], shown["turn_detection"]) == ("g711_ulaw", None)
    assert config(dialect).encoding == pb.AUDIO_ENCODING_MULAW
    (committed, created), _ = say(dialect, "input_audio_buffer.commit")
    assert kinds([committed, created]) == ["committed", "created"]


@pytest.mark.parametrize(
    ("session", "param"),
    [
        (None, "session"),
        ({"type": "realtime"}, "session.type"),
        ({"audio": 1}, "session.audio"),
        ({"audio": {"input": []}}, "session.audio.input"),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"format": {"rate": 1e300}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"transcription": None}}}, "session.audio.input.transcription"),
        (
            {"audio": {"input": {"transcription": {"language": "x" * 36}}}},
            "session.audio.input.transcription.language",
        ),
        (
            {"audio": {"input": {"transcription": {"keywords": ["a", 1]}}}},
            "session.audio.input.transcription.keywords[1]",
        ),
        (
            {"audio": {"input": {"transcription": {"model": "\ud800"}}}},
            "session.audio.input.transcription.model",
        ),
        ({"audio": {"input": {"turn_detection": {"type": "x"}}}}, "session.audio.input.turn_detection.type"),
        (
            {"audio": {"input": {"turn_detection": {"silence_duration_ms": True}}}},
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "x"}}}},
            "session.audio.input.turn_detection.eagerness",
        ),
        ({"input_audio_format": "mp3"}, "session.input_audio_format"),
        ({"input_audio_transcription": "x"}, "session.input_audio_transcription"),
    ],
)
def test_settings_that_cannot_be_served_change_nothing(session: object, param: str) -> None:
    dialect = opened()
    before = config(opened())
    problem = error(dialect, "session.update", session=session)
    assert (problem["type"], problem["code"], problem["param"]) == (
        "invalid_request_error",
        "invalid_value",
        param,
    )
    assert problem["message"].startswith(f"{param} ")
    after = config(dialect)
    after.stream_id = before.stream_id
    assert after == before


def test_only_transcription_is_served() -> None:
    with pytest.raises(Refused) as caught:
        opened("intent=conversation")
    assert caught.value.failure.field == "intent"
    assert opened("model=gpt-realtime").state is State.NEW


@pytest.mark.parametrize(
    ("headers", "key", "protocol"),
    [
        ({"Authorization": "Bearer abc"}, "abc", None),
        ({"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.abc"}, "abc", "realtime"),
        ({"Sec-WebSocket-Protocol": "chat"}, "", None),
        ({}, "", None),
    ],
)
def test_keys_and_subprotocols(headers: dict[str, str], key: str, protocol: str | None) -> None:
    dialect = opened(headers=headers)
    assert dialect.key == key
    assert dict(dialect.headers).get("Sec-WebSocket-Protocol") == protocol
    init = append(dialect)[0]
    assert isinstance(init, Init) and init.key == key and "abc" not in repr(init).replace(init.sid, "")


# ------------------------------------------------------------------------------------------------------- what is said


def test_the_first_audio_opens_the_stream() -> None:
    dialect = opened()
    init, audio = append(dialect)
    assert isinstance(init, Init) and audio == Audio(SECOND) and dialect.state is State.OPEN
    assert append(dialect, b"\3") == [Audio(b"\3")]
    assert say(dialect, "input_audio_buffer.append", audio="") == ([], [])


def test_changed_settings_open_it_anew_with_the_next_audio() -> None:
    dialect = opened()
    append(dialect)
    update(dialect, transcription={"model": "whisper-1"})
    assert append(dialect) == [Audio(SECOND)], "another name of OpenAI's is no other model"
    update(dialect, transcription={"language": "de"})
    init, audio = append(dialect)
    assert isinstance(init, Init) and init.language == "de" and isinstance(audio, Audio)


@pytest.mark.parametrize("data", [b"\1\2", "", "x", "[]", "{}", '{"type":1}', "[" * 9_000, "9" * 9_000])
def test_what_is_no_event_is_answered(data: str | bytes) -> None:
    (reply,) = opened().receive(data)
    assert isinstance(reply, Reply)
    told = json.loads(reply.text)
    assert told["type"] == "error" and told["error"]["event_id"] is None


def test_an_events_id_is_told_as_far_as_it_can_be_sent() -> None:
    (reply,) = opened().receive('{"type":"x","event_id":"\\ud800"}')
    assert isinstance(reply, Reply) and json.loads(reply.text.encode())["error"]["event_id"] is None


@pytest.mark.parametrize("audio", [None, 1, "?", "AAA", "AA==A", "\u00e9", "A A="])
def test_audio_that_is_no_base64(audio: object) -> None:
    assert error(opened(), "input_audio_buffer.append", audio=audio)["param"] == "audio"


@pytest.mark.parametrize("kind", ["response.create", "conversation.item.create", "nonsense"])
def test_events_of_conversations_are_refused(kind: str) -> None:
    assert "a transcription session takes session.update, " in error(opened(), kind)["message"]


def test_commits_need_audio() -> None:
    dialect = opened()
    assert error(dialect, "input_audio_buffer.commit")["code"] == "input_audio_buffer_commit_empty"
    append(dialect)
    (committed, added, done), (finalize,) = say(dialect, "input_audio_buffer.commit")
    assert kinds([committed, added, done]) == ["committed", "added", "done"]
    assert finalize == Finalize(committed["item_id"]) and committed["previous_item_id"] is None
    assert added["item"]["id"] == committed["item_id"]
    assert error(dialect, "input_audio_buffer.commit")["code"] == "input_audio_buffer_commit_empty"
    append(dialect)
    (second, *_), _ = say(dialect, "input_audio_buffer.commit")
    assert second["previous_item_id"] == committed["item_id"] != second["item_id"]


# -------------------------------------------------------------------------------------------------- what is recognized


def test_turns_that_the_service_finds() -> None:
    dialect = opened()
    append(dialect)
    heard = told(
        dialect,
        response("", 160, stability=1),
        response("hello", 320),
        response("hello wor", 480),
        response("hello world", 640, ENDPOINT),
        response("", 800, stability=1),
        response("next", 960),
        response("next", 1_000, ENDPOINT),
    )
    assert kinds(heard) == [
        *("speech_started", "transcription.delta", "speech_stopped", "committed", "added", "done"),
        *("transcription.delta", "transcription.completed"),
        *("speech_started", "speech_stopped", "committed", "added", "done"),
        *("transcription.delta", "transcription.completed"),
    ]
    assert transcripts(heard) == ["hello world", "next"]
    started, first, stopped, committed, *_ = heard
    assert (started["audio_start_ms"], stopped["audio_end_ms"]) == (160, 640)
    assert (first["delta"], first["content_index"]) == ("hello", 0)
    assert len({message["item_id"] for message in (started, first, stopped, committed)}) == 1
    assert heard[7]["usage"] == {"type": "duration", "seconds": 0.64}
    assert heard[10]["previous_item_id"] == committed["item_id"]
    assert len({message["event_id"] for message in heard}) == len(heard)


def test_turns_that_the_client_commits() -> None:
    dialect = opened()
    update(dialect, turn_detection=None)
    append(dialect)
    before = told(dialect, response("one two", 160))
    (committed, *_), (finalize,) = say(dialect, "input_audio_buffer.commit")
    append(dialect)
    say(dialect, "input_audio_buffer.commit")
    after = told(
        dialect,
        response("one two three", 320),
        response("one two three", 330, FINALIZE),
        response("four", 500),
        response("", 600, FINALIZE),
    )
    assert kinds(before + after) == [
        *("transcription.delta", "transcription.delta", "transcription.delta"),
        *("transcription.completed", "transcription.completed"),
    ]
    assert transcripts(after) == ["one two three", ""]
    assert "".join(message.get("delta", "") for message in before + after) == "one two three"
    assert isinstance(finalize, Finalize) and after[2]["item_id"] == committed["item_id"] == finalize.tag


def test_a_commit_while_the_service_finds_turns_takes_the_turn_that_goes_on() -> None:
    dialect = opened()
    append(dialect)
    started, *_ = told(dialect, response("one two", 160))
    (committed, *_), _ = say(dialect, "input_audio_buffer.commit")
    assert committed["item_id"] == started["item_id"]
    heard = told(dialect, response("one two", 320, ENDPOINT), response("three", 480, FINALIZE))
    assert transcripts(heard) == ["one two three"]
    assert "committed" not in kinds(heard)


def test_what_is_cleared_is_not_told() -> None:
    dialect = opened()
    update(dialect, turn_detection=None)
    assert kinds(say(dialect, "input_audio_buffer.clear")[0]) == ["cleared"]
    append(dialect)
    (cleared,), (finalize,) = say(dialect, "input_audio_buffer.clear")
    assert cleared["type"] == "input_audio_buffer.cleared" and isinstance(finalize, Finalize)
    append(dialect)
    (committed, *_), _ = say(dialect, "input_audio_buffer.commit")
    heard = told(
        dialect,
        response("thrown away", 160),
        response("thrown away", 320, FINALIZE),
        response("kept", 480, FINALIZE),
    )
    assert transcripts(heard) == ["kept"]
    assert {message["item_id"] for message in heard} == {committed["item_id"]}


def test_nothing_said_is_no_turn() -> None:
    dialect = opened()
    append(dialect)
    assert told(dialect, response("", 160, ENDPOINT), response("", 320)) == []


@pytest.mark.parametrize(("turns", "expected"), [("server_vad", ["one", "two"]), (None, ["one two"])])
def test_a_stream_that_is_opened_anew(turns: str | None, expected: list[str]) -> None:
    """What was said before is a turn of its own where the service finds turns, else it belongs to the next commit."""
    dialect = opened()
    update(dialect, turn_detection=turns and {"type": turns})
    append(dialect)
    heard = told(dialect, response("one", 160))
    update(dialect, transcription={"language": "de"})
    append(dialect)
    heard += told(dialect, response("one", 1_000, END))
    say(dialect, "input_audio_buffer.commit")
    heard += told(dialect, response("two", 160), response("two", 320, FINALIZE))
    assert transcripts(heard) == expected
    starts = [message["audio_start_ms"] for message in heard if "audio_start_ms" in message]
    # The clock goes on.
    assert starts == ([0] if turns else [])


def test_what_was_heard_is_told_before_the_server_ends() -> None:
    dialect = opened()
    update(dialect, turn_detection=None)
    append(dialect)
    assert transcripts(told(dialect, response("half a", 160, BY_SERVER))) == ["half a"]


def test_failures_are_told_of_the_session_and_of_each_open_item() -> None:
    dialect = opened()
    append(dialect)
    (committed, *_), _ = say(dialect, "input_audio_buffer.commit")
    append(dialect)
    say(dialect, "input_audio_buffer.clear")
    ending = dialect.failed(Failure("unavailable", "gone", retry_after_ms=5))
    failed, last = (json.loads(text) for text in ending.messages)
    assert (failed["type"], failed["item_id"]) == (f"{TRANSCRIPTION}.failed", committed["item_id"])
    assert last["error"] == {
        "type": "server_error",
        "code": "service_unavailable",
        "message": "gone",
        "param": None,
        "event_id": None,
    }
    assert (ending.code, ending.reason) == (1013, "gone")


@given(st.lists(st.sampled_from(["alpha", "bravo", "charlie"]), min_size=1, max_size=8), st.data())
def test_deltas_add_up_to_the_transcript(words: list[str], data: st.DataObject) -> None:
    """Whatever interims of a growing utterance the client has got."""
    dialect = opened()
    append(dialect)
    full = " ".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(1, len(full)), max_size=6)))
    heard = told(dialect, *(response(full[:cut].rstrip(), 10) for cut in cuts), response(full, 20, ENDPOINT))
    deltas = [message["delta"] for message in heard if "delta" in message]
    assert "".join(deltas) == full == transcripts(heard)[0]
    assert all(deltas)
