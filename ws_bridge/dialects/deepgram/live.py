"""Deepgram's live WebSocket, `/v1/listen`, as a dialect. Pure.

    client                                              server
    GET /v1/listen?encoding=linear16&sample_rate=16000&interim_results=true
    binary: audio, any size                             {"type":"Results",...,"is_final":false,...}
    {"type":"KeepAlive"}                                nothing; before the first audio it is waited for longer
    {"type":"Finalize"}                                 {"type":"Results",...,"is_final":true,"from_finalize":true,...}
    {"type":"CloseStream"}, or a binary message of      the last {"type":"Results",...,"is_final":true,...},
    no bytes                                            {"type":"Metadata",...}, then close code 1000

Without `encoding` the audio is a file, which says what it is. A text message that cannot be read is answered
with `{"type":"Error","variant":"SchemaError",...}`, and the stream goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from asr.v1 import asr_pb2

from ws_bridge.dialect import Ending, Reply, Step
from ws_bridge.dialects.deepgram.query import WORDS, Query
from ws_bridge.dialects.deepgram.results import Model, ResultWriter, dump
from ws_bridge.file_start import MOST_CHANNELS, as_stream, read_start
from ws_bridge.messages import Audio, Close, Finalize, KeepAlive, State
from ws_bridge.protocol import MAX_CONTROL_CHARS
from ws_bridge.status import INTERNAL_ERROR, NORMAL, POLICY_VIOLATION, Failure, Refused

_TYPES = ("KeepAlive", "Finalize", "CloseStream")
_SHOWN = 200


class DeepgramLive:
    """Speaks Deepgram's live protocol with one client.

    Args:
        query: what the client asks for.
        request_id: of the request; it is the stream's name too.
        created: when the request came, as ISO 8601 has it.
        protocol: the subprotocol that the client gets, if it offers one.
    """

    patience_s = None
    words = WORDS
    answers_elsewhere = False

    def __init__(self, query: Query, request_id: str, created: str, protocol: Sequence[str] = ()) -> None:
        self._query = query
        self._created = created
        self._writer = ResultWriter(query, request_id, Model(), query.channels)
        self._hash = hashlib.sha256(usedforsecurity=False)
        # The start of a file, until it has said what its audio is.
        self._start = b""
        self.still_there = False
        self.state = State.NEW
        self.sid = request_id
        self.key: str | None = query.key
        self.headers: Sequence[tuple[str, str]] = [
            ("dg-request-id", request_id),
            *(("Sec-WebSocket-Protocol", one) for one in protocol),
        ]

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Takes the model that is named in results."""
        self._writer.model = Model(info.model, info.version, info.decoder)

    def opening(self) -> Sequence[Step]:
        """Opens the stream, if the query says what its audio is."""
        query = self._query
        return self._open(query.enc, query.sr, query.channels) if query.enc else ()

    def receive(self, data: str | bytes) -> Sequence[Step]:
        """Reads a message."""
        self.still_there = False
        if self.state is State.CLOSING:
            return ()
        if isinstance(data, str):
            return self._control(data)
        if not data:
            return self._close()
        self._hash.update(data)
        return (Audio(data),) if self.state is State.OPEN else self._open_file(data)

    def left(self) -> Sequence[Step]:
        """Never comes: with its client the stream has gone."""
        return ()

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes the messages of a final, and those that tell when speech starts and when an utterance is over."""
        return self._writer.take(response)

    def interim(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes the message of an interim with text."""
        return self._writer.interim(response)

    def done(self) -> Ending:
        """Says what the stream was."""
        return Ending((self._writer.metadata(self._hash.hexdigest(), self._created),), NORMAL)

    def failed(self, failure: Failure) -> Ending:
        """Says what was wrong, in an `Error` for people and in the close frame as Deepgram does."""
        theirs = failure.close_code == POLICY_VIOLATION
        code = POLICY_VIOLATION if theirs else INTERNAL_ERROR
        reason = failure.message
        if failure.code == "deadline_exceeded":
            code, reason = INTERNAL_ERROR, f"NET-0001: {reason}"
        elif failure.field == "audio":
            reason = f"DATA-0000: {reason}"
        elif not theirs:
            reason = f"NET-0000: {reason}"
        return Ending((_error(failure.code, failure.message),), code, reason)

    def _open(self, enc: str, sr: int, channels: int) -> Sequence[Step]:
        self.state = State.OPEN
        self._writer.channels = channels
        return (self._query.init(self.sid, enc, sr, channels, live=True),)

    def _open_file(self, data: bytes) -> Sequence[Step]:
        """Takes the start of a file, which opens the stream once it says what its audio is."""
        self._start += data
        found = read_start(self._start)
        if found is None:
            return ()
        if not found.enc:
            raise _bad_audio(
                "is no file that streams take, which are WAV of 16-bit PCM, mu-law or A-law, FLAC, and Opus in Ogg or "
                "WebM; raw audio needs encoding and sample_rate, such as encoding=linear16&sample_rate=16000"
            )
        streamed = as_stream(found, separate_channels=self._query.multichannel)
        if streamed is None:
            raise _bad_audio(
                f"has {found.channels} channels: send at most {MOST_CHANNELS}, with multichannel=true, since channels "
                "are not mixed here"
            )
        start, self._start = self._start, b""
        return (*self._open(streamed.enc, streamed.sr, streamed.channels), Audio(start))

    def _control(self, text: str) -> Sequence[Step]:
        kind, channel = _read_control(text)
        if kind == "CloseStream":
            return self._close()
        if kind == "Configure":
            failure = {
                "type": "ConfigureFailure",
                "request_id": self.sid,
                "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                "description": "a stream keeps what it was opened with; open another one",
            }
            return (Reply(dump(failure)),)
        if kind not in _TYPES:
            sentence = f"type should be one of {', '.join(_TYPES)}, in a JSON object"
            return (Reply(_error("SchemaError", sentence, text)),)
        if self.state is State.NEW:
            # There is no stream to keep or to flush; but who keeps one alive is to have it.
            self.still_there = kind == "KeepAlive"
            return ()
        if kind == "KeepAlive":
            return (KeepAlive(),)
        if channel and self._writer.channels > 1:
            sentence = "channel cannot be chosen: Finalize is for all of them"
            return (Reply(_error("SchemaError", sentence, text)),)
        return (Finalize(),)

    def _close(self) -> Sequence[Step]:
        """Ends the stream; one without audio is opened for it, since it has an end like any other."""
        opening = self._open("linear16", 16_000, 1) if self.state is State.NEW else ()
        self.state = State.CLOSING
        return (*opening, Close())


def _read_control(text: str) -> tuple[str, bool]:
    """The type of a text message, "" if it has none, and whether it names a channel."""
    if len(text) > MAX_CONTROL_CHARS:
        return "", False
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return "", False
    kind = fields.get("type") if isinstance(fields, dict) else None
    return (kind, fields.get("channel") is not None) if isinstance(kind, str) else ("", False)


def _error(variant: str, description: str, message: str = "") -> str:
    fields = {"type": "Error", "variant": variant, "description": description}
    if message:
        fields["message"] = message[:_SHOWN].encode("utf-8", "replace").decode()
    return dump(fields)


def _bad_audio(problem: str) -> Refused:
    return Refused(Failure("invalid_argument", f"audio {problem}", field="audio"))
