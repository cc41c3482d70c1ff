"""Languages and ends of utterances, as clients of each protocol ask for them and are told of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
from asr.v1 import asr_pb2 as pb

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from asr_service.model.null import NullModel
from tests.support import polyglot, riva, rpc
from tests.support.audio import RATE, silence
from tests.support.bridge import CLOSE, Bridge, talk
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment
from tests.support.three_doors import Doors, Said, connected, said, serving

FRAME_S = 0.08


def chatter(frames: int, seed: int) -> bytes:
    """Noise that is as loud as it likes in each frame and never silent: words without a pause."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.uniform(0.05, 0.5, frames), round(FRAME_S * RATE))
    return (rng.uniform(-1, 1, loud.size) * loud * 32767).astype("<i2").tobytes()


SPEECH = chatter(20, seed=3) + silence(2 * FRAME_S)
"""One utterance with the silence after which the model names its language, and less than ends it."""
TURNS = 3
CONVERSATION = b"".join(chatter(8, seed) + silence(6 * FRAME_S) for seed in range(TURNS))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[AsrService, Bridge]]:
    """A service whose model takes languages and ends utterances, and its bridge."""
    with serving(FAULT="languages", ASR_MAX_STREAMS=32) as both:
        yield both


@pytest.fixture
async def doors(servers: tuple[AsrService, Bridge]) -> AsyncIterator[Doors]:
    """Clients of `servers`."""
    async with connected(*servers) as clients:
        yield clients


def translated(bare: str, pieces: tuple[str, ...], prompt: int) -> str:
    """A text of the null model as the model tells it that has this prompt."""
    words = [piece[1:] for piece in pieces[1:]]
    return " ".join(words[(words.index(word) + prompt) % len(words)] for word in bare.split())


async def test_each_stream_is_heard_in_its_language(doors: Doors, stub: rpc.Stub) -> None:
    """All at once, over every protocol: neighbours in a batch change nothing."""
    bare = await rpc.transcribe(stub, SPEECH)
    assert len(bare.split()) > 10
    asked = {**dict(polyglot.PROMPTS), "": 101, "DE_de": 9, "en": 0, "multi": 101}
    named = {"DE_de": "de-DE", "en": "en-US"}
    streams = [(code, name, door) for code in asked for name, door in doors.all.items()]
    heard = await asyncio.gather(*(door(SPEECH, code) for code, _, door in streams))
    pieces = NullModel(slots=1).info.pieces
    texts = set()
    for (code, name, _), finals in zip(streams, heard, strict=True):
        expected = translated(bare, pieces, asked[code])
        language = named.get(code, code) if asked[code] != 101 else polyglot.FOUND
        assert finals == [Said(expected, language)], (code, name)
        texts.add(expected)
    assert len(texts) == 4


async def test_the_language_that_was_named_is_told_before_the_model_does(doors: Doors) -> None:
    for code, told in (("de-DE", "de-DE"), ("auto", "")):
        responses = await rpc.talk(doors.stub, [rpc.config(language_code=code), rpc.audio(SPEECH)])
        assert responses[0].result.language_code == told
        assert responses[-1].result.language_code == (told or polyglot.FOUND)


async def test_a_client_of_the_documented_protocol_alone_sees_nothing_new(doors: Doors) -> None:
    heard = await talk(doors.bridge, ['{"op":"init","sid":"call-17","sr":16000}', CONVERSATION, CLOSE])
    assert heard.code == 1000
    assert all(list(message) == ["op", "sid", "text", "final", "ts"] for message in heard.messages)
    (final,) = heard.of("final")
    whole = await rpc.talk(doors.stub, [rpc.config(end_tokens=False), rpc.audio(CONVERSATION)])
    assert final["text"] == rpc.text(whole)


@pytest.mark.parametrize("code", ["tlh", "fr-FR"])
async def test_an_unknown_language_is_refused_with_the_list(doors: Doors, code: str) -> None:
    listed = "must be one of en-US, de-DE, ja-JP, auto, not"
    opening = riva.opening(language_code=code)
    errors = [
        await rpc.failure(doors.stub, [rpc.config(language_code=code)]),
        await rpc.told(lambda: riva.talk(doors.riva, [opening, riva.audio(bytes(640))])),
        await rpc.told(lambda: doors.riva.Recognize(upload(language_code=code))),
    ]
    for error in errors:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert rpc.bad_fields(error) == ["config.language_code"]
        assert error.details() == f"config.language_code {listed} {code!r}"
    heard = await talk(doors.bridge, [json.dumps({"op": "init", "sid": "a", "language": code})])
    assert (heard.code, heard.error["code"], heard.error["field"]) == (1008, "invalid_argument", "language")
    assert heard.error["message"] == f"language {listed} {code!r}"


def upload(pcm: bytes = bytes(640), **fields: object) -> riva.rasr.RecognizeRequest:
    """A whole recording for Riva's `Recognize`."""
    return riva.rasr.RecognizeRequest(config=riva.recognition(**fields), audio=pcm)


async def test_the_model_ends_utterances_itself(doors: Doors) -> None:
    """Its tokens make finals, without endpointing; where the client wants none, the text is one, and as long."""
    responses = await rpc.talk(doors.stub, [rpc.config(language_code="de-DE"), rpc.audio(CONVERSATION)])
    *turns, last = rpc.finals(responses)
    assert [final.final_reason for final in turns] == [pb.FINAL_REASON_END_OF_UTTERANCE] * TURNS
    assert [final.utterance_index for final in turns] == list(range(TURNS))
    assert all(len(final.text.split()) >= 6 for final in turns)
    assert (last.final_reason, last.text) == (pb.FINAL_REASON_END_OF_STREAM, "")
    expected = [Said(final.text, "de-DE") for final in turns]
    for name, door in doors.all.items():
        assert await door(CONVERSATION, "de-DE") == expected, name
    uploaded = await doors.riva.Recognize(upload(CONVERSATION, language_code="de-DE"))
    assert [said(result) for result in uploaded.results] == expected

    opening = rpc.config(language_code="de-DE", end_tokens=False)
    (whole,) = rpc.finals(await rpc.talk(doors.stub, [opening, rpc.audio(CONVERSATION)]))
    assert whole.text == " ".join(final.text for final in turns)
    assert "<" not in whole.text


async def test_ends_over_websocket_as_asked_for(doors: Doors) -> None:
    """Without a word about it, with `endpoint_ms` and without the tokens, and with the tokens alone."""
    for fields, reasons in (
        ({}, ["end_of_stream"]),
        ({"endpoint_ms": 10_000}, ["end_of_utterance"] * TURNS + ["end_of_stream"]),
        ({"endpoint_ms": 10_000, "end_tokens": False}, ["end_of_stream"]),
        ({"end_tokens": True}, ["end_of_utterance"] * TURNS + ["end_of_stream"]),
    ):
        init = {"op": "init", "sid": "call-17", "details": True, **fields}
        heard = await talk(doors.bridge, [json.dumps(init), CONVERSATION, CLOSE])
        assert [final["reason"] for final in heard.of("final")] == reasons


async def test_what_is_served_is_told(doors: Doors, stub: rpc.Stub) -> None:
    told = await doors.stub.GetServiceInfo(pb.GetServiceInfoRequest())
    assert (tuple(told.languages), told.takes_language) == (polyglot.LANGUAGES, True)
    assert told.default_language_code == "auto"
    plain = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
    assert (list(plain.languages), plain.takes_language, plain.default_language_code) == ([], False, "")
    models = await doors.riva.GetRivaSpeechRecognitionConfig(riva.rasr.RivaSpeechRecognitionConfigRequest())
    assert {model.parameters["language_code"] for model in models.model_config} == {"en-US,de-DE,ja-JP"}


async def test_a_model_without_languages_takes_any(stub: rpc.Stub) -> None:
    """It recognizes the same whatever is named, which is then told as the client's word."""
    bare = await rpc.talk(stub, [rpc.config(), rpc.audio(SPEECH)])
    named = await rpc.talk(stub, [rpc.config(language_code="DE_at"), rpc.audio(SPEECH)])
    assert rpc.text(named) == rpc.text(bare)
    assert {response.result.language_code for response in bare} == {""}
    assert {response.result.language_code for response in named} == {"de-AT"}


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wav") / "speech.wav"
    soundfile.write(path, np.frombuffer(SPEECH, "<i2"), RATE)
    return path


@pytest.mark.parametrize("module", ["grpc_client_wav", "ws_client_wav", "mic", "mic over WebSocket"])
def test_the_command_line_clients_ask_for_a_language_and_show_it(
    servers: tuple[AsrService, Bridge], wav: Path, module: str
) -> None:
    service, bridge = servers
    arguments: dict[str, list[object]] = {
        "grpc_client_wav": [wav, "--target", service.target, "--fast"],
        "ws_client_wav": [wav, bridge.url, "--fast"],
        "mic": ["-", "--to", service.target],
        "mic over WebSocket": ["-", "--to", bridge.url],
    }
    texts = {}
    for code in ("ja-JP", "de-DE", "tlh"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                f"clients.{module.partition(' ')[0]}",
                *map(str, arguments[module]),
                "--language",
                code,
            ],
            cwd=ROOT,
            env=clean_environment(),
            input=SPEECH,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if code == "tlh":
            assert done.returncode == 1
            assert b"en-US, de-DE, ja-JP" in done.stderr
            continue
        assert done.returncode == 0, done.stderr.decode()
        finals = [line for line in done.stdout.decode().splitlines() if "  [" in line and line[0] != " "]
        texts[code], _, note = finals[0].partition("  [")
        assert note.removesuffix("]").rpartition(", ")[2] == code
    assert texts["ja-JP"] != texts["de-DE"]
