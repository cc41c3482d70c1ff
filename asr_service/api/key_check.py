"""Who calls: API keys in the metadata of a call, checked before anything else of it is looked at.

With keys set, health alone is answered without one. The metadata is `authorization: Bearer KEY`; proxies that send the
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

from asr_service.access.api_keys import ApiKey, KeyRing, caller
from asr_service.api import messages as wire
from asr_service.core.errors import Unauthenticated
from asr_service.observability.metrics import Metrics

log = logging.getLogger(__name__)

_OPEN_TO_ALL = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
_MOST_VALUES = 8  # of the header that are looked at
_FIRST_MESSAGE_S = 1.0


class KeyCheck(grpc.aio.ServerInterceptor):
    """Lets calls with a key through, and health."""

    def __init__(self, keys: KeyRing, metrics: Metrics) -> None:
        """Keys that open, and where refusals are counted."""
        self._keys = keys
        self._metrics = metrics
        self._refusal: Any = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The call's own handler, or one that refuses it."""
        if not handler_call_details.method.startswith(_OPEN_TO_ALL):
            key = self._key(handler_call_details.invocation_metadata)
            if key is None:
                return self._refusal
            caller.set(key)
        return await continuation(handler_call_details)

    def _key(self, metadata: Any) -> ApiKey | None:
        values = [value for name, value in metadata or () if name == "authorization"]
        for value in values[:_MOST_VALUES]:
            scheme, _, text = str(value).strip().partition(" ")
            if scheme.lower() == "bearer" and (key := self._keys.find(text.strip())):
                return key
        return None

    async def _refuse(self, _requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Tells why. The first message is taken first: grpc.aio clients lose a status that meets their first write."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_MESSAGE_S):
                await context.read()
        sent = any(name == "authorization" for name, _ in context.invocation_metadata() or ())
        error = Unauthenticated(
            "the API key is not known here; " + _HOW if sent else "an API key is needed; " + _HOW
        )
        self._metrics.refused(wire.reason(error))
        self._metrics.call_ended("unauthenticated", admitted=False)
        log.debug("refused a call without a valid key from %s", context.peer())
        await context.abort_with_status(rpc_status.to_status(wire.status(error)))


_HOW = "send it as metadata 'authorization: Bearer KEY'"
