"""What becomes of a recording's results: Deepgram's and OpenAI's responses, as far as a service is not needed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from websockets.datastructures import Headers

from ws_bridge.dialects.deepgram.door import DeepgramFileDoor
from ws_bridge.dialects.openai.door import TranscriptionsDoor
from ws_bridge.file_dialect import FileRequest
from ws_bridge.file_start import AudioFormat
from ws_bridge.handshake import read_handshake
from ws_bridge.status import Failure

WIDE = AudioFormat("linear16", 16_000, 1)


def deepgram(query: str = "") -> FileRequest:
    request = DeepgramFileDoor().open(read_handshake(f"/v1/listen?{query}", Headers()))
    request.learn(pb.GetServiceInfoResponse(model="demo", version="1", decoder="rnnt"))
    return request


def openai(**fields: str | list[str]) -> FileRequest:
    request = TranscriptionsDoor().open(read_handshake("/v1/audio/transcriptions", Headers()))
    request.read_form({name: [value] if isinstance(value, str) else value for name, value in fields.items()})
    return request


def final(text: str, at_ms: int, channel: int = 0, index: int = 0) -> pb.RecognizeResponse:
    result = pb.RecognitionResult(
        text=text,
        is_final=True,
        confidence=0.5,
        channel=channel,
        utterance_index=index,
        language_code="en-US",
    )
    for number, word in enumerate(text.split()):
        result.words.add(
            word=word, start_ms=at_ms + 100 * number, end_ms=at_ms + 100 * number + 80, confidence=0.5
        )
    return pb.RecognizeResponse(result=result, audio_processed_ms=at_ms + 1_000)


def answered(request: FileRequest, *responses: pb.RecognizeResponse) -> Any:
    for response in responses:
        assert not request.take(response)
    return json.loads(request.answer("the-hash").body)


def test_deepgrams_response() -> None:
    request = deepgram("language=multi&punctuate=true")
    request.init(WIDE)
    told = answered(request, final("Hello, you.", 0), final("Again.", 1_000, index=1))
    (channel,) = told["results"]["channels"]
    assert channel["detected_language"] == "en-US"
    (best,) = channel["alternatives"]
    assert (best["transcript"], best["confidence"], best["languages"]) == (
        "Hello, you. Again.",
        0.5,
        ["en-US"],
    )
    assert best["words"][1] == {
        "word": "you",
        "start": 0.1,
        "end": 0.18,
        "confidence": 0.5,
        "punctuated_word": "you.",
    }
    metadata = told["metadata"]
    assert (metadata["duration"], metadata["channels"], metadata["sha256"]) == (2.0, 1, "the-hash")
    assert metadata["model_info"][metadata["models"][0]] == {"name": "demo", "version": "1", "arch": "rnnt"}


def test_deepgrams_utterances_come_by_time() -> None:
    request = deepgram("utterances=true&multichannel=true")
    init = request.init(AudioFormat("mulaw", 8_000, 2))
    assert (init.endpoint_ms, init.end_tokens, init.interim, init.channels) == (800, False, False, 2)
    told = answered(request, final("late", 900), final("early", 100, 1), final("", 2_000, 1, 1))
    assert [(one["transcript"], one["channel"]) for one in told["results"]["utterances"]] == [
        ("early", 1),
        ("late", 0),
    ]


def test_a_recording_without_words() -> None:
    request = deepgram()
    request.init(WIDE)
    told = answered(request, final("", 0))
    assert told["results"]["channels"] == [
        {"alternatives": [{"transcript": "", "confidence": 0.0, "words": []}]}
    ]
    assert "utterances" not in told["results"]
    assert answered(openai(), final("", 0))["text"] == ""


@pytest.mark.parametrize(
    ("query", "endpoint_ms"),
    [("", None), ("utterances=true&utt_split=1.5", 1_500), ("endpointing=300", None)],
)
def test_files_are_one_utterance_unless_utterances_are_asked_for(query: str, endpoint_ms: int | None) -> None:
    assert deepgram(query).init(WIDE).endpoint_ms == endpoint_ms


def test_what_a_form_asks_for() -> None:
    request = openai(
        model="nvidia/x",
        languages=["de", "en"],
        language="fr",
        **{"keywords[]": ["zulu", "kilo"]},
        look_ahead_ms="80",
        prompt="left alone",
        temperature="0.2",
    )
    init = request.init(WIDE)
    assert (init.model, init.language, init.phrases, init.look_ahead_ms) == (
        "nvidia/x",
        "fr",
        ("zulu", "kilo"),
        80,
    )
    assert (init.interim, init.words, init.endpoint_ms) == (False, True, None)
    assert openai(model="whisper-1").init(WIDE).model == ""


def test_openais_responses() -> None:
    heard = (final("one two", 0), final("three", 2_000))
    plain = answered(openai(), *heard)
    assert plain == {
        "text": "one two three",
        "languages": [{"code": "en-US"}],
        "usage": {"type": "duration", "seconds": 3.0},
    }
    verbose = answered(openai(response_format="verbose_json"), *heard)
    assert (verbose["language"], verbose["task"]) == ("en-US", "transcribe")
    assert [(one["text"], one["start"], one["end"]) for one in verbose["segments"]] == [
        ("one two", 0.0, 0.18),
        ("three", 2.0, 2.08),
    ]


def test_events_of_a_streamed_response() -> None:
    request = openai(stream="true")
    interim = pb.RecognizeResponse(result=pb.RecognitionResult(text="one tw", stability=0.5))
    events = [event for one in (interim, interim, final("one two", 0)) for event in request.take(one)]
    assert [json.loads(event.removeprefix("data: "))["delta"] for event in events] == ["one", " two"]
    done = json.loads(request.answer("").body.removeprefix("data: "))
    assert (done["type"], done["text"]) == ("transcript.text.done", "one two")
    (error,) = request.failed(Failure("unavailable", "gone"))
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "gone"
