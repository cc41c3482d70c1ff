"""The bridge as a real process, real WebSocket clients for it, and a service that does as a test tells it."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from asr.v1 import asr_pb2, asr_pb2_grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.process import PATIENCE_S, ServerProcess

INIT = '{"op":"init","sid":"call-17","sr":16000}'
CLOSE = '{"op":"close","sid":"call-17"}'


class Bridge(ServerProcess):
    """`python -m ws_bridge` on a free port of 127.0.0.1."""

    module: tuple[str, ...] = ("ws_bridge",)
    """What Python runs, and its first arguments."""

    def __init__(self, target: str, *options: str, **settings: object) -> None:
        """`settings` by full name (ASR_BRIDGE_CHANNELS=1); returns when it listens."""
        defaults: dict[str, Any] = {
            "ASR_HOST": "127.0.0.1",
            "ASR_PORT": 0,
            "ASR_GRPC_TARGET": target,
            "ASR_DRAIN_S": 5,
        }
        super().__init__(["-m", *self.module, *options], **(defaults | settings))
        self.port = int(self.wait_started(r"listening\b.*\bport\W+(\d+)").group(1))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an HTTP page."""
        return await asyncio.to_thread(page, self.port, path)

    async def ready(self, tls: ssl.SSLContext | None = None) -> None:
        """Returns once the bridge says that it can reach a serving service; `tls` where its port speaks it."""
        await until_ready(self.port, tls)

    async def said(self, pattern: str) -> re.Match[str]:
        """A line of its log, past or to come, without holding up the event loop."""
        return await asyncio.to_thread(self.wait_line, pattern)


def page(
    port: int, path: str, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an HTTP page of the bridge on this port."""
    url = f"{'https' if tls else 'http'}://{host}:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S, context=tls) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def until_ready(port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
    """Returns once the bridge on this port says that it can reach a serving service."""
    async with asyncio.timeout(PATIENCE_S):
        while (await asyncio.to_thread(page, port, "/readyz", tls, host))[0] != 200:  # noqa: ASYNC110 - another process's state can only be asked
            await asyncio.sleep(0.05)


@dataclass
class Heard:
    """What one connection was told: its text messages as they came, and how it was closed."""

    raw: list[str] = field(default_factory=list)
    code: int | None = None
    reason: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.raw]

    def of(self, op: str) -> list[dict[str, Any]]:
        """The messages of one kind."""
        return [message for message in self.messages if message["op"] == op]

    @property
    def error(self) -> dict[str, Any]:
        """The one error, which has to be the last message."""
        (error,) = self.of("error")
        assert self.messages[-1] == error
        return error

    @property
    def final(self) -> dict[str, Any]:
        """The last message, which has to be a final."""
        assert self.messages[-1]["op"] == "final"
        return self.messages[-1]


async def listen(socket: ClientConnection, heard: Heard | None = None) -> Heard:
    """Everything up to the end of the connection."""
    heard = heard or Heard()
    try:
        while True:
            message = await socket.recv()
            assert isinstance(message, str)
            heard.raw.append(message)
    except ConnectionClosed as closed:
        if closed.rcvd is not None:
            heard.code, heard.reason = closed.rcvd.code, closed.rcvd.reason
    return heard


async def talk(bridge: Bridge, said: Iterable[str | bytes], **options: Any) -> Heard:
    """One client that reads while it writes, and leaves the closing to the bridge."""
    async with asyncio.timeout(PATIENCE_S):
        socket = await connect(bridge.url, compression=None, **options)
        listening = asyncio.create_task(listen(socket))
        try:
            for message in said:
                await socket.send(message)
        except ConnectionClosed:
            pass  # what was heard tells why
        return await listening


Handler = Callable[[AsyncIterator[asr_pb2.RecognizeRequest], Any], Awaitable[None]]


class _Scripted(asr_pb2_grpc.SpeechServiceServicer):
    def __init__(self, handler: Handler, info: asr_pb2.GetServiceInfoResponse) -> None:
        self._handler = handler
        self._info = info

    # The contract's name, and what grpc.aio takes beside generators: a coroutine that writes to its context.
    async def Recognize(self, requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        await self._handler(requests, context)

    async def GetServiceInfo(  # noqa: N802
        self, _request: Any, _context: Any
    ) -> asr_pb2.GetServiceInfoResponse:
        return self._info


@asynccontextmanager
async def scripted_service(
    handler: Handler, port: int = 0, info: asr_pb2.GetServiceInfoResponse | None = None
) -> AsyncIterator[str]:
    """A gRPC service whose `Recognize` is the given coroutine; its HOST:PORT. For what the real one does not do.

    `info` is what it says is served.
    """
    info = info or asr_pb2.GetServiceInfoResponse(model="scripted")
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    asr_pb2_grpc.add_SpeechServiceServicer_to_server(_Scripted(handler, info), server)
    healthy = health.aio.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(0)


async def admit(context: Any) -> None:
    """What the service sends when it has accepted a stream."""
    await context.send_initial_metadata((("x-stream-id", "call-17"),))


def result(text: str, *, final: bool) -> asr_pb2.RecognizeResponse:
    """One result as the service sends it."""
    response = asr_pb2.RecognizeResponse(
        stream_id="call-17", result=asr_pb2.RecognitionResult(text=text, is_final=final)
    )
    response.server_time.GetCurrentTime()
    return response
