"""What the bridge tells Prometheus, of real connections."""

from __future__ import annotations

import asyncio
import math
import re
import urllib.request

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from testbed.processes import free_port
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, Heard, listen, talk
from tests.support.process import PATIENCE_S, AsrService, ServerProcess


class Page:
    """The bridge's metrics, as they are now."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    async def series(self) -> dict[str, float]:
        text = await asyncio.to_thread(self._fetch)
        return {name: float(value) for name, value in re.findall(r"^(asr_\S+) (\S+)$", text, re.MULTILINE)}

    def _fetch(self) -> str:
        with urllib.request.urlopen(self._url, timeout=PATIENCE_S) as page:
            return str(page.read().decode())

    async def until(self, name: str, least: float, most: float = math.inf) -> None:
        """Returns once a series has come to a value."""
        async with asyncio.timeout(PATIENCE_S):
            while not least <= (await self.series()).get(name, 0.0) <= most:  # noqa: ASYNC110 - another process can only be asked
                await asyncio.sleep(0.05)


async def test_a_connection_is_counted_from_its_beginning_to_its_end() -> None:
    port = free_port()
    pcm = speechlike(1.0, seed=2)
    with (
        AsrService() as service,
        Bridge(
            service.target, ASR_BRIDGE_METRICS_PORT=port, ASR_BRIDGE_CHANNELS=3, ASR_BRIDGE_MAX_CONNECTIONS=2
        ) as bridge,
    ):
        await bridge.ready()
        page = Page(port)
        await page.until("asr_bridge_upstream_channels", 3)
        async with connect(bridge.url) as new, connect(bridge.url) as open_:
            await open_.send(INIT)
            await open_.send(pcm)
            assert await open_.recv()
            await bridge_refuses(bridge)
            now = await page.series()
            assert {
                state: now[f'asr_bridge_connections{{state="{state}"}}']
                for state in ("new", "open", "closing")
            } == {
                "new": 1,
                "open": 1,
                "closing": 0,
            }
            assert now['asr_bridge_refused_total{reason="too_many"}'] == 1
            await open_.send(CLOSE)
            done = await listen(open_)
            await new.send("nonsense")
            refused = await listen(new)
        await page.until('asr_bridge_closed_total{code="1000"}', 1)
        await page.until('asr_bridge_closed_total{code="1008"}', 1)
        now = await page.series()
        assert now["asr_bridge_connections_opened_total"] == 2
        assert now['asr_bridge_messages_total{direction="in",kind="audio"}'] == 1
        assert now['asr_bridge_messages_total{direction="in",kind="control"}'] == 3
        assert now['asr_bridge_messages_total{direction="out",kind="final"}'] == len(done.of("final"))
        assert now['asr_bridge_messages_total{direction="out",kind="error"}'] == len(refused.of("error")) == 1
        assert now['asr_bridge_bytes_total{direction="in"}'] == len(pcm) + len(INIT + CLOSE + "nonsense")
        assert now["asr_bridge_upstream_reconnects_total"] == 0
        assert not [name for name in now if done.final["text"] and done.final["text"] in name]


async def bridge_refuses(bridge: Bridge) -> None:
    with pytest.raises(InvalidStatus, match="503"):
        await connect(bridge.url)


async def test_a_service_that_comes_back_is_a_reconnect() -> None:
    grpc_port, port = free_port(), free_port()
    first = AsrService(ASR_GRPC_PORT=grpc_port)
    try:
        with Bridge(first.target, ASR_BRIDGE_METRICS_PORT=port, ASR_BRIDGE_CHANNELS=2) as bridge:
            page = Page(port)
            await page.until("asr_bridge_upstream_channels", 2)
            socket = await connect(bridge.url)
            await socket.send(INIT)
            for packet in cut(speechlike(1.0), 640):
                await socket.send(packet)
            assert await socket.recv()
            first.vanish()
            first.wait()
            lost = await listen(socket)
            assert lost.code == 1011
            await page.until('asr_bridge_closed_total{code="1011"}', 1)
            await page.until("asr_bridge_upstream_channels", 0, 0)
            with AsrService(ASR_GRPC_PORT=grpc_port):
                await page.until("asr_bridge_upstream_reconnects_total", 2)
                await page.until("asr_bridge_upstream_channels", 2)
                heard: Heard = await talk(bridge, [INIT, speechlike(0.5), CLOSE])
                assert heard.code == 1000
    finally:
        first.popen.kill()
        first.wait()


def test_a_port_that_is_taken() -> None:
    port = free_port()
    with Bridge("127.0.0.1:1", ASR_BRIDGE_METRICS_PORT=port):
        second = ServerProcess(
            ["-m", "ws_bridge", "--port", "0", "--host", "127.0.0.1", "--metrics-port", str(port)]
        )
        assert second.wait() == 2
        assert f"ASR_BRIDGE_METRICS_PORT={port}: cannot listen" in second.output
