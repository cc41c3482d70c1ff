"""What reads the messages of other protocols in the bridge, as targets of `parsers.py`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace

from asr.v1 import asr_pb2 as pb
from websockets.datastructures import Headers

from asr_service.api import messages as wire
from asr_service.core.errors import ClientError
from asr_service.model.null import NullModel
from tests.support.polyglot import LANGUAGES, PROMPTS
from tests.support.routes import serving
from ws_bridge.dialect import Dialect, HttpAnswer, Reply, Step
from ws_bridge.dialects.deepgram.door import DeepgramDoor, DeepgramFileDoor
from ws_bridge.dialects.openai.door import RealtimeDoor, TranscriptionsDoor
from ws_bridge.dialects.twilio.stream import TwilioStream
from ws_bridge.file_start import AudioFormat
from ws_bridge.form import read_form
from ws_bridge.handshake import read_handshake
from ws_bridge.messages import Audio, Init, State
from ws_bridge.recordings import Body, open_recording
from ws_bridge.status import Failure, Refused, from_grpc
from ws_bridge.wire import to_requests

INFO = replace(NullModel(slots=1).info, languages=LANGUAGES, prompts=PROMPTS)
ROUTES = serving(INFO)
LONGEST_MESSAGE = 2_000


def deepgram(data: bytes) -> None:
    """A handshake's target and messages, a line each; those that begin with a zero are binary."""
    target, *lines = data.split(b"\n")
    door = DeepgramDoor()
    handshake = read_handshake("/v1/listen?" + target.decode("latin-1"), Headers())
    try:
        dialect = door.open(handshake)
    except Refused as refused:
        check_http(door.refuse(refused.failure), refused.failure)
        return
    sent = b"".join(line[1:] for line in lines if line[:1] == b"\0")
    check_talk(dialect, lines, sent)


def realtime(data: bytes) -> None:
    """The same of OpenAI's realtime protocol."""
    target, *lines = data.split(b"\n")
    door = RealtimeDoor()
    handshake = read_handshake("/v1/realtime?" + target.decode("latin-1"), Headers())
    try:
        dialect = door.open(handshake)
    except Refused as refused:
        check_http(door.refuse(refused.failure), refused.failure)
        return
    check_talk(dialect, lines, None)


def twilio(data: bytes) -> None:
    """Events of a call, a line each."""
    check_talk(TwilioStream(), data.split(b"\n"), None)


def form(data: bytes) -> None:
    """A form's boundary, how it is cut, and the form: fields that ask for something, and a file."""
    head, _, rest = data.partition(b"\n")
    size, boundary = 1 + (head[0] if head else 0), head[1:].decode("latin-1")

    async def read() -> bytes:
        nonlocal rest
        piece, rest = rest[:size], rest[size:]
        return piece

    async def run() -> None:
        found = await read_form(Body(read, 1 << 20), f"multipart/form-data; boundary={boundary}", "file")
        with found.file as file:
            asked = TranscriptionsDoor().open(read_handshake("/", Headers()))
            asked.read_form(found.fields)
            (request,) = to_requests(asked.init(AudioFormat("linear16", 16_000, 1)))
            assert pb.RecognizeRequest.FromString(request.SerializeToString()) == request
            for response in RESPONSES:
                asked.take(response)
            assert asked.answer("").status == 200
            assert len(file.read()) <= len(data)

    try:
        asyncio.run(run())
    except Refused as refused:
        check_http(TranscriptionsDoor().refuse(refused.failure), refused.failure)


def recording(data: bytes) -> None:
    """A recording, whole and in pieces of some size: the same audio, or refused."""
    size, data = (1 + 16 * data[0], data[1:]) if data else (1, b"")
    whole, pieces = _opened(data, len(data) or 1), _opened(data, size)
    assert whole == pieces


def _opened(data: bytes, size: int) -> tuple[AudioFormat, bytes] | str:
    left = [data[at : at + size] for at in range(0, len(data), size)]

    async def read() -> bytes:
        return left.pop(0) if left else b""

    async def run() -> tuple[AudioFormat, bytes]:
        found = await open_recording(Body(read, 1 << 20), None, separate_channels=False)
        audio = b""
        async for piece in found.pieces:
            audio += piece
            if len(audio) > 1 << 20:
                break
        return found.format, audio[: 1 << 20]

    try:
        return asyncio.run(run())
    except Refused as refused:
        failure = refused.failure
    assert failure.field == "audio" and failure.message.startswith("audio ")
    check_http(DeepgramFileDoor().refuse(failure), failure)
    return failure.message


def check_talk(dialect: Dialect, lines: list[bytes], sent: bytes | None) -> None:
    """One connection: steps in their order, audio as it was sent if that is known, and an end that can be told."""
    heard, opened = bytearray(), False
    for step in _steps(dialect, lines):
        match step:
            case Reply(text):
                assert isinstance(json.loads(text), dict) and len(text.encode()) < 2 * LONGEST_MESSAGE
            case Init():
                # Only settings that change open a stream anew.
                assert not opened or sent is None
                opened = True
                if not _check_init(step, dialect):
                    return
            case Audio(audio):
                assert opened
                heard += audio
            case _:
                assert opened
    # What comes after the end, or after a refusal, is nobody's audio.
    assert sent is None or sent.startswith(bytes(heard))
    assert opened or dialect.state is State.NEW
    for response in RESPONSES if opened else ():
        messages = [*dialect.take(response)]
        messages += () if response.result.is_final else dialect.interim(response)
        assert all(isinstance(json.loads(text.encode()), dict) for text in messages)
    check_end(dialect, None)


def _steps(dialect: Dialect, lines: list[bytes]) -> list[Step]:
    steps = list(dialect.opening())
    for line in lines:
        said: str | bytes = line[1:] if line[:1] == b"\0" else line.decode(errors="replace")
        try:
            steps += dialect.receive(said)
        except Refused as refused:
            check_end(dialect, refused.failure)
            break
    return steps


def _check_init(init: Init, dialect: Dialect) -> bool:
    """What is opened is served, or refused by the service in the dialect's words; whether it is served."""
    (request,) = to_requests(init)
    request = pb.RecognizeRequest.FromString(request.SerializeToString())
    try:
        wire.stream_config(request.config, wire.find_route(request.config, ROUTES))
        wire.channels(request.config)
    except ClientError as error:
        sent = wire.status(error)
        failure = from_grpc(
            sent.code, sent.message, sent.SerializeToString(), admitted=False, words=dialect.words
        )
        assert "config" not in failure.message and "phrase_boosts" not in failure.message, failure
        check_end(dialect, failure)
        return False
    return True


def check_end(dialect: Dialect, failure: Failure | None) -> None:
    """A connection's end, as it is sent."""
    ending = dialect.done() if failure is None else dialect.failed(failure)
    assert 1000 <= ending.code <= 1013 and (failure is None) == (ending.code == 1000)
    assert ending.reason.encode() or failure is None
    for text in ending.messages:
        assert isinstance(json.loads(text), dict) and len(text.encode()) < 2 * LONGEST_MESSAGE


def check_http(answer: HttpAnswer, failure: Failure) -> None:
    """An answer to a handshake, as it is sent."""
    assert 400 <= answer.status < 600
    assert isinstance(json.loads(answer.body), dict) and len(answer.body) < LONGEST_MESSAGE
    assert failure.message and (failure.field or failure.code != "invalid_argument")
    for name, value in answer.headers:
        assert re.fullmatch(r"[\w-]+", name) and re.fullmatch(r"[\x20-\x7e]*", value)


def _response(text: str, final: bool, channel: int = 0) -> pb.RecognizeResponse:
    result = pb.RecognitionResult(text=text, is_final=final, channel=channel)
    if final and text:
        result.words.add(word="\u2581word", start_ms=100, end_ms=200, confidence=0.5)
    return pb.RecognizeResponse(result=result, audio_processed_ms=1_000)


RESPONSES = [
    *(_response("\u2581word", final) for final in (False, True)),
    *(_response("", final, 1) for final in (False, True)),
]
"""What a service may answer with, whatever was asked."""

TARGETS: dict[str, Callable[[bytes], None]] = {
    "deepgram": deepgram,
    "realtime": realtime,
    "twilio": twilio,
    "form": form,
    "recording": recording,
}
