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
from asr_service.api.riva import audio_files
from asr_service.api.riva import messages as mapping
from asr_service.api.riva.unfinished_files import with_true_sizes
from asr_service.core.errors import AsrError, ClientError, InvalidArgument, wire_status
from asr_service.core.values import Encoding, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.audio import AudioReader
from asr_service.recognition.phrases import alphabet
from asr_service.recognition.raw_audio import RawAudio
from asr_service.recognition.wav_header import AudioFormat, WavHeader, may_be_wav, read_wav_header
from tests.support.polyglot import LANGUAGES, PROMPTS
from tests.support.routes import serving
from tests.support.streams import finals, recognize
from tests.torture import compressed_parsers, dialect_inputs, dialect_parsers
from ws_bridge import status
from ws_bridge.messages import Audio, Finalize, Init, State
from ws_bridge.protocol import Conversation
from ws_bridge.status import Refused, from_grpc
from ws_bridge.wire import MAX_AUDIO_BYTES, error_json, result_json, to_requests

INFO = replace(NullModel(slots=1).info, languages=LANGUAGES, prompts=PROMPTS)
"""Of the model that phrases are written by, in lower case letters alone, and that takes languages."""
ROUTES = serving(INFO)
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
            if isinstance(said, bytes) and talk.state is State.OPEN:
                assert isinstance(json.loads(said), dict), "any other bytes are audio"
            return
        if message is None:
            continue
        requests = [pb.RecognizeRequest.FromString(one.SerializeToString()) for one in to_requests(message)]
        match message:
            case Init():
                (request,) = requests
                try:
                    config = wire.stream_config(request.config, wire.find_route(request.config, ROUTES))
                except InvalidArgument as error:
                    check_late_refusal(error)
                    return
                check_config(config)
                assert (config.name, config.sample_rate) == (message.sid, message.sr)
                assert config.end_tokens is message.end_tokens
                assert config.fill_gaps_after_ms == (message.gap_ms or 0)
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
    """What the bridge lets through, the service takes, but for models and what they have (look-aheads, languages,
    phrases), which it alone knows; the client is told in the words of its own protocol."""
    sent = wire.status(error)
    failure = from_grpc(sent.code, sent.message, sent.SerializeToString(), admitted=False)
    assert re.fullmatch(r"phrases(\[\d+\])?|boost|language|model|look_ahead_ms", failure.field), failure
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
                route = wire.find_route(request.config, ROUTES)
                check_config(wire.stream_config(request.config, route))
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
        requested = mapping.read_config(request.streaming_config, endpoints=True, routes=ROUTES)
        check_config(requested.stream_config(name, requested.format, ROUTES))
    except ClientError as error:
        check_refusal(error)


def wav_header(data: bytes) -> None:
    """The start of a stream, as it comes in pieces: header, audio and refusal are the same however they are cut."""
    cut, start = (data[0] * 256 + data[1], data[2:]) if len(data) > 1 else (0, data)
    if may_be_wav(start):
        assert may_be_wav(start[:cut]) or not start[:cut]
        early, header = _header(start[:cut]), _header(start)
        assert early is None or header == early
        assert not isinstance(header, WavHeader) or 0 < header.size <= len(start)
    # A header at a packet's start is one wherever it stands.
    if start[cut : cut + 4] != b"RIFF":
        whole, pieces = _audio([start]), _audio([start[:cut], start[cut:]])
        assert pieces == whole or any(
            isinstance(said, str) and "64 WAV files" in said for said in (whole, pieces)
        )
        assert isinstance(whole, str) or _is_subsequence(whole, start)


def _header(start: bytes) -> WavHeader | str | None:
    """The header, why it is refused, or None if there is more to come."""
    try:
        return read_wav_header(start)
    except InvalidArgument as error:
        check_refusal(error)
        return error.message


STATED = AudioFormat(Encoding.LINEAR16, 8000, 1)


def _audio(packets: list[bytes], stated: AudioFormat = STATED) -> bytes | str:
    """The audio of a stream, or why it is refused."""
    raw = RawAudio(stated)
    try:
        return b"".join([*map(raw.take, packets), raw.rest()])
    except InvalidArgument as error:
        check_refusal(error)
        return error.message


def _is_subsequence(part: bytes, whole: bytes) -> bool:
    """Whether nothing was put in or moved."""
    left = iter(whole)
    return all(byte in left for byte in part)


def audio_file(data: bytes) -> None:
    """An uploaded file, taken as the unary call takes it: its audio is what libsndfile makes of all of it at once."""
    try:
        upload = audio_files.open_upload(data)
        if upload.format is None:
            assert b"".join(upload.pieces) == data
            return
        mapping.check_file(upload.format, 0)
        config = mapping.with_format(riva_pb.RecognitionConfig(), upload.format)
        requested = mapping.read_config(riva_pb.StreamingRecognitionConfig(config=config), endpoints=False)
        check_config(requested.stream_config("upload", requested.format))
        blocks = [block for _, block in zip(range(20), upload.pieces, strict=False)]
    except ClientError as error:
        check_refusal(error)
        return
    bytes_a_second = 2 * upload.format.sample_rate * upload.format.channels
    assert all(len(block) <= max(bytes_a_second, 32_768) for block in blocks)
    if len(blocks) < 20 and not isinstance(_header(data) if may_be_wav(data[:12]) else None, WavHeader):
        heard = np.frombuffer(b"".join(blocks), "<i2")
        with ReadOnce(with_true_sizes(data)) as file:
            count = heard.size // file.channels
            exact = np.nan_to_num(file.read(count, "float64", always_2d=True)).reshape(-1)
        assert np.abs(heard - np.minimum(np.clip(exact, -1, 1) * 32768, 32767)).max(initial=0) <= 1


class ReadOnce(soundfile.SoundFile):  # type: ignore[misc]  # untyped base
    """A file that is not seeked in."""

    def seekable(self) -> bool:
        return False


NULL = NullModel(slots=1)


def forms(data: bytes) -> None:
    """Any audio in any form that a file or a header may give it: the words are those of the audio, or none."""
    if len(data) < 8:
        return
    kind, step, size, riff, audio = data[0], 1 + data[1] * 8, data[2:4] * 2, data[4:6] * 2, data[6:]
    # Long enough for words.
    audio = (audio * (1 + 8_000 // len(audio)))[: 8_000 & ~1]
    stated = AudioFormat(Encoding.LINEAR16, 16_000, 1)
    expected = words(audio)
    raw = _audio([audio[at : at + step] for at in range(0, len(audio), step)], stated)
    if raw != audio:
        # It begins like a file.
        assert isinstance(raw, str) or may_be_wav(audio[:12])
        return
    samples = np.frombuffer(audio, "<i2")
    form, subtype = FORMS[kind % len(FORMS)]
    file = io.BytesIO()
    loud = samples / 32768 if subtype in ("FLOAT", "DOUBLE") else samples
    soundfile.write(file, loud, 16_000, format=form, subtype=subtype)
    whole = bytearray(file.getvalue())
    if form == "WAV":
        # Sizes as anybody may leave them.
        place = whole.index(b"data") + 4
        whole[4:8], whole[place : place + 4] = riff, size
    upload = audio_files.open_upload(bytes(whole))
    assert upload.format is not None
    heard = _audio(list(upload.pieces), upload.format)
    assert isinstance(heard, bytes) and words(heard) == expected
    streamed = _audio([bytes(whole[at : at + step]) for at in range(0, len(whole), step)], stated)
    if (form, subtype) == ("WAV", "PCM_16"):
        assert isinstance(streamed, bytes) and words(streamed) == expected
    else:
        assert isinstance(streamed, str), "words of a file's bytes"


FORMS = (
    *(("WAV", kind) for kind in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *((form, "PCM_16") for form in ("AIFF", "AU", "CAF", "W64", "RF64", "FLAC")),
)


def words(audio: bytes) -> str:
    """What the null model says to 16-bit audio of 16 kHz."""
    return " ".join(text for _, _, text in finals(recognize(NULL, audio, packet=len(audio) or 1)))


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
    count = len(audio) // encoding.sample_bytes
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
    gap_ms = config.fill_gaps_after_ms
    assert gap_ms == 0 or limits.MIN_GAP_MS <= gap_ms <= limits.MAX_GAP_MS
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
    "forms": forms,
    "audio": raw_audio,
    "status": call_status,
    **dialect_parsers.TARGETS,
    **compressed_parsers.TARGETS,
}


def wav_file(samples: int = 400, form: str = "WAV", subtype: str = "PCM_16", rate: int = 8000) -> bytes:
    """A small file of a kind that libsndfile writes."""
    file = io.BytesIO()
    tone = np.sin(np.arange(samples) / 5).astype(np.float32)
    soundfile.write(file, tone, rate, format=form, subtype=subtype)
    return file.getvalue()


def seeds(target: str) -> list[bytes]:
    """Good input of each kind, for a fuzzer to spoil."""
    for known in (dialect_inputs.SEEDS, compressed_parsers.SEEDS):
        if target in known:
            return known[target]
    match target:
        case "websocket":
            init = b'{"op":"init","sid":"call-17","sr":16000,"enc":"mulaw","interim":false,"words":true,'
            init += b'"details":true,"endpoint_ms":300,"phrases":["zulu","kilo lima"],"boost":2.5,"key":"k",'
            init += b'"language":"de-DE","end_tokens":false,"gap_ms":500,"model":"null","look_ahead_ms":80}'
            rest = b'\n\0\x01\x02\n{"op":"finalize","sid":"call-17","tag":"t"}\n{"op":"keepalive"}\n{"op":"close"}'
            in_binary = b'{"op":"init","sid":"a"}\n\0{"op":"close"}'
            return [
                init + rest,
                in_binary,
                b'{"op":"init","sid":"a"}\n\0' + bytes(64),
                b'{"op":"close"}',
                b"[]",
            ]
        case "config":
            full = pb.RecognitionConfig(
                encoding=pb.AUDIO_ENCODING_MULAW, sample_rate_hertz=8000, stream_id="call", word_times=True
            )
            full.endpointing.trailing_silence_ms = 300
            full.audio_channel_count = 2
            full.language_code, full.end_tokens, full.fill_gaps_after_ms = "de-DE", False, 500
            full.model, full.look_ahead_ms = "null", 80
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
            config.custom_configuration["fill_gaps_after_ms"] = "500"
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
            kinds = ("PCM_16", "PCM_24", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "FLOAT", "DOUBLE")
            others = [wav_file(form=form) for form in ("FLAC", "AIFF", "AU", "CAF", "W64", "RF64")]
            lossy = [wav_file(form="OGG", subtype="VORBIS"), wav_file(form="MP3", subtype="MPEG_LAYER_III")]
            return [*(wav_file(subtype=kind) for kind in kinds), *others, *lossy]
        case "forms":
            rng = np.random.default_rng(5)
            return [bytes((kind, kind * 9, *rng.bytes(4))) + rng.bytes(300) for kind in range(len(FORMS))]
        case "audio":
            return [bytes((kind, rate, 7)) + bytes(range(256)) for kind in range(4) for rate in range(3)]
    error = InvalidArgument("m", field="config.sample_rate_hertz", retry_after_s=1.5)
    return [bytes((3,)) + wire.status(error).SerializeToString(), bytes((14,))]


WORDS = {
    "websocket": [
        *('"op"', '"init"', '"sid"', '"sr"', '"enc"', '"interim"', '"words"', '"details"', '"endpoint_ms"'),
        *('"phrases"', '"boost"', '["zulu"]', '[""]', "2.5", "11", "-1"),
        *(
            '"language"',
            '"de-DE"',
            '"auto"',
            '"end_tokens"',
            '"gap_ms"',
            '"model"',
            '"null"',
            '"look_ahead_ms"',
        ),
        *('"key"', '"finalize"', '"tag"', '"keepalive"', '"close"', '"linear16"', '"mulaw"', '"alaw"'),
        *("true", "false", "null", "NaN", "1e999", "16000", "192001", "\\ud800", "[[[["),
    ],
    "wav": ["RIFF", "WAVE", "fmt ", "data", "LIST", "fact", "RIFX", "OggS"],
    "file": [
        "RIFF",
        "WAVE",
        "fmt ",
        "data",
        "fLaC",
        "OggS",
        "fact",
        "PEAK",
        "FORM",
        "AIFC",
        "SSND",
        "caff",
        "RF64",
        "ds64",
        "Xing",
    ],
    "config": ["zulu", "route 66", "auto", "ja_jp", "null"],
    "riva": ["force_eou", "true", "zulu", "route 66", "multi", "ja_jp"],
    **dialect_inputs.WORDS,
    **compressed_parsers.WORDS,
}
"""What a fuzzer should know of the language."""
