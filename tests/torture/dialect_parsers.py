"""What reads the messages of other protocols in the bridge, as targets of `parsers.py`."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import soundfile
from asr.v1 import asr_pb2 as pb
from hypothesis import strategies as st
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
from ws_bridge.file_dialect import AudioFormat
from ws_bridge.form import read_form
from ws_bridge.handshake import read_handshake
from ws_bridge.protocol import Audio, Init, State
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
                assert isinstance(json.loads(text), dict) and len(text) < 2 * LONGEST_MESSAGE
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
        assert all(isinstance(json.loads(text), dict) for text in messages)
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
_WAV = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 16_000, 2, 16) + b"data\4\0\0\0ab"
_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
    b'--x\r\nContent-Disposition: form-data; name="keywords[]"\r\n\r\nzulu\r\n'
    b'--x\r\nContent-Disposition: form-data; name="response_format"\r\n\r\ntext\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
)


def _file(form: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(400) / 5), 8_000, format=form, subtype=subtype)
    return file.getvalue()


SEEDS: dict[str, list[bytes]] = {
    "deepgram": [
        b"encoding=linear16&sample_rate=16000&interim_results=true&utterance_end_ms=1000&endpointing=300&keyterm=zulu"
        b"&keywords=kilo:2.5&language=multi&vad_events=true&punctuate=true&channels=2&multichannel=true\n\0ab\n"
        b'{"type":"KeepAlive"}\n{"type":"Finalize","channel":1}\n\0c\n{"type":"CloseStream"}',
        b"model=nova-3&smart_format=true\n\0" + _WAV.replace(b"\n", b"\0") + b'\nx\n{"type":"Configure"}\n\0',
        b"encoding=opus",
    ],
    "realtime": [
        b"intent=transcription&model=gpt-4o\n"
        b'{"type":"session.update","session":{"type":"transcription","audio":{"input":{"format":{"type":"audio/pcm",'
        b'"rate":24000},"transcription":{"model":"m","language":"en","languages":["de"],"keywords":["zulu"],'
        b'"look_ahead_ms":80},"turn_detection":{"type":"server_vad","silence_duration_ms":500}}}}}\n'
        b'{"type":"input_audio_buffer.append","audio":"AAAA","event_id":"e"}\n{"type":"input_audio_buffer.commit"}\n'
        b'{"type":"input_audio_buffer.append","audio":"AAA="}\n{"type":"input_audio_buffer.clear"}',
        b'\n{"type":"transcription_session.update","session":{"input_audio_format":"g711_ulaw",'
        b'"input_audio_transcription":{"model":"whisper-1"},"turn_detection":{"type":"semantic_vad","eagerness":"low"}'
        b"}}\n"
        b'{"type":"input_audio_buffer.append","audio":"AA=="}\n{"type":"input_audio_buffer.commit"}',
        b"intent=conversation",
    ],
    "twilio": [
        b'{"event":"start","start":{"callSid":"CA1","mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,'
        b'"channels":1},"customParameters":{"phrases":"zulu, kilo","endpoint_ms":"300","words":"true",'
        b'"track":"inbound"},"streamSid":"MZ1"}}\n{"event":"media","media":{"track":"inbound","payload":"AAAA"}}\n{"event":"stop"}',
    ],
    "form": [
        b"\x40x\n" + _FORM,
        b"\x01x\n" + _FORM[:-8],
        b"\x09y\n--y\r\n\r\n\r\n--y--",
    ],
    "recording": [
        b"\x01" + _file(form=form, subtype=subtype)
        for form, subtype in (
            ("WAV", "PCM_16"),
            ("WAV", "PCM_24"),
            ("WAV", "ULAW"),
            ("FLAC", "PCM_16"),
            ("AU", "PCM_16"),
        )
    ],
}
WORDS: dict[str, list[str]] = {
    "twilio": [
        *(
            '"event"',
            '"start"',
            '"media"',
            '"stop"',
            '"callSid"',
            '"mediaFormat"',
            '"encoding"',
            '"audio/x-mulaw"',
        ),
        *(
            '"customParameters"',
            '"sampleRate"',
            '"channels"',
            '"payload"',
            '"track"',
            '"inbound"',
            '"phrases"',
            "null",
        ),
        *(
            '"endpoint_ms"',
            '"interim"',
            '"key"',
            '"language"',
            '"look_ahead_ms"',
            '"boost"',
            "1e999",
            "\\ud800",
        ),
    ],
    "form": [
        *(
            "--x",
            "--x--",
            "Content-Disposition: form-data; name=",
            '"file"',
            '"model"',
            '"stream"',
            "\\x0d\\x0a",
        ),
        *(
            '"response_format"',
            "verbose_json",
            "srt",
            '"language"',
            '"languages[]"',
            '"look_ahead_ms"',
            "filename=",
        ),
    ],
    "recording": ["RIFF", "WAVE", "fmt ", "data", "fLaC", "OggS", "LIST", "FORM", ".snd", "caff"],
    "deepgram": [
        *(
            "encoding=",
            "linear16",
            "mulaw",
            "alaw",
            "&sample_rate=",
            "16000",
            "&channels=2",
            "&multichannel=true",
        ),
        *("&endpointing=", "false", "&utterance_end_ms=", "&keyterm=", "&keywords=", ":2.5", "&language="),
        *("&redact=", "&diarize=true", "%00", "%E2%96%81", '{"type":"', 'KeepAlive"}', 'Finalize"}'),
        *('CloseStream"}', "RIFF", "WAVE", "fmt ", "data", "LIST"),
    ],
    "realtime": [
        *(
            "intent=",
            "transcription",
            '"type"',
            '"session.update"',
            '"session"',
            '"audio"',
            '"input"',
            '"format"',
        ),
        *('"audio/pcm"', '"audio/pcmu"', '"rate"', '"transcription"', '"model"', '"language"', '"languages"'),
        *(
            '"keywords"',
            '"turn_detection"',
            '"server_vad"',
            '"semantic_vad"',
            '"silence_duration_ms"',
            '"eagerness"',
        ),
        *(
            '"input_audio_buffer.append"',
            '"input_audio_buffer.commit"',
            '"input_audio_buffer.clear"',
            '"AAAA"',
        ),
        *(
            '"transcription_session.update"',
            '"input_audio_format"',
            '"pcm16"',
            "null",
            "true",
            "1e999",
            "\\ud800",
        ),
    ],
}

_value = st.sampled_from(
    [
        "true",
        "false",
        "",
        "0",
        "1",
        "2",
        "100",
        "16000",
        "1e3",
        "-1",
        "linear16",
        "mulaw",
        "opus",
        "multi",
        "a:2",
    ]
) | st.text(max_size=12)
_name = st.sampled_from(
    "encoding sample_rate channels multichannel interim_results endpointing utterance_end_ms vad_events punctuate "
    "smart_format keyterm keywords language model diarize redact callback detect_language utterances x".split()
)
_message = st.fixed_dictionaries(
    {"type": st.sampled_from(["KeepAlive", "Finalize", "CloseStream", "Configure", "x"])},
    optional={"channel": st.integers(0, 2)},
)


def _query(pairs: list[tuple[str, str]]) -> bytes:
    return "&".join(f"{name}={value}" for name, value in pairs).encode().replace(b"\n", b"")


def _talk(query: bytes, lines: list[bytes]) -> bytes:
    return b"\n".join([query, *lines])


_lines = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda audio: b"\0" + audio),
        st.sampled_from([b"\0" + _WAV[:30], b"\0" + _WAV[30:], b"\0RIFF"]),
        _message.map(lambda fields: json.dumps(fields).encode()),
        st.binary(max_size=60),
    ),
    max_size=6,
)
_raw = st.just([("encoding", "linear16"), ("sample_rate", "16000")])
_pairs = st.lists(st.tuples(_name, _value), max_size=5)
_any = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 11_000) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_formats = st.sampled_from(
    [
        {"type": "audio/pcm", "rate": 24_000},
        {"type": "audio/pcmu"},
        {"type": "audio/pcm", "rate": 7_999},
        "pcm16",
        "x",
    ]
)
_transcriptions = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["gpt-4o", "mine", "x" * 513]) | _any,
        "language": st.sampled_from(["de", "tlh", "x" * 36]) | _any,
        "languages": st.lists(st.sampled_from(["de", "en"]), max_size=2) | _any,
        "keywords": st.lists(st.sampled_from(["zulu", "route 66", ""]), max_size=2) | _any,
        "look_ahead_ms": _any,
    },
)
_turns = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["server_vad", "semantic_vad"]) | _any,
        "silence_duration_ms": _any,
        "eagerness": st.sampled_from(["low", "x"]) | _any,
    },
)
_input = st.fixed_dictionaries(
    {},
    optional={
        "format": _formats | _any,
        "transcription": _transcriptions | _any,
        "turn_detection": _turns | _any,
    },
)
_old_input = st.fixed_dictionaries(
    {},
    optional={
        "input_audio_format": st.sampled_from(["pcm16", "g711_alaw"]) | _any,
        "input_audio_transcription": _transcriptions | _any,
        "turn_detection": _turns | _any,
    },
)
_sessions = st.one_of(
    _input.map(lambda given: {"type": "transcription", "audio": {"input": given}}), _old_input, _any
)
_event = st.one_of(
    st.builds(
        lambda kind, session: {"type": kind, "session": session},
        st.sampled_from(["session.update", "transcription_session.update"]),
        _sessions,
    ),
    st.builds(
        lambda audio: {"type": "input_audio_buffer.append", "audio": audio},
        st.sampled_from(["AAAA", "AAA=", "", "?"]) | _any,
    ),
    st.sampled_from([{"type": f"input_audio_buffer.{what}"} for what in ("commit", "clear")]),
    _any,
)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "deepgram": st.builds(
        _talk,
        st.one_of(_pairs, st.builds(lambda raw, more: raw + more, _raw, _pairs)).map(_query),
        _lines,
    ),
    "realtime": st.builds(
        _talk,
        st.sampled_from([b"", b"intent=transcription", b"intent=x", b"model=mine"]),
        st.lists(_event.map(lambda event: json.dumps(event).encode()) | st.binary(max_size=60), max_size=6),
    ),
}
"""Nearly right input, for hypothesis."""
