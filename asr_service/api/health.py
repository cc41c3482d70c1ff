"""Serves `grpc.health.v1` for services that are all up or all down together.

grpcio's own servicer holds a lock while it writes to a watcher, so that one watcher that does not read keeps every
change of status from all others. Here a change is a plain assignment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # untyped base
    """Reports whether the given services are served; they are not until `set` is called.

    Args:
        services: by full name; "" stands for the server as a whole and is always known.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self.services = frozenset(services) | {""}
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()

    def add(self, service: str) -> None:
        """Adds a service by its full name, before the server starts."""
        self.services |= {service}

    @property
    def serving(self) -> bool:
        """Whether the services are served now; from any thread."""
        return bool(self._status == _SERVING)

    def set(self, *, serving: bool) -> None:
        """Changes the status and wakes all watchers. On the event loop only."""
        self._status = _SERVING if serving else _NOT_SERVING
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: _Context) -> Any:  # noqa: N802 - the contract's name
        """Answers with the status now; NOT_FOUND for a service that is not known here."""
        if request.service not in self.services:
            known = ", ".join(repr(name) for name in sorted(self.services))
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}; known are {known}"
            )
        return health_pb2.HealthCheckResponse(status=self._status)

    async def List(self, _request: Any, _context: _Context) -> Any:  # noqa: N802 - the contract's name
        """Answers with the status of every service."""
        now = health_pb2.HealthCheckResponse(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self.services, now))

    async def Watch(self, request: Any, context: _Context) -> None:  # noqa: N802 - the contract's name
        """Sends the status now and after each change, until the caller leaves."""
        while True:
            changed = self._changed
            status = self._status if request.service in self.services else _UNKNOWN
            await context.write(health_pb2.HealthCheckResponse(status=status))
            await changed.wait()
