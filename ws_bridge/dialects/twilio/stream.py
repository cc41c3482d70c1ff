"""Twilio's Media Streams, `/twilio`, as a dialect. Pure.

    Twilio                                              webhook
    {"event":"connected",...}
    {"event":"start","start":{"callSid":...,"mediaFormat":{...},"customParameters":{...}},...}
    {"event":"media","media":{"track":"inbound","payload":"..."},...}
                                                        {"op":"final","sid":"CA...","text":...,"stream":"MZ..."}
    {"event":"stop",...}, or the connection ends        the last final, {"op":"end","sid":"CA...",...}

Twilio takes no results: they are the documented protocol's, and go to the webhook. What the stream asks for is in its
parameters, under the names of the documented `init`.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from typing import Any

from asr.v1 import asr_pb2

from ws_bridge.dialect import Ending, HttpAnswer, Step
from ws_bridge.fields import read_init
from ws_bridge.handshake import Handshake
from ws_bridge.messages import Audio, Close, Init, State
from ws_bridge.protocol import MAX_INIT_CHARS
from ws_bridge.status import NORMAL, OWN, Failure, Refused, Vocabulary
from ws_bridge.wire import error_json, result_json

DEFAULT_ENDPOINT_MS = 800
"""Silence that ends an utterance unless a parameter says otherwise: a call has more than one."""

_ENCODINGS = {"audio/x-mulaw": "mulaw", "audio/x-alaw": "alaw", "audio/x-l16": "linear16"}
_TRACK = "inbound"
_FLAGS = ("interim", "words", "details", "end_tokens")
_NUMBERS = ("endpoint_ms", "gap_ms", "look_ahead_ms", "boost")
_TEXTS = ("language", "model", "key")


class TwilioStream:
    """Takes one call's audio."""

    patience_s = None
    still_there = False
    words = Vocabulary(
        OWN.fields, "send it as parameter 'key' of the stream", "send media", "no start within"
    )
    # It comes with the start.
    key: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    answers_elsewhere = True

    def __init__(self) -> None:
        self.state = State.NEW
        self.sid = ""
        self._track = _TRACK
        self._init: Init | None = None
        self._more: dict[str, Any] = {}

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Never comes: the service is not asked before the start."""

    def opening(self) -> Sequence[Step]:
        """Does nothing: the start is a message."""
        return ()

    def receive(self, data: str | bytes) -> Sequence[Step]:
        """Reads an event; those that are not about audio are left alone."""
        if self.state is State.CLOSING:
            return ()
        message = _read(data)
        match message.get("event"):
            case "start":
                return (self._start(message),)
            case "media":
                return self._media(message.get("media"))
            case "stop":
                return self.left()
            case _:
                return ()

    def left(self) -> Sequence[Step]:
        """Ends the audio: what was said is still recognized when the call is over."""
        if self.state is State.NEW:
            raise Refused(Failure("failed_precondition", "stop came before start", "event"))
        if self.state is State.CLOSING:
            return ()
        self.state = State.CLOSING
        return (Close(),)

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes the message of a final."""
        return self.interim(response) if response.result.is_final else ()

    def interim(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes the message of a result."""
        assert self._init is not None
        return (self._told(result_json(response, self._init)),)

    def done(self) -> Ending:
        """Says that the call's audio is over."""
        return Ending((self._told(json.dumps({"op": "end", "sid": self.sid})),), NORMAL)

    def failed(self, failure: Failure) -> Ending:
        """Says what was wrong."""
        return Ending((self._told(error_json(failure, self.sid)),), failure.close_code, failure.message)

    def _start(self, message: dict[str, Any]) -> Init:
        if self.state is not State.NEW:
            raise Refused(Failure("failed_precondition", "start came a second time", "event"))
        start = _object(message.get("start"), "start")
        parameters = _object(start.get("customParameters") or {}, "start.customParameters")
        media = _object(start.get("mediaFormat") or {}, "start.mediaFormat")
        encoding = media.get("encoding", "audio/x-mulaw")
        # What is in JSON may be a list, which no dictionary is asked for.
        if not isinstance(encoding, str) or encoding not in _ENCODINGS:
            raise _invalid("start.mediaFormat.encoding", f"should be one of {', '.join(_ENCODINGS)}")
        if media.get("channels", 1) != 1:
            raise _invalid("start.mediaFormat.channels", "should be 1")
        track = parameters.get("track", _TRACK)
        if track not in ("inbound", "outbound"):
            raise _invalid("track", "should be inbound or outbound: two tracks take two streams")
        more = _with_results(message.get("streamSid") or start.get("streamSid"), parameters)
        fields = {name: _read_parameter(name, value) for name, value in parameters.items()}
        known = {name: fields[name] for name in (*_FLAGS, *_NUMBERS, *_TEXTS, "phrases") if name in fields}
        call = {
            "sid": start.get("callSid"),
            "sr": media.get("sampleRate", 8_000),
            "enc": _ENCODINGS[encoding],
        }
        defaults = {"interim": False, "endpoint_ms": DEFAULT_ENDPOINT_MS}
        self._init = init = read_init(defaults | known | call)
        self._track, self.sid, self.state = track, init.sid, State.OPEN
        self._more = more
        return init

    def _media(self, media: object) -> Sequence[Step]:
        if self.state is State.NEW:
            raise Refused(Failure("failed_precondition", "media came before start", "event"))
        fields = _object(media, "media")
        payload = fields.get("payload")
        if fields.get("track", _TRACK) != self._track:
            return ()
        try:
            audio = binascii.a2b_base64(str(payload).encode("ascii"), strict_mode=True)
        except (ValueError, UnicodeEncodeError):
            raise _invalid("media.payload", "is no base64") from None
        return (Audio(audio),) if audio else ()

    def _told(self, text: str) -> str:
        fields: dict[str, Any] = json.loads(text)
        # Escaped: a parameter may hold what is no character.
        return json.dumps(fields | self._more, separators=(",", ":"))


class TwilioDoor:
    """Takes handshakes of Media Streams."""

    words = TwilioStream.words

    def open(self, handshake: Handshake) -> TwilioStream:
        """Takes a handshake, which says nothing: Twilio sends no query and no headers of anybody's choice."""
        return TwilioStream()

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a handshake is refused; Twilio's debugger shows the status."""
        body = error_json(failure, "") + "\n"
        return HttpAnswer(failure.http_status, body, retry_after_ms=failure.retry_after_ms)


def _read(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, bytes):
        raise _invalid("message", "is binary: Twilio sends text")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise _invalid("message", "is no JSON") from None
    return _object(message, "message")


def _object(value: object, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _invalid(name, "should be an object")


def _with_results(stream: object, parameters: dict[str, Any]) -> dict[str, Any]:
    """What every message of the call has besides its own: the stream's name, and parameters but for the key."""
    told = {name: value for name, value in parameters.items() if name != "key"}
    more = {"stream": stream, "parameters": told}
    chars = len(json.dumps(more, ensure_ascii=False))
    if chars > MAX_INIT_CHARS:
        raise _invalid(
            "start.customParameters",
            f"has {chars} characters: there should be at most {MAX_INIT_CHARS}, since they come back with each result",
        )
    return more


def _read_parameter(name: str, value: object) -> object:
    """The value of a parameter, which Twilio sends as text; what is none stays so, and is refused by name."""
    if name == "phrases" and isinstance(value, str):
        return [phrase.strip() for phrase in value.split(",") if phrase.strip()]
    if name not in (*_FLAGS, *_NUMBERS) or not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower())
    except (ValueError, RecursionError):
        return value


def _invalid(name: str, problem: str) -> Refused:
    return Refused(Failure("invalid_argument", f"{name} {problem}", field=name))
