"""The WebSocket protocol, without any I/O: what a client may say, and when.

    client                                              server
    {"op":"init","sid":"call-17","sr":16000}
    binary: 16-bit little-endian mono PCM, any size
                                                        {"op":"interim","sid":"call-17","text":"book a",
                                                         "final":false,"ts":1767225600000}
    {"op":"finalize"}                       (optional)  {"op":"final",...,"final":true,"ts":...}, the stream goes on
    {"op":"keepalive"}                      (optional)
    {"op":"close","sid":"call-17"}                      {"op":"final","sid":"call-17","text":"at eight",
                                                         "final":true,"ts":...}, then close code 1000

The last final of a stream is the one that close code 1000 follows: a client that uses none of `finalize`, `endpoint_ms`
and `end_tokens` gets exactly one. Before any abnormal close there is
`{"op":"error","sid":...,"code":...,"message":...,"field"?,"retry_after_ms"?}`, except where WebSocket itself has been
violated (1002, 1007): then the close reason says what was wrong.

States of a connection, and where each message leads:

    state    init      audio     finalize  keepalive  close
    NEW      OPEN      error     error     error      error
    OPEN     error     OPEN      OPEN      OPEN       CLOSING
    CLOSING  -         -         -         -          -         what follows `close` is not looked at
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asr.v1 import asr_pb2
from google.protobuf.message import Message as Proto

from ws_bridge.status import Failure, Refused


def contract_limits(message: type[Proto], field: str) -> asr_pb2.Limits:
    """What the contract lets a field of one of its messages hold; the service refuses what goes beyond."""
    limits: asr_pb2.Limits = message.DESCRIPTOR.fields_by_name[field].GetOptions().Extensions[asr_pb2.limits]
    return limits


RATE_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "sample_rate_hertz")
ENDPOINT_LIMITS = contract_limits(asr_pb2.Endpointing, "trailing_silence_ms")
GAP_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "fill_gaps_after_ms")
SID_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "stream_id")
LANGUAGE_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "language_code")
MODEL_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "model")
LOOK_AHEAD_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "look_ahead_ms")
TAG_LIMITS = contract_limits(asr_pb2.Finalize, "tag")

MAX_KEY = 512
MAX_NUMBER = 1e9
MAX_CONTROL_CHARS = 4_096
"""Longest text message. Parsing happens on the event loop, and control messages are short; audio is binary."""

MAX_INIT_CHARS = 65_536
"""Longest text message before `init`, which may list phrases."""

COMPRESSED = ("flac", "ogg_opus", "webm_opus", "auto")
"""Encodings of audio that says its sample rate itself."""

ENCODINGS = ("linear16", "mulaw", "alaw", "float32", *COMPRESSED)


@dataclass(frozen=True, slots=True)
class Init:
    """The first message: how the stream is to be recognized.

    Attributes:
        sid: the client's label of the stream, echoed in every message; printable ASCII characters. It need not be
            unique: two connections with one sid are two streams.
        sr: samples per second; 0 for what compressed audio says itself.
        enc: one of `ENCODINGS`.
        interim: whether interims are sent.
        words: whether finals carry `words` with times and confidence.
        details: whether results carry `utterance`, `audio_ms`, `language`, and finals `reason` and `confidence`.
        endpoint_ms: silence that ends an utterance with a final; None: only the client ends one.
        phrases: words and phrases to listen for, such as names.
        boost: how much more likely these are than the model thinks; None: the service's default.
        language: BCP-47 code of the language that is spoken, or "auto"; "": the service's default. Results carry
            `language` if it is set.
        end_tokens: whether a token by which the model says that the utterance is over makes a final. By default only
            where `endpoint_ms` is set: a client that asks for neither expects one final.
        gap_ms: time without audio after which silence takes its place; None: time without audio does not count.
        model: name of the model that recognizes the stream; "": the service's default.
        look_ahead_ms: audio after a word that the model waits for; None: its default.
        key: API key for a service that asks for one, where the client can set no header, as in a browser.
        channels: of the audio, whose samples alternate; each has results of its own.
        punctuation: whether punctuation and capitals that the model writes stay.
        groups: further phrases, each group with a boost of its own. These three are for other protocols (`dialects/`).
    """

    sid: str
    sr: int = 16_000
    enc: str = "linear16"
    interim: bool = True
    words: bool = False
    details: bool = False
    endpoint_ms: int | None = None
    phrases: tuple[str, ...] = ()
    boost: float | None = None
    language: str = ""
    end_tokens: bool = False
    gap_ms: int | None = None
    model: str = ""
    look_ahead_ms: int | None = None
    key: str = field(default="", repr=False)
    channels: int = 1
    punctuation: bool = True
    groups: tuple[tuple[tuple[str, ...], float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Audio:
    """A binary message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Finalize:
    """Asks for a final now; `tag` is echoed in it if it was given."""

    tag: str = ""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The client is still there, and has no audio to send."""


@dataclass(frozen=True, slots=True)
class Close:
    """No more audio: the tail is flushed, and the last final sent."""


Message = Init | Audio | Finalize | KeepAlive | Close


class State(Enum):
    """How far the client's messages have come."""

    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"


class Conversation:
    """Turns the WebSocket messages of one connection into `Message`s, and refuses those that come out of order.

    Attributes:
        state: how far the messages have come.
        sid: of the init; "" before it.
    """

    def __init__(self) -> None:
        self.state = State.NEW
        self.sid = ""

    def receive(self, data: str | bytes) -> Message | None:
        """Reads a message; None for whatever follows `close`.

        Raises:
            Refused: the message cannot be served; the connection is to be closed with the failure it carries.
        """
        if self.state is State.CLOSING:
            return None
        message: Message
        if isinstance(data, bytes):
            if self.state is State.NEW:
                raise _out_of_order(
                    "binary message before init", 'send {"op":"init","sid":"<id>","sr":16000} first, as text'
                )
            if data[:1] == b"{" and _is_control(data):
                raise _invalid(
                    "message",
                    "control message in a binary frame, where audio belongs: send it as text (in most libraries, a "
                    "string instead of bytes)",
                )
            return Audio(data)
        fields = _parse(data, MAX_INIT_CHARS if self.state is State.NEW else MAX_CONTROL_CHARS)
        op = fields["op"]
        if op == "init":
            if self.state is not State.NEW:
                raise _out_of_order(
                    "second init", "a connection carries one stream; open another one for the next"
                )
            message = read_init(fields)
            self.sid = message.sid
            self.state = State.OPEN
            return message
        if self.state is State.NEW:
            raise _out_of_order(f"{op} before init", 'send {"op":"init","sid":"<id>","sr":16000} first')
        self._check_sid(fields)
        if op == "close":
            self.state = State.CLOSING
            return Close()
        return Finalize(_tag(fields)) if op == "finalize" else KeepAlive()

    def _check_sid(self, fields: dict[str, Any]) -> None:
        if "sid" in fields and fields["sid"] != self.sid:
            raise _invalid(
                "sid", f"{_show(fields['sid'])} is not this connection's sid, which is {_show(self.sid)}"
            )


def _is_control(data: bytes) -> bool:
    """Whether a binary message is a JSON object with something in it, which no audio is."""
    if len(data) > MAX_CONTROL_CHARS or not data.rstrip().endswith(b"}"):
        return False
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and bool(fields)


_OPS = ("init", "finalize", "keepalive", "close")


def _parse(text: str, limit: int) -> dict[str, Any]:
    """Reads a text message as an object with a known `op`."""
    if len(text) > limit:
        raise _invalid(
            "message",
            f"text message of {len(text)} characters: control messages have at most {limit} here, and audio "
            "goes in binary messages",
        )
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid(
            "message",
            "text message that is not JSON: text is for control messages, audio goes in binary ones",
        ) from None
    if not isinstance(fields, dict):
        raise _invalid(
            "message", f'JSON that is not an object: send an object such as {{"op":"{_OPS[0]}",...}}'
        )
    if "op" not in fields:
        raise _invalid("op", f"op is missing: it is one of {', '.join(_OPS)}")
    op = fields["op"]
    if not isinstance(op, str) or op not in _OPS:
        raise _invalid("op", f"op {_show(op)} is unknown: it is one of {', '.join(_OPS)}")
    return fields


def read_init(fields: dict[str, Any]) -> Init:
    """Reads an init message; fields that are not known are ignored, as a later version may know them.

    Raises:
        Refused: the first field that cannot be served.
    """
    endpoint_ms = None
    if fields.get("endpoint_ms") is not None:
        endpoint_ms = _whole(fields, "endpoint_ms", 0, ENDPOINT_LIMITS, "ms of silence")
    gap_ms = None
    if fields.get("gap_ms") is not None:
        gap_ms = _whole(fields, "gap_ms", 0, GAP_LIMITS, "ms without audio")
    look_ahead_ms = None
    if fields.get("look_ahead_ms") is not None:
        look_ahead_ms = _whole(fields, "look_ahead_ms", 0, LOOK_AHEAD_LIMITS, "ms of audio")
    enc, sr = _encoding(fields), 0
    if enc not in COMPRESSED or fields.get("sr") is not None:
        sr = _whole(fields, "sr", 16_000, RATE_LIMITS, "samples per second")
    return Init(
        sid=_sid(fields),
        sr=sr,
        enc=enc,
        interim=_flag(fields, "interim", True),
        words=_flag(fields, "words", False),
        details=_flag(fields, "details", False),
        endpoint_ms=endpoint_ms,
        phrases=_phrases(fields),
        boost=_number(fields, "boost"),
        language=_name(
            fields,
            "language",
            f"a BCP-47 code of at most {LANGUAGE_LIMITS.max_length} characters, such as en-US",
            LANGUAGE_LIMITS,
        ),
        end_tokens=_flag(fields, "end_tokens", endpoint_ms is not None),
        gap_ms=gap_ms,
        model=_name(
            fields,
            "model",
            f"a model's name of at most {MODEL_LIMITS.max_length} characters",
            MODEL_LIMITS,
        ),
        look_ahead_ms=look_ahead_ms,
        key=_key(fields),
    )


def _sid(fields: dict[str, Any]) -> str:
    sid = fields.get("sid")
    if (
        isinstance(sid, str)
        and 1 <= len(sid) <= SID_LIMITS.max_length
        and sid.isascii()
        and sid.isprintable()
    ):
        return sid
    found = "is missing" if "sid" not in fields else f"is {_show(sid)}"
    raise _invalid(
        "sid",
        f"sid {found}: it should be a string of 1 to {SID_LIMITS.max_length} printable ASCII characters",
    )


def _key(fields: dict[str, Any]) -> str:
    key = fields.get("key", "")
    if isinstance(key, str) and len(key) <= MAX_KEY and key.isascii() and (key.isprintable() or not key):
        return key
    raise _invalid("key", f"key should be a string of at most {MAX_KEY} printable ASCII characters")


def _whole(fields: dict[str, Any], name: str, default: int, limits: asr_pb2.Limits, what: str) -> int:
    value = fields.get(name, default)
    low, high = int(limits.min), int(limits.max)
    # bool is an int to Python, not to the person who wrote the client.
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise _invalid(
        name, f"{name} is {_show(value)}: it should be a whole number from {low} to {high} ({what})"
    )


def _phrases(fields: dict[str, Any]) -> tuple[str, ...]:
    """Reads a list of strings; what its model can do with them is the service's to say."""
    value = fields.get("phrases")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _invalid("phrases", f"phrases is {_show(value)}: it should be a list of strings")
    for at, phrase in enumerate(value):
        if not isinstance(phrase, str) or not _sendable(phrase):
            raise _invalid(
                f"phrases[{at}]", f"phrases[{at}] is {_show(phrase)}: it should be a string of words"
            )
    return tuple(value)


def _name(fields: dict[str, Any], name: str, what: str, limits: asr_pb2.Limits) -> str:
    """Reads the name of a language or a model, "" if it is not set; which ones there are is the service's to say."""
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, str) and len(value) <= limits.max_length and _sendable(value):
        return value
    raise _invalid(name, f"{name} is {_show(value)}: it should be {what}")


def _number(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER:
        return float(value)
    raise _invalid(name, f"{name} is {_show(value)}: it should be a number")


def _flag(fields: dict[str, Any], name: str, default: bool) -> bool:
    value = fields.get(name, default)
    if isinstance(value, bool):
        return value
    raise _invalid(name, f"{name} is {_show(value)}: it should be true or false")


def _encoding(fields: dict[str, Any]) -> str:
    value = fields.get("enc", "linear16")
    if isinstance(value, str) and value in ENCODINGS:
        return value
    raise _invalid("enc", f"enc is {_show(value)}: it should be one of {', '.join(ENCODINGS)}")


def _tag(fields: dict[str, Any]) -> str:
    tag = fields.get("tag", "")
    if isinstance(tag, str) and len(tag) <= TAG_LIMITS.max_length and _sendable(tag):
        return tag
    raise _invalid(
        "tag", f"tag is {_show(tag)}: it should be a string of at most {TAG_LIMITS.max_length} characters"
    )


def _sendable(text: str) -> bool:
    """Whether it can be sent as UTF-8: a lone surrogate, which JSON's escapes can write, cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


_repr = reprlib.Repr()
_repr.maxstring = 60
_repr.maxother = 60
_repr.maxlevel = 2


def _show(value: object) -> str:
    """Shows a value as the client wrote it, cut to what fits into an error message; ASCII, so that it can be sent."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _repr.repr(value).encode("ascii", "backslashreplace").decode()


def _invalid(field: str, message: str) -> Refused:
    return Refused(Failure("invalid_argument", message, field=field))


def _out_of_order(what: str, instead: str) -> Refused:
    return Refused(Failure("failed_precondition", f"{what}: {instead}", field="op"))
