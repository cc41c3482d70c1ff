"""Input for the targets of `parsers.py` that is nearly right, for hypothesis."""

from __future__ import annotations

import json
import struct

import riva.client.proto.riva_asr_pb2 as riva_pb
from asr.v1 import asr_pb2 as pb
from google.protobuf.message import Message
from hypothesis import strategies as st

from tests.torture import compressed_inputs, dialect_inputs
from tests.torture.parsers import seeds

_phrase = st.sampled_from(["zulu", "Kilo  Lima", "route 66", "", " ", "a" * 101]) | st.text(max_size=20)
_boost = st.sampled_from([0, 2.5, 10, 11, -1]) | st.floats()
_language = st.sampled_from(["", "auto", "multi", "de-DE", "EN_us", "ja", "tlh", "-", "x" * 36]) | st.text(
    max_size=36
)
_model = st.sampled_from(["null", "NULL", "demo", "x" * 513]) | st.text(max_size=80)
_look_ahead = st.sampled_from([0, 80]) | st.integers(0, 2**31 - 1)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_fields = {
    "op": st.sampled_from(["init", "finalize", "keepalive", "close"]),
    "sid": st.sampled_from(["call-17", "a" * 128]) | st.text(max_size=130),
    "sr": st.sampled_from([8000, 16000, 48000, 192000, 7999, 192001]),
    "enc": st.sampled_from(["linear16", "mulaw", "alaw", "float32", "flac", "auto", "opus"]),
    "interim": st.booleans(),
    "words": st.booleans(),
    "details": st.booleans(),
    "endpoint_ms": st.integers(0, 11_000),
    "gap_ms": st.integers(0, 11_000),
    "phrases": st.lists(_phrase, max_size=4) | _phrase.map(lambda phrase: [phrase] * 1001),
    "boost": _boost,
    "language": _language,
    "end_tokens": st.booleans(),
    "model": _model,
    "look_ahead_ms": _look_ahead,
    "key": st.text(max_size=20),
    "tag": st.text(max_size=130),
}
_others = {name: value for name, value in _fields.items() if name != "op"}
_right = st.fixed_dictionaries({"op": _fields["op"]}, optional=_others)
_wrong = st.fixed_dictionaries({"op": _fields["op"] | _values}, optional=dict.fromkeys(_others, _values))
_first = st.fixed_dictionaries(
    {"op": st.just("init"), "sid": st.just("call-17")},
    optional={
        name: _fields[name]
        for name in "sr phrases boost language end_tokens gap_ms model look_ahead_ms".split()
    },
)
_line = st.one_of(
    st.binary(max_size=40).map(lambda audio: b"\0" + audio),
    (_right | _wrong).map(lambda fields: b"\0" + json.dumps(fields).encode()),
    (_right | _wrong).map(lambda fields: json.dumps(fields).encode()),
    _values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=80),
)

_whole = st.integers(0, 2**31 - 1)
_sendable = _phrase.filter(lambda phrase: not any("\ud800" <= char <= "\udfff" for char in phrase))


def _groups(kind: type[Message]) -> st.SearchStrategy[list[Message]]:
    """Lists of phrases with a boost, now and then as many as nobody means."""
    one = st.builds(kind, phrases=st.lists(_sendable, max_size=3), boost=_boost) | st.just(kind())
    few = st.lists(one, max_size=3)
    return st.one_of(
        few, few, few, st.builds(lambda groups, times: groups * times, few, st.integers(0, 5_000))
    )


_code = _language.filter(lambda code: not any("\ud800" <= char <= "\udfff" for char in code))
_config = st.builds(
    pb.RecognitionConfig,
    encoding=st.integers(0, 5),
    sample_rate_hertz=st.sampled_from([8000, 16000, 192000]) | _whole,
    stream_id=st.text(max_size=130).filter(str.isprintable),
    interim_results=st.booleans(),
    word_times=st.booleans(),
    audio_channel_count=st.integers(0, 4),
    language_code=_code,
    model=_model.filter(lambda name: not any("\ud800" <= char <= "\udfff" for char in name)),
    look_ahead_ms=st.none() | _look_ahead,
    end_tokens=st.booleans(),
    fill_gaps_after_ms=st.none() | st.integers(0, 11_000) | _whole,
    endpointing=st.none()
    | st.builds(pb.Endpointing, trailing_silence_ms=_whole, max_utterance_ms=_whole, start_timeout_ms=_whole),
    phrase_boosts=_groups(pb.PhraseBoost),
)
_phrases_alone = st.builds(pb.RecognitionConfig, phrase_boosts=_groups(pb.PhraseBoost))
_requests = st.one_of(
    (_config | _phrases_alone).map(lambda config: pb.RecognizeRequest(config=config)),
    st.text(max_size=130)
    .filter(str.isprintable)
    .map(lambda tag: pb.RecognizeRequest(finalize=pb.Finalize(tag=tag))),
).map(lambda request: request.SerializeToString())

_riva = st.builds(
    riva_pb.StreamingRecognizeRequest,
    streaming_config=st.builds(
        riva_pb.StreamingRecognitionConfig,
        config=st.builds(
            riva_pb.RecognitionConfig,
            encoding=st.integers(0, 25),
            sample_rate_hertz=st.integers(-(2**31), 2**31 - 1),
            audio_channel_count=st.integers(-3, 9),
            language_code=_code,
            custom_configuration=st.dictionaries(
                st.just("fill_gaps_after_ms"), st.integers(-5, 11_000).map(str) | _sendable, max_size=1
            ),
            speech_contexts=_groups(riva_pb.SpeechContext),
        )
        | st.builds(
            riva_pb.RecognitionConfig,
            encoding=st.just(1),
            speech_contexts=_groups(riva_pb.SpeechContext),
        ),
    ),
).map(lambda request: request.SerializeToString())

_chunk = st.tuples(
    st.sampled_from([b"fmt ", b"data", b"LIST", b"fact"]) | st.binary(min_size=4, max_size=4),
    st.sampled_from([0, 16, 18, 40]) | st.integers(0, 2**32 - 1),
    st.builds(
        lambda kind, channels, rate, bits: struct.pack("<HHIIHH", kind, channels, rate, 0, 0, bits),
        st.sampled_from([1, 3, 6, 7, 0xFFFE]),
        st.integers(0, 65_535),
        st.sampled_from([8000]) | st.integers(0, 2**32 - 1),
        st.sampled_from([8, 16, 24, 0]),
    )
    | st.binary(max_size=40),
).map(lambda parts: parts[0] + struct.pack("<I", parts[1]) + parts[2])
_wav = st.builds(
    lambda cut, chunks: struct.pack(">H", cut) + b"RIFF\xff\xff\xff\xffWAVE" + b"".join(chunks),
    st.integers(0, 100),
    st.lists(_chunk, max_size=4),
)


@st.composite
def _spoiled(draw: st.DrawFn, target: str) -> bytes:
    """Good input with some bytes changed, left out or put in."""
    data = bytearray(draw(st.sampled_from(seeds(target))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = at + draw(st.integers(0, 4))
        data[at:end] = draw(st.binary(max_size=4))
    return bytes(data)


def strategy(target: str) -> st.SearchStrategy[bytes]:
    """Input for a target: spoiled, nearly right, or anything."""
    nearly: dict[str, st.SearchStrategy[bytes]] = {
        "websocket": st.builds(
            lambda first, lines: b"\n".join((json.dumps(first).encode(), *lines)),
            _first | _right | _wrong,
            st.lists(_line, max_size=4),
        ),
        "config": _requests,
        "riva": _riva,
        "wav": _wav,
        "file": _wav.map(lambda data: data[2:]),
        **compressed_inputs.STRATEGIES,
        **dialect_inputs.STRATEGIES,
    }
    some = [_spoiled(target), st.binary(max_size=300)]
    return st.one_of(*some, nearly[target]) if target in nearly else st.one_of(*some)
