"""Deepgram's paths: opens their streams, and answers in HTTP what cannot be opened."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from ws_bridge.dialect import HttpAnswer
from ws_bridge.dialects.deepgram.live import DeepgramLive
from ws_bridge.dialects.deepgram.query import KEY_SCHEMES, WORDS, read_query
from ws_bridge.dialects.deepgram.recording import DeepgramRecording
from ws_bridge.handshake import Handshake
from ws_bridge.status import Failure, Refused

_CODES = {
    400: "Bad Request",
    401: "INVALID_AUTH",
    403: "INSUFFICIENT_PERMISSIONS",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}


class DeepgramDoor:
    """Takes handshakes of the live protocol."""

    words = WORDS

    def open(self, handshake: Handshake) -> DeepgramLive:
        """Reads a handshake. Raises Refused if it asks for what cannot be served."""
        protocol = [name for name in handshake.subprotocols[:1] if name.lower() in KEY_SCHEMES]
        return DeepgramLive(read_query(handshake), new_request_id(), now(), protocol)

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a handshake is refused."""
        return refusal(failure)


class DeepgramFileDoor:
    """Takes recordings."""

    words = WORDS

    def open(self, handshake: Handshake) -> DeepgramRecording:
        """Reads the start of a request. Raises Refused if it asks for what cannot be served."""
        if "application/json" in ",".join(handshake.headers.get_all("Content-Type")):
            message = "url cannot be fetched here: send the recording itself as the request's body"
            raise Refused(Failure("invalid_argument", message, "url"))
        return DeepgramRecording(read_query(handshake), new_request_id(), now())

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a recording is refused."""
        return refusal(failure)


def refusal(failure: Failure) -> HttpAnswer:
    """Deepgram's error response."""
    status, request_id = failure.http_status, new_request_id()
    body = {
        "err_code": _CODES.get(status, "INTERNAL_SERVER_ERROR"),
        "err_msg": failure.message,
        "request_id": request_id,
    }
    # In headers too: a client of a WebSocket may not see the body.
    told = failure.message.encode("ascii", "replace").decode().replace("\n", " ")
    headers = [("dg-error", told), ("dg-request-id", request_id)]
    return HttpAnswer(status, json.dumps(body, ensure_ascii=False), headers, failure.retry_after_ms)


def new_request_id() -> str:
    """A request's id, as Deepgram's are."""
    return str(uuid.uuid4())


def now() -> str:
    """The time, as Deepgram writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
