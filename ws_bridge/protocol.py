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
from typing import Any

from ws_bridge.fields import invalid, read_init, read_tag, show
from ws_bridge.messages import Audio, Close, Finalize, KeepAlive, Message, State
from ws_bridge.status import Failure, Refused

MAX_CONTROL_CHARS = 4_096
"""Longest text message. Parsing happens on the event loop, and control messages are short; audio is binary."""

MAX_INIT_CHARS = 65_536
"""Longest text message before `init`, which may list phrases."""


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
                raise invalid(
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
        return Finalize(read_tag(fields)) if op == "finalize" else KeepAlive()

    def _check_sid(self, fields: dict[str, Any]) -> None:
        if "sid" in fields and fields["sid"] != self.sid:
            raise invalid(
                "sid", f"{show(fields['sid'])} is not this connection's sid, which is {show(self.sid)}"
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
        raise invalid(
            "message",
            f"text message of {len(text)} characters: control messages have at most {limit} here, and audio "
            "goes in binary messages",
        )
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(
            "message",
            "text message that is not JSON: text is for control messages, audio goes in binary ones",
        ) from None
    if not isinstance(fields, dict):
        raise invalid(
            "message", f'JSON that is not an object: send an object such as {{"op":"{_OPS[0]}",...}}'
        )
    if "op" not in fields:
        raise invalid("op", f"op is missing: it is one of {', '.join(_OPS)}")
    op = fields["op"]
    if not isinstance(op, str) or op not in _OPS:
        raise invalid("op", f"op {show(op)} is unknown: it is one of {', '.join(_OPS)}")
    return fields


def _out_of_order(what: str, instead: str) -> Refused:
    return Refused(Failure("failed_precondition", f"{what}: {instead}", field="op"))
