"""Everything that reads what strangers send, each as a function of some bytes, with what has to hold for any bytes.

A target returns for input that is served and for input that is refused as documented; whatever else it raises is a
finding. `strategies` makes structured input for hypothesis, `seeds` gives the coverage-guided fuzzer a start.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import riva.client.proto.riva_asr_pb2 as riva_pb
import soundfile
from asr.v1 import asr_pb2 as pb
from google.protobuf.message import DecodeError

from asr_service.api import limits
from asr_service.api import messages as wire
from asr_service.api.riva import audio_files as containers
from asr_service.api.riva import messages as mapping
from asr_service.core.errors import AsrError, ClientError, InvalidArgument, wire_status
from asr_service.core.values import Encoding, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.audio import AudioReader
from asr_service.recognition.phrases import alphabet
from tests.support.polyglot import LANGUAGES, PROMPTS
from ws_bridge import status
from ws_bridge.protocol import Audio, Conversation, Finalize, Init
from ws_bridge.status import Refused, from_grpc
from ws_bridge.wire import MAX_AUDIO_BYTES, error_json, result_json, to_requests

INFO = replace(NullModel(slots=1).info, languages=LANGUAGES, prompts=PROMPTS)
"""Of the model that phrases are written by, in lower case letters alone, and that takes languages."""
LONGEST_MESSAGE = 2000
"""Characters of an error message: what it quotes of the input has to be cut."""
CLOSE_CODES = {status.POLICY_VIOLATION, status.INTERNAL_ERROR, status.TRY_AGAIN_LATER}


def websocket(data: bytes) -> None:
    """Messages of a connection, a line each; those that begin with a zero are binary."""
    talk = Conversation()
    for line in data.split(b"\n"):
        said: str | bytes = line[1:] if line[:1] == b"\0" else line.decode(errors="replace")
        try:
            message = talk.receive(said)
        except Refused as refused:
            failure = refused.failure
            told = json.loads(error_json(failure, talk.sid))
            assert told["op"] == "error" and told["code"] == failure.code and failure.field
            assert failure.close_code == status.POLICY_VIOLATION
            assert failure.message.isascii() and 0 < len(failure.message) < LONGEST_MESSAGE
            return
        if message is None:
            continue
        requests = [pb.RecognizeRequest.FromString(one.SerializeToString()) for one in to_requests(message)]
        match message:
            case Init():
                (request,) = requests
                try:
                    config = wire.stream_config(request.config, INFO)
                except InvalidArgument as error:
                    check_late_refusal(error)
                    return
                check_config(config)
                assert (config.name, config.sample_rate) == (message.sid, message.sr)
                assert config.end_tokens is message.end_tokens
                assert [phrase for group in config.boosts for phrase in group.phrases] == list(
                    message.phrases
                )
                answer = pb.RecognizeResponse(result=pb.RecognitionResult(text="\u2581word", is_final=True))
                assert json.loads(result_json(answer, message))["sid"] == message.sid
            case Finalize(tag):
                (request,) = requests
                assert wire.finalize_tag(request.finalize) == tag
            case Audio(audio):
                assert b"".join(one.audio for one in requests) == audio
                assert all(len(one.audio) <= MAX_AUDIO_BYTES for one in requests)


def check_late_refusal(error: InvalidArgument) -> None:
    """What the bridge lets through, the service takes, but for phrases and languages, of which it alone knows which the
    model has; the client is told in the words of its own protocol."""
    sent = wire.status(error)
    failure = from_grpc(sent.code, sent.message, sent.SerializeToString(), admitted=False)
    assert re.fullmatch(r"phrases(\[\d+\])?|boost|language", failure.field), failure
    assert failure.message.startswith(f"{failure.field} ") and "config" not in failure.message
    assert (failure.code, failure.close_code) == ("invalid_argument", status.POLICY_VIOLATION)
    assert 0 < len(failure.message) < LONGEST_MESSAGE


def config_message(data: bytes) -> None:
    """A request of `Recognize`."""
    try:
        request = pb.RecognizeRequest.FromString(data)
    except DecodeError:
        return  # answered INVALID_ARGUMENT
    try:
        match request.WhichOneof("request"):
            case "config":
                check_config(wire.stream_config(request.config, INFO))
                assert 1 <= wire.channels(request.config) <= limits.MAX_CHANNELS
            case "finalize":
                assert len(wire.finalize_tag(request.finalize)) <= limits.MAX_TAG_CHARS
    except ClientError as error:
        check_refusal(error)


def riva_message(data: bytes) -> None:
    """A request of Riva's `StreamingRecognize`."""
    try:
        request = riva_pb.StreamingRecognizeRequest.FromString(data)
    except DecodeError:
        return
    name = mapping.stream_name(request.id.value)
    assert 0 < len(name) <= limits.MAX_NAME_CHARS
    mapping.forces_final(request)
    try:
        requested = mapping.read_config(request.streaming_config, endpoints=True, info=INFO)
        check_config(requested.stream_config(name, requested.format, INFO))
    except ClientError as error:
        check_refusal(error)


def wav_header(data: bytes) -> None:
    """The start of a stream, as it comes in pieces: the header is the same however they are cut."""
    cut, start = (data[0] * 256 + data[1], data[2:]) if len(data) > 1 else (0, data)
    if not containers.may_be_wav(start):
        return
    assert containers.may_be_wav(start[:cut]) or not start[:cut]
    early, header = _told(start[:cut]), _told(start)
    assert early is None or header == early
    assert not isinstance(header, containers.WavHeader) or 0 < header.size <= len(start)


def _told(start: bytes) -> containers.WavHeader | str | None:
    """The header, why it is refused, or None if there is more to come."""
    try:
        return containers.read_wav_header(start)
    except InvalidArgument as error:
        check_refusal(error)
        return error.message


def audio_file(data: bytes) -> None:
    """An uploaded file, taken as the unary call takes it."""
    if not containers.is_audio_file(data):
        return
    try:
        audio_format, blocks = containers.decode_file(data)
        config = mapping.with_format(riva_pb.RecognitionConfig(), audio_format)
        requested = mapping.read_config(riva_pb.StreamingRecognitionConfig(config=config), endpoints=False)
        check_config(requested.stream_config("upload", requested.format))
        for _, block in zip(range(20), blocks, strict=False):
            assert len(block) <= 2 * audio_format.sample_rate * audio_format.channels
    except ClientError as error:
        check_refusal(error)


RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000)


def raw_audio(data: bytes) -> None:
    """Bytes of a stream in any encoding: finite samples in [-1, 1], the same however the bytes are cut."""
    if len(data) < 3:
        return
    encoding = list(Encoding)[data[0] % len(Encoding)]
    rate = RATES[data[1] % len(RATES)]
    step, audio = 1 + data[2] % 97, data[3:]
    whole = AudioReader(encoding, rate, 16_000)
    expected = np.concatenate((whole.read(audio), whole.flush()))
    reader = AudioReader(encoding, rate, 16_000)
    pieces = [reader.read(audio[at : at + step]) for at in range(0, len(audio), step)]
    heard = np.concatenate((*pieces, reader.flush()))
    assert heard.dtype == np.float32 and np.array_equal(heard, expected)
    assert np.isfinite(heard).all()
    count = len(audio) // (2 if encoding is Encoding.LINEAR16 else 1)
    assert abs(heard.size - count * 16_000 / rate) < 2 + count / 1000
    if rate == 16_000:
        assert np.abs(heard).max(initial=0) <= 1


def call_status(data: bytes) -> None:
    """Details of a call's status as the bridge reads them."""
    number, details = (data[0] % 20, data[1:]) if data else (0, data)
    failure = from_grpc(number, "", details, admitted=bool(number % 2))
    assert failure.close_code in CLOSE_CODES and failure.message
    told = json.loads(error_json(failure, "s"))
    assert told["code"] == failure.code


def check_config(config: StreamConfig) -> None:
    """A stream may be opened with this."""
    assert config.name and config.name.isascii() and config.name.isprintable()
    assert limits.MIN_RATE_HZ <= config.sample_rate <= limits.MAX_RATE_HZ
    assert isinstance(config.encoding, Encoding)
    if config.endpointing is not None:
        assert limits.MIN_SILENCE_MS <= config.endpointing.trailing_silence_ms <= limits.MAX_SILENCE_MS
    assert config.language in ("", *dict(PROMPTS))
    said = [phrase for group in config.boosts for phrase in group.phrases]
    most = limits.PHRASES
    assert len(said) <= most.phrases and sum(map(len, said)) <= most.chars
    for phrase in said:
        written = alphabet(INFO.pieces).spell(phrase)
        assert len(phrase) <= most.phrase_chars and written.text and not written.unwritable
    for group in config.boosts:
        assert group.phrases and most.min_boost <= group.boost <= most.max_boost


def check_refusal(error: AsrError) -> None:
    """An error that may be told to a client: the caller's fault, with the field, in a status that can be sent."""
    assert wire_status(error).name in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
    assert error.field or not isinstance(error, InvalidArgument)
    assert 0 < len(error.message) < LONGEST_MESSAGE
    assert wire.status(error).SerializeToString()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "websocket": websocket,
    "config": config_message,
    "riva": riva_message,
    "wav": wav_header,
    "file": audio_file,
    "audio": raw_audio,
    "status": call_status,
}


def wav_file(samples: int = 400, form: str = "WAV", subtype: str = "PCM_16", rate: int = 8000) -> bytes:
    """A small file of a kind that libsndfile writes."""
    file = io.BytesIO()
    tone = np.sin(np.arange(samples) / 5).astype(np.float32)
    soundfile.write(file, tone, rate, format=form, subtype=subtype)
    return file.getvalue()


def seeds(target: str) -> list[bytes]:
    """Good input of each kind, for a fuzzer to spoil."""
    match target:
        case "websocket":
            init = b'{"op":"init","sid":"call-17","sr":16000,"enc":"mulaw","interim":false,"words":true,'
            init += b'"details":true,"endpoint_ms":300,"phrases":["zulu","kilo lima"],"boost":2.5,"key":"k",'
            init += b'"language":"de-DE","end_tokens":false}'
            rest = b'\n\0\x01\x02\n{"op":"finalize","sid":"call-17","tag":"t"}\n{"op":"keepalive"}\n{"op":"close"}'
            return [init + rest, b'{"op":"init","sid":"a"}\n\0' + bytes(64), b'{"op":"close"}', b"[]"]
        case "config":
            full = pb.RecognitionConfig(
                encoding=pb.AUDIO_ENCODING_MULAW, sample_rate_hertz=8000, stream_id="call", word_times=True
            )
            full.endpointing.trailing_silence_ms = 300
            full.audio_channel_count = 2
            full.language_code, full.end_tokens = "de-DE", False
            full.phrase_boosts.add(phrases=["zulu", "kilo lima"], boost=2.5)
            many = pb.RecognitionConfig(
                phrase_boosts=[pb.PhraseBoost(phrases=["a"])] + [pb.PhraseBoost()] * 500
            )
            requests = [
                pb.RecognizeRequest(config=full),
                pb.RecognizeRequest(config=many),
                pb.RecognizeRequest(finalize=pb.Finalize(tag="t")),
                pb.RecognizeRequest(audio=b"\x01\x02"),
                pb.RecognizeRequest(keep_alive=pb.KeepAlive()),
            ]
            return [request.SerializeToString() for request in requests]
        case "riva":
            request = riva_pb.StreamingRecognizeRequest()
            config = request.streaming_config.config
            config.encoding, config.sample_rate_hertz, config.audio_channel_count = 20, 8000, 1
            config.endpointing_config.stop_history = 320
            config.language_code = "de-DE"
            config.speech_contexts.add(phrases=["zulu", "kilo lima"], boost=20)
            request.id.value = "id"
            request.runtime_config["force_eou"] = "true"
            many = riva_pb.StreamingRecognizeRequest()
            many.streaming_config.config.speech_contexts.extend([riva_pb.SpeechContext()] * 500)
            return [request.SerializeToString(), many.SerializeToString()]
        case "wav":
            files = [wav_file(subtype=kind) for kind in ("PCM_16", "ULAW", "ALAW", "PCM_24")]
            return [struct.pack(">H", at) + file for file in files for at in (20, 44, 60)]
        case "file":
            flac, ogg = wav_file(form="FLAC"), wav_file(form="OGG", subtype="VORBIS")
            return [*(wav_file(subtype=kind) for kind in ("PCM_16", "ULAW", "IMA_ADPCM", "FLOAT")), flac, ogg]
        case "audio":
            return [bytes((kind, rate, 7)) + bytes(range(256)) for kind in range(3) for rate in range(3)]
    error = InvalidArgument("m", field="config.sample_rate_hertz", retry_after_s=1.5)
    return [bytes((3,)) + wire.status(error).SerializeToString(), bytes((14,))]


WORDS = {
    "websocket": [
        *('"op"', '"init"', '"sid"', '"sr"', '"enc"', '"interim"', '"words"', '"details"', '"endpoint_ms"'),
        *('"phrases"', '"boost"', '["zulu"]', '[""]', "2.5", "11", "-1"),
        *('"language"', '"de-DE"', '"auto"', '"end_tokens"'),
        *('"key"', '"finalize"', '"tag"', '"keepalive"', '"close"', '"linear16"', '"mulaw"', '"alaw"'),
        *("true", "false", "null", "NaN", "1e999", "16000", "192001", "\\ud800", "[[[["),
    ],
    "wav": ["RIFF", "WAVE", "fmt ", "data", "LIST", "fact"],
    "file": ["RIFF", "WAVE", "fmt ", "data", "fLaC", "OggS", "fact", "PEAK"],
    "config": ["zulu", "route 66", "auto", "ja_jp"],
    "riva": ["force_eou", "true", "zulu", "route 66", "multi", "ja_jp"],
}
"""What a fuzzer should know of the language."""
