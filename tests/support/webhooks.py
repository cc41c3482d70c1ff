"""A receiver of webhooks, which answers as a test tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import h11

from tests.support.process import PATIENCE_S


class Receiver:
    """What came to an address, in order.

    Args:
        statuses: of the first answers; 0 closes the connection without one. 200 after them.
    """

    def __init__(self, statuses: Iterable[int] = ()) -> None:
        self.messages: list[dict[str, Any]] = []
        self.targets: list[str] = []
        self._statuses = list(statuses)
        self._something = asyncio.Event()
        self.url = ""

    async def until(self, op: str) -> dict[str, Any]:
        """The first message of a kind."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for message in self.messages:
                    if message["op"] == op:
                        return message
                self._something.clear()
                await self._something.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        body = b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                assert event.method == b"POST"
                self.targets.append(event.target.decode())
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        status = self._statuses.pop(0) if self._statuses else 200
        if status:
            writer.write(
                http.send(h11.Response(status_code=status, headers=[("Content-Length", "0")])) or b""
            )
            await writer.drain()
        if status == 200:
            self.messages.append(json.loads(body))
            self._something.set()
        writer.close()


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver(statuses)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/calls?a=b"
    async with server:
        yield receiver
