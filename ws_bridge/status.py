"""Failures as WebSocket clients are told them, and how the service's gRPC statuses are translated into them. Pure.

The codes are those of the service's own table: its names in lower case, and the close codes of RFC 6455 and the IANA
registry: 1008 the client's fault, 1011 ours, 1013 try again later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

NORMAL = 1000
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013

RETRY_AFTER_MS = 1_000
"""When clients should come back, where the service could not be asked."""

_CLOSE_CODES = {
    "invalid_argument": POLICY_VIOLATION,
    "failed_precondition": POLICY_VIOLATION,
    "resource_exhausted": POLICY_VIOLATION,
    "deadline_exceeded": POLICY_VIOLATION,
    "unauthenticated": POLICY_VIOLATION,
    "permission_denied": POLICY_VIOLATION,
    "unavailable": TRY_AGAIN_LATER,
    "internal": INTERNAL_ERROR,
}
_GRPC_NAMES = {
    3: "invalid_argument",
    4: "deadline_exceeded",
    7: "permission_denied",
    8: "resource_exhausted",
    9: "failed_precondition",
    14: "unavailable",
    16: "unauthenticated",
}
"""Names of the gRPC status numbers that mean something to clients; every other one is "internal"."""

_RESETS = (1, 13)
"""CANCELLED and INTERNAL, as which gRPC reports the resets of proxies: CANCEL of HAProxy, INTERNAL_ERROR of nginx."""

_OF_THE_CONNECTION = (*_RESETS, 14)
"""Statuses that gRPC gives a stream whose connection has failed."""

_HTTP_STATUSES = {
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a protocol calls things in sentences for its clients.

    Attributes:
        fields: names of the gRPC contract to those of the protocol; others are the same in both.
        send_a_key: how a client sends its API key.
        send_something: what a client sends that has been quiet for too long.
        late: the start of a sentence for a client that has not said in time how its stream is to be recognized.
    """

    fields: Mapping[str, str]
    send_a_key: str
    send_something: str
    late: str


_FIELDS = {
    "sample_rate_hertz": "sr",
    "encoding": "enc",
    "stream_id": "sid",
    "interim_results": "interim",
    "word_times": "words",
    "trailing_silence_ms": "endpoint_ms",
    "phrase_boosts": "phrases",
    "language_code": "language",
    "fill_gaps_after_ms": "gap_ms",
}
OWN = Vocabulary(
    _FIELDS,
    'send it as header \'Authorization: Bearer KEY\', or as "key":"KEY" in init',
    "send audio, or keepalive while there is none",
    "no init within",
)
"""Of the documented WebSocket protocol."""

_PATH = re.compile(r"\bconfig\.([a-z_]+)")

_ERROR_DOMAIN = "asr.v1"
"""Whose reasons the bridge knows."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection ends abnormally.

    Attributes:
        code: name of the kind of error, a gRPC status name in lower case.
        message: a sentence for the person who has to act on it.
        field: the protocol's field at fault, "" if there is none.
        retry_after_ms: when another try makes sense, None if it never does.
        lost: whether a stream that had been admitted was lost with its service.
        http: status of an HTTP response, where the code alone does not give it.
    """

    code: str
    message: str
    field: str = ""
    retry_after_ms: int | None = None
    lost: bool = False
    http: int = 0

    @property
    def close_code(self) -> int:
        """WebSocket close code."""
        if self.lost:
            return INTERNAL_ERROR
        if self.code == "resource_exhausted" and self.retry_after_ms is not None:
            return TRY_AGAIN_LATER
        return _CLOSE_CODES[self.code]

    @property
    def http_status(self) -> int:
        """Status of an HTTP response."""
        return self.http or _HTTP_STATUSES[self.code]


class Refused(Exception):
    """The connection is to be closed with `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def from_grpc(
    number: int, message: str, details: bytes, *, admitted: bool, words: Vocabulary = OWN
) -> Failure:
    """Translates the status of a finished call into the failure that the client is told.

    Args:
        number: gRPC status code.
        message: its message.
        details: `grpc-status-details-bin` of the trailing metadata, b"" if there was none. The service always sends
            it with errors of its own; a status without it was made by the connection.
        admitted: whether the service had accepted the stream.
        words: what the client's protocol calls things.
    """
    told = _read_details(details)
    if number in _RESETS and told.code:
        # The trailers came, and gRPC let the reset behind them take the place of their status. The details have it too.
        number, message = told.code, told.message
    if number in _OF_THE_CONNECTION and not details:
        # The transport's own message names sockets, addresses and frames, which are not the client's business.
        if admitted:
            message = (
                "the connection to the speech service was lost and the stream with it; open a new connection"
            )
            return Failure("unavailable", message, retry_after_ms=RETRY_AFTER_MS, lost=True)
        message = "the speech service cannot be reached; try again later"
        return Failure("unavailable", message, retry_after_ms=RETRY_AFTER_MS)
    code = _GRPC_NAMES.get(number, "internal")
    name, bracket, index = told.path.rpartition(".")[2].partition("[")
    field_name = words.fields.get(name, name) + bracket + index
    sentence = (
        _own_sentence(told.reason, told.facts, words)
        or (told.problem and f"{field_name} {told.problem}".strip())
        or message
        or f"the speech service ended the stream ({code})"
    )
    sentence = _PATH.sub(lambda path: words.fields.get(path[1], path[1]), sentence)
    return Failure(code, sentence, field_name, told.retry_after_ms)


def _own_sentence(reason: str, facts: Mapping[str, str], words: Vocabulary) -> str:
    """The bridge's sentence for errors of which the service's would advise what only gRPC has; "" for all others."""
    match reason, facts:
        case "STREAM_TIMEOUT", {"silent_s": seconds}:
            return f"nothing was received for {seconds} s; {words.send_something}"
        case "UNAUTHENTICATED", {"api_key": "missing"}:
            return f"an API key is needed; {words.send_a_key}"
        case "UNAUTHENTICATED", {"api_key": "unknown"}:
            return f"the API key is not known here; {words.send_a_key}"
    return ""


@dataclass(slots=True)
class _Details:
    """What the details of a status say; what they do not say is empty.

    Attributes:
        code: the status's number once more.
        message: its message once more.
        reason: the kind of error, of ErrorInfo.
        facts: what belongs to it, of ErrorInfo.
        path: of the field at fault in the request, of BadRequest.
        problem: what is wrong with it, as the end of a sentence that its name begins; of BadRequest.
        retry_after_ms: of RetryInfo.
    """

    code: int = 0
    message: str = ""
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    path: str = ""
    problem: str = ""
    retry_after_ms: int | None = None


def _read_details(serialized: bytes) -> _Details:
    """Reads a serialized `google.rpc.Status` as far as possible; details of other kinds are passed over."""
    status, details = status_pb2.Status(), _Details()
    try:
        status.ParseFromString(serialized)
        details.code, details.message = status.code, status.message
        for item in status.details:
            info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if item.Unpack(info) and info.domain == _ERROR_DOMAIN:
                details.reason, details.facts = info.reason, dict(info.metadata)
            elif item.Unpack(bad_request) and bad_request.field_violations:
                violation = bad_request.field_violations[0]
                details.path = violation.field
                # Earlier services began the description with the field's path.
                details.problem = violation.description.removeprefix(violation.field).strip()
            elif item.Unpack(retry):
                details.retry_after_ms = round(retry.retry_delay.ToTimedelta().total_seconds() * 1000)
    except DecodeError:
        # A status that cannot be read in full is still a status.
        pass
    return details
