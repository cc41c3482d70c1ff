"""Sessions in this process, on real sockets, between a client and a scripted service: what only a moment brings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import CoroutineType
from typing import Any

import pytest
from asr.v1 import asr_pb2, asr_pb2_grpc
from grpc import aio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.bridge import CLOSE, INIT, admit, listen, result, scripted_service
from tests.support.process import PATIENCE_S
from ws_bridge.call import Call
from ws_bridge.channels import Channels
from ws_bridge.config import read_settings
from ws_bridge.messages import Audio, Init
from ws_bridge.metrics import Metrics
from ws_bridge.packet_joiner import GRACE_S
from ws_bridge.sender import Sender
from ws_bridge.server import Bridge


@asynccontextmanager
async def bridge_before(target: str, **options: str) -> AsyncIterator[str]:
    """A bridge on this event loop; its URL."""
    channels = Channels(target, 1)
    bridge = Bridge(read_settings({"host": "127.0.0.1", **options}), channels, Metrics())
    server = await bridge.listen(0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        await channels.close()


def until(end_bytes: int) -> asr_pb2.RecognizeResponse:
    """A response that says where the next chunk ends."""
    response = result("", final=False)
    response.next_chunk.end_bytes, response.next_chunk.chunk_bytes = end_bytes, end_bytes
    return response


async def test_what_is_held_is_said_to_be_due_once() -> None:
    """The time that it may wait is over after a response has said that it completes a chunk."""
    due: list[bool] = []

    async def never(_: Any, context: Any) -> None:
        await admit(context)
        await asyncio.Event().wait()

    async with scripted_service(never) as target, aio.insecure_channel(target) as channel:
        call = Call(asr_pb2_grpc.SpeechServiceStub(channel))
        sender = Sender(call, Init("s"), lambda: due.append(sender.is_due()))
        sender.response(until(1_000))
        assert await sender.send(Audio(bytes(640)))
        sender.response(until(600))
        assert due == [True]
        later, loop = asyncio.Event(), asyncio.get_running_loop()
        # Timers go off in their order: the sender's is over when this one is.
        loop.call_later(0.1, later.set)
        await later.wait()
        assert due == [True]
        call.cancel()


TURN_S = 0.1
"""How long a turn of the event loop is made to last, where it matters what falls into one."""


def slow_turns(over: asyncio.Event) -> None:
    """Makes each turn of the event loop last so long, until it is over."""
    if not over.is_set():
        time.sleep(TURN_S)
        asyncio.get_running_loop().call_soon(slow_turns, over)


@pytest.mark.parametrize("turns", range(1, 4))
async def test_a_hold_that_is_over_when_a_response_says_so_does_not_end_the_session(turns: int) -> None:
    """Both in one turn of the event loop: so many after the response was sent, which depends on grpc.aio."""
    holds, sent = asyncio.Event(), asyncio.Event()

    async def service(requests: Any, context: Any) -> None:
        await admit(context)
        await anext(requests)
        # In bytes, how long the bridge may hold what comes, but for a grace.
        await context.write(until(640 + int(((turns - 0.5) * TURN_S - GRACE_S) * 32_000)))
        await holds.wait()
        asyncio.get_running_loop().call_soon(slow_turns, sent)
        await context.write(until(640))
        assert len((await anext(requests)).audio) == 640
        sent.set()
        async for _ in requests:
            pass
        await context.write(result("the end", final=True))

    async with (
        scripted_service(service) as target,
        bridge_before(target) as url,
        connect(url, compression=None) as client,
    ):
        await client.send(INIT)
        # The first response is there: an interim.
        await client.recv()
        await client.send(bytes(640))
        # What comes behind the audio is answered once the bridge has that.
        await (await client.ping())
        holds.set()
        await sent.wait()
        await client.send(CLOSE)
        heard = await listen(client)
    assert (heard.code, heard.final["text"]) == (1000, "the end")


@pytest.mark.parametrize("name", ["_uplink", "<lambda>"])
async def test_a_task_that_somebody_cancels_ends_its_session(name: str) -> None:
    """The one that reads the client, and the one that reads the service."""

    async def service(requests: Any, context: Any) -> None:
        await admit(context)
        await context.write(result("so far", final=False))
        async for _ in requests:
            pass

    async with (
        scripted_service(service) as target,
        bridge_before(target) as url,
        connect(url, compression=None) as client,
    ):
        await client.send(INIT)
        await client.recv()
        coroutines = {task: task.get_coro() for task in asyncio.all_tasks()}
        guarded = {
            coroutine.cr_frame.f_locals["task"].__name__: task
            for task, coroutine in coroutines.items()
            if isinstance(coroutine, CoroutineType) and coroutine.__qualname__ == "Session._guard"
            if coroutine.cr_frame is not None
        }
        assert len(guarded) == 3
        guarded[name].cancel()
        heard = await listen(client)
    assert (heard.code, heard.error["code"]) == (1011, "internal")


async def hear_to_the_end(requests: Any, context: Any) -> None:
    await admit(context)
    async for _ in requests:
        pass
    await context.write(result("the end", final=True))


KEEP_ALIVE = '{"type":"KeepAlive"}'


async def test_keep_alive_keeps_a_deepgram_client_that_has_no_audio_yet() -> None:
    """Without `encoding` there is no stream to keep before the first audio, but its connection."""
    loop, open_s = asyncio.get_running_loop(), 1.0
    async with (
        scripted_service(hear_to_the_end) as target,
        bridge_before(target, bridge_open_s=str(open_s)) as url,
        connect(f"{url}/v1/listen?model=nova-3", compression=None) as client,
    ):
        until_s = loop.time() + 2.5 * open_s
        while loop.time() < until_s:
            await client.send(KEEP_ALIVE)
            # The time that a client has is what is tested.
            await asyncio.sleep(0.1)
        await client.send('{"type":"CloseStream"}')
        heard = await listen(client)
    assert (heard.code, heard.messages[-1]["type"]) == (1000, "Metadata")


@pytest.mark.parametrize(("says", "limit_s"), [(KEEP_ALIVE, 0.5), ("", 0.3)])
async def test_a_deepgram_client_that_opens_no_stream_is_not_waited_for_for_ever(
    says: str, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ws_bridge.session._LONGEST_OPENING_S", 0.5)
    async with (
        scripted_service(hear_to_the_end) as target,
        bridge_before(target, bridge_open_s="0.3") as url,
        connect(f"{url}/v1/listen?model=nova-3", compression=None) as client,
    ):
        listening = asyncio.create_task(listen(client))
        while not listening.done():
            if says:
                with contextlib.suppress(ConnectionClosed):
                    await client.send(says)
            await asyncio.wait([listening], timeout=0.05)
        heard = await listening
    assert heard.code == 1011 and heard.reason == f"NET-0001: no audio within {limit_s} s of connecting"
