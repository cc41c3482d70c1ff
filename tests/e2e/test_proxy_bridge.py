"""Bridges behind HAProxy, nginx and Envoy, as docker/proxy configures them; their service is there too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.audio import cut
from tests.support.bridge import CLOSE, INIT, Heard, listen
from tests.support.posting import post
from tests.support.process import PATIENCE_S
from tests.support.proxies import Fleet, attempt_websocket, fleet
from tests.support.streams import speech

KINDS = pytest.mark.parametrize("kind", ["haproxy", "nginx", "envoy"])
LONG = speech(40.0, seed=53)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ClientConnection]:
    """A client whose stream is being served, with half of the long recording said."""
    async with connect(url, compression=None) as client:
        await client.send(INIT)
        for packet in cut(LONG[:640_000], 32_000):
            await client.send(packet)
        yield client


@asynccontextmanager
async def opened_on(behind: Fleet, number: int) -> AsyncIterator[ClientConnection]:
    """The same on this bridge.

    Envoy chooses between two that it draws by lot, which may be the same one twice: clients on the other one go again.
    """
    placed = False
    while not placed:
        before = await behind.opened_on_bridge(number)
        async with opened(behind.url) as client:
            placed = await behind.opened_on_bridge(number) > before
            if placed:
                yield client


async def finished(client: ClientConnection) -> Heard:
    """What a client with the long recording heard to the end."""
    heard = Heard()
    listening = asyncio.create_task(listen(client, heard))
    for packet in cut(LONG[640_000:], 32_000):
        await client.send(packet)
    await client.send(CLOSE)
    return await listening


async def whole(url: str) -> str:
    """The long recording's text, of a stream in peace."""
    async with opened(url) as client:
        return str((await finished(client)).final["text"])


async def served(behind: Fleet) -> str:
    """The newcomers' text, once the proxy has found out that bridges are there."""
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(text := await attempt_websocket(behind.url), str):  # noqa: ASYNC110 - when the proxy finds out is its own affair
            await asyncio.sleep(0.1)  # the proxy looks once a second and tells nobody what it found
        return text


@KINDS
async def test_streams_finish_and_newcomers_go_to_the_other(kind: str, tmp_path: Path) -> None:
    """One bridge after the other gets SIGTERM, with a stream on each; the proxy stays without any, then has one."""
    with fleet(kind, tmp_path) as behind:
        behind.start_service(0)
        behind.start_proxy()
        for number in range(2):
            await behind.start_bridge(number).ready()
            await behind.until_in(f"bridges/bridge-{number + 1}")
        short = await served(behind)
        expected = await whole(behind.url)

        async with opened_on(behind, 0) as one, opened_on(behind, 1) as two:
            leaving, last = behind.bridges[0], behind.bridges[1]
            # Both have begun, so that neither counts as one that had not.
            await one.recv()
            await two.recv()
            leaving.signal()
            await leaving.said("draining streams=1")
            assert [await attempt_websocket(behind.url) for _ in range(6)] == [short] * 6
            for heard in [await finished(one), await finished(two)]:
                assert (heard.code, heard.final["text"]) == (1000, expected)
            assert await asyncio.to_thread(leaving.wait) == 0
            assert [await attempt_websocket(behind.url) for _ in range(6)] == [short] * 6

        async with opened(behind.url) as one, connect(behind.url) as idle:
            await one.recv()
            last.signal()
            await last.said("draining streams=2")
            heard = await listen(idle)  # it had not begun
            assert (heard.code, heard.error["code"]) == (1013, "unavailable")
            assert [await attempt_websocket(behind.url) for _ in range(4)] == [503] * 4
            heard = await finished(one)
            assert (heard.code, heard.final["text"]) == (1000, expected)
            assert await asyncio.to_thread(last.wait) == 0
        assert [await attempt_websocket(behind.url) for _ in range(4)] == [503] * 4

        await behind.start_bridge(0).ready()
        assert await served(behind) == short


@KINDS
async def test_the_service_of_a_bridge_goes(kind: str, tmp_path: Path) -> None:
    """The only one: its streams finish, newcomers are told to come back; it is found again, and then it is killed."""
    with fleet(kind, tmp_path) as behind:
        service = behind.start_service(0)
        behind.start_proxy()
        bridge = behind.start_bridge(0)
        await bridge.ready()
        short = await served(behind)
        expected = await whole(behind.url)
        async with connect(behind.url) as client:
            await client.send('{"op":"init","sid":"call-17","sr":7}')
            heard = await listen(
                client
            )  # what the service says comes through, although HAProxy resets such streams
            assert (heard.code, heard.error["field"]) == (1008, "sr")
        async with opened(behind.url) as client:
            await client.recv()
            service.signal()
            await asyncio.to_thread(service.wait_line, "draining 1 streams")
            for _ in range(4):
                assert await attempt_websocket(behind.url) in (503, (1013, "unavailable"))
            heard = await finished(client)
            assert (heard.code, heard.final["text"]) == (1000, expected)
        assert await asyncio.to_thread(service.wait) == 0
        assert await attempt_websocket(behind.url) in (503, (1013, "unavailable"))
        await asyncio.to_thread(behind.start_service, 0)
        assert await served(behind) == short

        async with opened(behind.url) as client:
            await client.recv()
            behind.services[0].vanish()
            heard = await listen(client)
            assert (heard.code, heard.error["code"]) == (1011, "unavailable")
            assert heard.error["retry_after_ms"] > 0


@KINDS
async def test_recordings_pass(kind: str, tmp_path: Path) -> None:
    """A recording of more than a megabyte, which is what nginx takes unless it is told, is answered as a stream is."""
    with fleet(kind, tmp_path) as behind:
        behind.start_service(0)
        behind.start_proxy()
        await behind.start_bridge(0).ready()
        await behind.until_in("bridges/bridge-1")
        await served(behind)
        expected = await whole(behind.url)
        port = int(behind.url.rpartition(":")[2])
        pieces = cut(LONG, 32_000)
        answer = await post(port, "/v1/listen?encoding=linear16&sample_rate=16000", pieces)
        assert answer.json["results"]["channels"][0]["alternatives"][0]["transcript"] == expected
