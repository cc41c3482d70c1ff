"""Recordings sent by POST as a test wants them sent, byte for byte."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11

from tests.support.process import PATIENCE_S

BOUNDARY = "a-line-between-parts"


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Its server-sent events."""
        assert self.headers["content-type"] == "text/event-stream"
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        return [json.loads(block.removeprefix("data: ")) for block in blocks]


class Posting:
    """One request on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, *events: Any) -> None:
        for event in events:
            self.writer.write(self._http.send(event) or b"")
        await self.writer.drain()

    async def event(self) -> Any:
        """The next event of the response."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.reader.read(65_536))
        return event

    async def answer(self) -> Answer:
        """The whole response."""
        body = b""
        while not isinstance(start := await self.event(), h11.Response):
            assert isinstance(start, h11.InformationalResponse), start
        while isinstance(event := await self.event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        headers = {name.decode(): value.decode() for name, value in start.headers}
        return Answer(start.status_code, headers, body)


@asynccontextmanager
async def posting(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Posting]:
    """A connection to the bridge."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        try:
            yield Posting(reader, writer)
        finally:
            writer.close()


def request(path: str, headers: dict[str, str]) -> h11.Request:
    return h11.Request(method="POST", target=path, headers=[("Host", "bridge"), *headers.items()])


async def post(
    port: int,
    path: str,
    body: bytes | Iterable[bytes],
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Sends a request: pieces of a body without stating its length, or a whole one."""
    length = (
        {"Content-Length": str(len(body))} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"}
    )
    async with posting(port, tls) as one:
        await one.send(request(path, length | (headers or {})))
        pieces = [body] if isinstance(body, bytes) else body
        for piece in pieces:
            await one.send(h11.Data(data=piece))
        await one.send(h11.EndOfMessage())
        return await one.answer()


def form(parts: Iterable[tuple[str, str | bytes]]) -> tuple[bytes, dict[str, str]]:
    """A form's body and header; bytes are a file."""
    lines = []
    for name, value in parts:
        named = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            named += '; filename="audio"\r\nContent-Type: application/octet-stream'
            data = value
        else:
            data = value.encode()
        lines.append(f"--{BOUNDARY}\r\n{named}\r\n\r\n".encode() + data + b"\r\n")
    body = b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
