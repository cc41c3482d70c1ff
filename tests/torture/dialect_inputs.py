"""Input for the targets of `dialect_parsers.py`: good input to spoil, words, and what is nearly right."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import soundfile
from hypothesis import strategies as st

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
        b"encoding=speex",
        b"encoding=flac&channels=2&multichannel=true\n\0fLaC\0\0\0\x22abcdefghijkl\0\2\xf0ab",
        b"\n\0OggS" + bytes(22) + b"\1\x13OpusHead\1\2ab\n\0c",
        b"multichannel=true\n\0\x1aE\xdf\xa3OpusHead\1\2\n\0\x1fC\xb6uab",
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
        *(
            'CloseStream"}',
            "RIFF",
            "WAVE",
            "fmt ",
            "data",
            "LIST",
            "fLaC",
            "OggS",
            "OpusHead",
            "ogg-opus",
            "flac",
        ),
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
