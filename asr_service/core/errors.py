"""The errors that this service raises on purpose, and the status that each has for clients.

The caller's fault and ours are different types: a `ClientError` is answered and forgotten, an `InternalError` is
logged with a request id. gRPC codes are given by number, so that grpc is imported only where calls are served;
WebSocket close codes are those of RFC 6455 and the IANA registry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4


class AsrError(Exception):
    """Base of every error this service raises on purpose.

    Attributes:
        message: a sentence for the person who has to act on it.
        field: name of the request field or setting at fault, "" if there is none.
        retry_after_s: seconds after which another try makes sense, None if it never does.
        facts: values by name, for a program that words the error itself, by its `reason`.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_s: float | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.facts = dict(facts or {})

    @property
    def reason(self) -> str:
        """The kind of error, as `google.rpc.ErrorInfo` names it: AT_CAPACITY, STREAM_TIMEOUT, ..."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).upper()


class SettingsError(AsrError):
    """A setting cannot be served; the process exits with code 2."""


class ModelError(SettingsError):
    """The model cannot be read or cannot stream; found while the process already listens and refuses streams."""


class DamagedModel(ModelError):
    """The model's file is not what was written once: another copy of it may be whole."""


class ModelUnavailable(AsrError):
    """The model cannot be had now, through no fault of the settings: its hub is away, the disk is full.

    Found while the process already listens and refuses streams; it exits with code 1, and may be started again.
    """


class ClientError(AsrError):
    """What the client sent cannot be served; nothing is wrong with the server."""


class InvalidArgument(ClientError):
    """A field holds a value outside what is accepted; `field` names it, and the message begins with it."""

    @property
    def problem(self) -> str:
        """What is wrong with the field: the message without its name."""
        return self.message.removeprefix(f"{self.field} ")


class OutOfOrder(ClientError):
    """A message came when the protocol has no place for it, such as audio before config."""


class LimitReached(ClientError):
    """The stream or its client has reached one of its limits."""


class AtCapacity(ClientError):
    """All streams are taken, or the machine is too busy for one more."""


class QuotaReached(AtCapacity):
    """This client has as many streams open as its API key allows."""


class Overloaded(AtCapacity):
    """There are slots left, but results of live audio take longer than the settings allow."""


class Unauthenticated(ClientError):
    """The call carries no API key, or none that is known."""


class StreamTimeout(ClientError):
    """The client sent nothing for longer than the idle limit."""


class Unavailable(AsrError):
    """The server is starting, draining, or its engine has stopped."""


class InternalError(AsrError):
    """The service is at fault: a failed step or a bug. The message names no internals.

    Attributes:
        request_id: stands in the message and in the log, so that one can be found by the other.
    """

    def __init__(self, message: str = "internal error", *, request_id: str = "") -> None:
        self.request_id = request_id or uuid4().hex[:12]
        super().__init__(f"{message}, request id {self.request_id}")


def first_line(error: BaseException) -> str:
    """Returns what an error says, without the lines that libraries add on how to find the cause."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


@dataclass(frozen=True, slots=True)
class WireStatus:
    """The status codes of one kind of error in both protocols.

    Attributes:
        grpc_code: number of the gRPC status code.
        name: name of that status code, also the `code` of the WebSocket error message in lower case.
        ws_close: WebSocket close code.
    """

    grpc_code: int
    name: str
    ws_close: int


WIRE_STATUS: dict[type[AsrError], WireStatus] = {
    InvalidArgument: WireStatus(3, "INVALID_ARGUMENT", 1008),
    OutOfOrder: WireStatus(9, "FAILED_PRECONDITION", 1008),
    LimitReached: WireStatus(8, "RESOURCE_EXHAUSTED", 1008),
    AtCapacity: WireStatus(8, "RESOURCE_EXHAUSTED", 1013),
    Unauthenticated: WireStatus(16, "UNAUTHENTICATED", 1008),
    StreamTimeout: WireStatus(4, "DEADLINE_EXCEEDED", 1008),
    Unavailable: WireStatus(14, "UNAVAILABLE", 1013),
    InternalError: WireStatus(13, "INTERNAL", 1011),
}


def wire_status(error: BaseException) -> WireStatus:
    """Returns the status for an error: that of an internal error if its type is not in the table."""
    for kind in type(error).__mro__:
        if kind in WIRE_STATUS:
            return WIRE_STATUS[kind]
    return WIRE_STATUS[InternalError]
