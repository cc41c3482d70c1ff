"""The bridge's WebSocket server, its HTTP pages, and how it drains."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.http11 import Request, Response
from websockets.typing import Origin

from ws_bridge.call_metadata import credentials
from ws_bridge.channels import Channels
from ws_bridge.config import Settings
from ws_bridge.connection import Connection
from ws_bridge.dialect import Door, HttpAnswer
from ws_bridge.dialects.doors import find_door
from ws_bridge.dialects.own import OwnProtocol
from ws_bridge.first_bytes import FirstBytes
from ws_bridge.handshake import read_handshake
from ws_bridge.info import info_json, what_is_served
from ws_bridge.metrics import Metrics
from ws_bridge.page_files import PageFiles
from ws_bridge.session import Session
from ws_bridge.status import Failure, Refused
from ws_bridge.tls import ServerCertificate
from ws_bridge.uploads import Uploads
from ws_bridge.webhook import Webhook

log = logging.getLogger(__name__)

_UPKEEP_S = 1.0
"""How often connections, clients, certificates and credentials are looked at."""
_HEALTH_S = 2.0
"""How long the service may take to say whether it serves, and what."""
_FRAMES_WAITING = 8
"""Frames of one client read ahead of the service. Beyond that TCP holds the client back."""

_NO_WEBHOOK = Failure(
    "failed_precondition",
    "ASR_BRIDGE_TWILIO_WEBHOOK is not set: there is nowhere to send results to",
    http=503,
)
_DRAINING = Failure("unavailable", "the bridge is shutting down; open a new connection", retry_after_ms=1000)


class Bridge:
    """Serves all WebSocket clients of the process."""

    def __init__(
        self,
        settings: Settings,
        channels: Channels,
        metrics: Metrics,
        certificate: ServerCertificate | None = None,
        count_connections: Callable[[int], int] = lambda own: own,
    ) -> None:
        """`count_connections` takes how many there are here, and returns how many there are in all workers."""
        self._settings = settings
        self._count_connections = count_connections
        self._metrics = metrics
        self._certificate = certificate
        self._channels = channels
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._draining = False
        self._webhook = Webhook(settings.bridge_twilio_webhook) if settings.bridge_twilio_webhook else None
        self._uploads = Uploads(settings, channels, metrics, self._refuses, self._count)
        self._page = PageFiles() if settings.bridge_page else None
        metrics.watch(
            states=lambda: Counter(session.state for session in list(self._sessions.values())),
            ready=lambda: channels.ready,
        )

    async def listen(self, port: int, *, shared: bool = False) -> Server:
        """Opens the port, which other processes may share.

        Raises:
            OSError: it cannot be opened.
        """
        settings = self._settings
        origins: list[Origin | None] = [Origin(origin) for origin in settings.origins]
        return await listen(
            self._serve,
            settings.host,
            port,
            reuse_port=shared or None,
            create_connection=self._look_first,  # type: ignore[arg-type]
            process_request=self._answer_http,
            process_response=_add_headers,
            ssl=self._certificate.context if self._certificate else None,
            origins=[*origins, None] if origins else None,
            compression="deflate" if settings.bridge_compression else None,
            max_size=settings.bridge_max_message_bytes,
            max_queue=_FRAMES_WAITING,
            open_timeout=settings.bridge_open_s,
            close_timeout=settings.bridge_close_s,
            ping_interval=settings.bridge_ping_s,
            # Connection says why.
            ping_timeout=None,
            server_header=None,
            backlog=1024,
        )

    def _look_first(self, *args: Any, **kwargs: Any) -> FirstBytes:
        """Makes what takes a new TCP connection: websockets' connection, unless a request with a body comes."""
        return FirstBytes(Connection(*args, **kwargs), self._uploads.exchange, self._settings.bridge_open_s)

    async def _serve(self, socket: ServerConnection) -> None:
        """Serves one client, in the task that the library made for it."""
        assert isinstance(socket, Connection)
        dialect = socket.dialect or OwnProtocol()
        elsewhere = None
        if socket.dialect is not None and socket.dialect.answers_elsewhere and self._webhook is not None:
            elsewhere = self._webhook
        session = Session(socket, dialect, self._channels, self._settings, self._metrics, elsewhere)
        self._metrics.opened()
        task = asyncio.current_task()
        assert task is not None
        self._sessions[task] = session
        self._count()
        try:
            if self._draining:
                session.end(_DRAINING)
            await session.run()
        except Exception:
            log.exception("a connection failed")
        finally:
            del self._sessions[task]
            self._count()

    async def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers requests for pages, and handshakes that are refused; None lets a handshake go on."""
        answer = await self._page_of(connection, request)
        if answer is not None and request.method == "HEAD":
            answer.body = b""
        return answer

    async def _page_of(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return _page(connection, HTTPStatus.OK, "ok")
        if path == "/readyz":
            if self._draining:
                return _page(connection, HTTPStatus.SERVICE_UNAVAILABLE, "draining")
            if not await self._channels.serving(_HEALTH_S):
                return _page(connection, HTTPStatus.SERVICE_UNAVAILABLE, "the speech service is not serving")
            return _page(connection, HTTPStatus.OK, "ok")
        if path == "/info":
            served = await what_is_served(self._channels, credentials("", request.headers), _HEALTH_S)
            return _json(connection, *info_json(served, self._settings.origins, self._refuses()))
        if self._page is not None and (answer := self._page.answer(request)) is not None:
            return answer
        if refusal := self._refuses():
            self._metrics.refused("draining" if self._draining else "too_many")
            return _page(connection, HTTPStatus.SERVICE_UNAVAILABLE, refusal)
        door = find_door(path)
        return await self._open(door, connection, request) if door else None

    async def _open(self, door: Door, connection: ServerConnection, request: Request) -> Response | None:
        """Gives a connection the dialect of its path; answers if that cannot be."""
        assert isinstance(connection, Connection)
        try:
            dialect = door.open(read_handshake(request.path, request.headers))
            if dialect.answers_elsewhere and self._webhook is None:
                raise Refused(_NO_WEBHOOK)
            if dialect.key is None:
                connection.dialect = dialect
                return None
            metadata = credentials(dialect.key, request.headers)
            served = await what_is_served(self._channels, metadata, self._settings.bridge_open_s, door.words)
            if isinstance(served, Failure):
                raise Refused(served)
            dialect.learn(served)
        except Refused as refused:
            failure = refused.failure
            self._metrics.refused(failure.code)
            fields = {"outcome": failure.code, "reason": failure.message}
            log.info("handshake refused", extra={"fields": fields})
            return _refusal(connection, door.refuse(failure))
        connection.dialect = dialect
        return None

    def _count(self) -> int:
        """Tells how many connections are open here; returns how many are in all workers."""
        return self._count_connections(len(self._sessions) + self._uploads.count)

    def _refuses(self) -> str:
        """Says why no connection is taken now; "" if they are."""
        if self._draining:
            return "draining"
        too_many = self._count() >= self._settings.bridge_max_connections
        return "too many connections" if too_many else ""

    async def keep_up(self) -> None:
        """Reconnects to the service, finds dead clients, follows certificates and credentials, until cancelled."""
        while True:
            if self._certificate is not None:
                self._certificate.refresh()
            self._channels.refresh()
            self._channels.keep_warm()
            for session in list(self._sessions.values()):
                session.check_alive()
            await asyncio.sleep(_UPKEEP_S)

    async def drain(self) -> None:
        """Waits for streams to finish, as long as the setting allows; then ends the rest with an error."""
        self._draining = True
        for session in list(self._sessions.values()):
            if not session.has_stream:
                session.end(_DRAINING)
        log.info("draining", extra={"fields": {"streams": len(self._sessions)}})
        uploads = asyncio.create_task(self._uploads.drain(self._settings.drain_s, _DRAINING))
        if self._sessions:
            await asyncio.wait(list(self._sessions), timeout=self._settings.drain_s)
        for session in list(self._sessions.values()):
            session.conclude(_DRAINING)
        if self._sessions:
            # Each has its own time limit for closing.
            await asyncio.wait(list(self._sessions))
        await uploads


def _add_headers(connection: ServerConnection, _request: Request, response: Response) -> None:
    """Adds what its dialect says to the answer to a handshake."""
    assert isinstance(connection, Connection)
    if connection.dialect is not None and response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        for name, value in connection.dialect.headers:
            response.headers[name] = value


def _page(connection: ServerConnection, status: HTTPStatus, says: str) -> Response:
    """Makes an HTTP response that says it in JSON."""
    return _json(connection, status, json.dumps({"status": says}) + "\n")


def _json(connection: ServerConnection, status: HTTPStatus, text: str) -> Response:
    """Makes an HTTP response of JSON, which no cache keeps."""
    response = connection.respond(status, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    response.headers["Cache-Control"] = "no-store"
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response


def _refusal(connection: ServerConnection, answer: HttpAnswer) -> Response:
    """Makes the HTTP response of a dialect."""
    response = _json(connection, HTTPStatus(answer.status), answer.body)
    if answer.retry_after_ms is not None:
        del response.headers["Retry-After"]
        response.headers["Retry-After"] = str(math.ceil(answer.retry_after_ms / 1000))
    for name, value in answer.headers:
        response.headers[name] = value
    return response
