"""Checks the API key that a call shows in its metadata, before anything else of the call is looked at.

With keys set, only health is answered without one. The metadata is `authorization: Bearer KEY`; proxies that send the
header twice do no harm: one value that is a key suffices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from asr_service.access.api_keys import ApiKey, KeyRing
from asr_service.api import messages
from asr_service.core.errors import Unauthenticated
from asr_service.observability.metrics import Metrics

log = logging.getLogger(__name__)

_OPEN_TO_ALL = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
# Values of the header that are looked at.
_MOST_VALUES = 8
_FIRST_MESSAGE_S = 1.0
_HOW = "send it as metadata 'authorization: Bearer KEY'"


def caller_key(keys: KeyRing | None, metadata: Any) -> ApiKey | None:
    """Finds the API key that a call's metadata shows; None where the service asks for none.

    Raises:
        Unauthenticated: the service asks for a key, and the metadata has none that is known.
    """
    if keys is None:
        return None
    values = [value for name, value in metadata or () if name == "authorization"]
    for value in values[:_MOST_VALUES]:
        scheme, _, text = str(value).strip().partition(" ")
        if scheme.lower() == "bearer" and (key := keys.find(text.strip())):
            return key
    raise _unauthenticated(sent=bool(values))


class KeyCheck(grpc.aio.ServerInterceptor):
    """Refuses calls without a known key, except health.

    Args:
        keys: that are known.
        metrics: count the refusals.
    """

    def __init__(self, keys: KeyRing, metrics: Metrics) -> None:
        self._keys = keys
        self._metrics = metrics
        self._refusal: Any = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Gives the call's own handler, or one that refuses the call."""
        if not handler_call_details.method.startswith(_OPEN_TO_ALL):
            try:
                caller_key(self._keys, handler_call_details.invocation_metadata)
            except Unauthenticated:
                return self._refusal
        return await continuation(handler_call_details)

    async def _refuse(self, _requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Ends a call with the reason for its refusal.

        Its first message is read before: grpc.aio clients lose a status that meets their first write.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_MESSAGE_S):
                await context.read()
        sent = any(name == "authorization" for name, _ in context.invocation_metadata() or ())
        error = _unauthenticated(sent=sent)
        self._metrics.refused(error.reason)
        self._metrics.call_ended("unauthenticated", admitted=False)
        log.debug("refused a call without a valid key from %s", context.peer())
        await context.abort_with_status(rpc_status.to_status(messages.status(error)))


def _unauthenticated(*, sent: bool) -> Unauthenticated:
    what, key = ("the API key is not known here", "unknown") if sent else ("an API key is needed", "missing")
    return Unauthenticated(f"{what}; {_HOW}", facts={"api_key": key})
