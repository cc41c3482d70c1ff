"""What a client is told by webhook, at the end: on real sockets, and whatever the receiver does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from asr.v1 import asr_pb2
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.process import PATIENCE_S
from tests.support.webhooks import receiving
from ws_bridge.config import read_settings
from ws_bridge.connection import Connection
from ws_bridge.delivery import Delivery
from ws_bridge.dialects.twilio.stream import TwilioStream
from ws_bridge.metrics import Metrics
from ws_bridge.webhook import Webhook

START = json.dumps({"event": "start", "start": {"callSid": "CA1"}, "streamSid": "MZ1"})


async def told(webhook: Webhook, texts: Sequence[str]) -> None:
    """Serves a call of Twilio's, which is told these finals and its end; returns when it is over."""
    over = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        assert isinstance(socket, Connection)
        dialect = TwilioStream()
        dialect.receive(START)
        # The shortest time that the settings allow: less than a message takes that is posted twice.
        delivery = Delivery(socket, dialect, read_settings({"bridge_close_s": "0.1"}), Metrics(), webhook)
        for text in texts:
            result = asr_pb2.RecognitionResult(text=text, is_final=True)
            delivery.put(asr_pb2.RecognizeResponse(result=result))
        delivery.close()
        await delivery.finish(None, asyncio.create_task(delivery.run()))
        over.set()

    async with (
        asyncio.timeout(PATIENCE_S),
        serve(handle, "127.0.0.1", 0, create_connection=Connection) as server,
        connect(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"),
    ):
        await over.wait()


@asynccontextmanager
async def hanging(answers: int) -> AsyncIterator[str]:
    """A receiver that answers its first posts, and no more after them."""
    left = answers
    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        handlers.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        left -= 1
        if left >= 0:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await asyncio.gather(*(task for task in handlers if task is not None))


async def test_a_message_that_is_posted_again_has_the_time_for_it() -> None:
    """However short a time clients have for what is left for them."""
    async with receiving(0, 500) as receiver:
        await told(Webhook(receiver.url), ["a", "b"])
        assert [message.get("text", message["op"]) for message in receiver.messages] == ["a", "b", "end"]


@pytest.mark.parametrize("answers", [0, 1, 3])
async def test_what_a_webhook_does_not_take_is_counted_in_the_log(
    answers: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with hanging(answers) as url:
        await told(Webhook(url, timeout_s=0.3), ["a", "b"])
    records = [record for record in caplog.records if "last messages" in record.message]
    # Of two finals and the end of the call.
    fields = [{"sid": "CA1", "undelivered": 3 - answers}] if answers < 3 else []
    assert [record.__dict__["fields"] for record in records] == fields
