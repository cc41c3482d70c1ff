"""What a page has to know before it connects, as the JSON of `/info`: whether it may come, and what is served.

    {"accepting": true, "origins": [], "service": {"model": "demo", "look_ahead_ms": 80, ...}}
    {"accepting": false, "reason": "draining", "origins": [], "error": {"code": "unavailable", "message": "..."}}

`service` is the answer to `GetServiceInfo`, under the contract's names; where keys are asked for it takes one. What the
bridge says of itself takes none: a browser never tells a page why its handshake was refused, so that the page has no
other place to ask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import grpc
from asr.v1 import asr_pb2
from google.protobuf.json_format import MessageToDict
from grpc import aio

from ws_bridge.call import status_details
from ws_bridge.channels import Channels
from ws_bridge.status import OWN, RETRY_AFTER_MS, Failure, Vocabulary, from_grpc

_STATUSES = {
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "permission_denied": HTTPStatus.FORBIDDEN,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


async def what_is_served(
    channels: Channels,
    metadata: Sequence[tuple[str, str]],
    timeout_s: float,
    words: Vocabulary = OWN,
) -> asr_pb2.GetServiceInfoResponse | Failure:
    """Asks the service with the client's credentials; returns the failure, in these words, where it does not say."""
    with channels.lease() as stub:
        try:
            return await stub.GetServiceInfo(
                asr_pb2.GetServiceInfoRequest(), metadata=tuple(metadata), timeout=timeout_s
            )
        except aio.AioRpcError as error:
            details = status_details(error.trailing_metadata())
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not details:
                message = "the speech service does not answer; try again later"
                return Failure("unavailable", message, retry_after_ms=RETRY_AFTER_MS)
            number, message = error.code().value[0], error.details() or ""
            return from_grpc(number, message, details, admitted=False, words=words)


def info_json(
    served: asr_pb2.GetServiceInfoResponse | Failure, origins: Sequence[str], refuses: str
) -> tuple[HTTPStatus, str]:
    """Makes the page: its HTTP status and its text. `refuses`: why no connection is taken now, "" if they are."""
    fields: dict[str, Any] = {"accepting": not refuses, "origins": list(origins)}
    if refuses:
        fields["reason"] = refuses
    if isinstance(served, Failure):
        status = _STATUSES.get(served.code, HTTPStatus.BAD_GATEWAY)
        fields["error"] = {"code": served.code, "message": served.message}
        if served.retry_after_ms is not None:
            fields["error"]["retry_after_ms"] = served.retry_after_ms
    else:
        status = HTTPStatus.OK
        fields["service"] = MessageToDict(
            served, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    if refuses:
        # A proxy then asks another bridge.
        status = HTTPStatus.SERVICE_UNAVAILABLE
    return status, json.dumps(fields, ensure_ascii=False) + "\n"
