"""What those ask who kill what is not live: of real processes, the ones that hang or are gone say no, and no others."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from asr.v1 import asr_pb2_grpc
from websockets.asyncio.client import connect

from testbed.processes import free_port
from tests.support.audio import speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, audio, config

LIMIT_S = 1
"""ASR_WATCHDOG_S: short, so that what hangs is found soon."""


def get(port: int, path: str, timeout: float = PATIENCE_S) -> int:
    """The status; 0 if there is no answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (urllib.error.URLError, OSError):
        return 0


async def status(port: int, path: str) -> int:
    return await asyncio.to_thread(get, port, path)


async def until(port: int, path: str, wanted: int) -> None:
    """Returns once a page has this status."""
    async with asyncio.timeout(PATIENCE_S):
        while await status(port, path) != wanted:  # noqa: ASYNC110 - another process's state can only be asked
            await asyncio.sleep(0.05)


async def stays_live(port: int) -> None:
    """For longer than something that hangs would be taken for live."""
    end = time.monotonic() + 2 * LIMIT_S
    while time.monotonic() < end:
        assert await status(port, "/livez") == 200
        await asyncio.sleep(0.1)


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[tuple[AsrService, int]]:
    """A service and its metrics port."""
    port = free_port()
    with await asyncio.to_thread(
        AsrService, ASR_METRICS_PORT=port, ASR_WATCHDOG_S=LIMIT_S, wait=False, **settings
    ) as service:
        yield service, port


async def test_a_service_that_loads_is_live_and_does_not_serve() -> None:
    async with serving(FAULT="load") as (service, port):
        await until(port, "/livez", 200)
        await stays_live(port)
        assert await status(port, "/healthz") == 503
        service.signal()
        assert await asyncio.to_thread(service.wait) == 0
        assert await status(port, "/livez") == 0


async def test_a_service_that_drains_is_live_and_does_not_serve() -> None:
    async with serving(ASR_DRAIN_S=PATIENCE_S) as (service, port):
        target = await asyncio.to_thread(service.wait_ready)
        assert await status(port, "/livez") == await status(port, "/healthz") == 200
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            held = stub.Recognize()
            for request in (config(), audio(speechlike(1.0))):
                await held.write(request)
            await held.initial_metadata()
            service.signal()
            await until(port, "/healthz", 503)
            await stays_live(port)
            await held.done_writing()
            async for _ in held:
                pass
        assert await asyncio.to_thread(service.wait) == 0
        assert await status(port, "/livez") == 0


async def test_a_service_whose_supervisor_hangs_is_dead_until_it_goes_on() -> None:
    async with serving() as (service, port):
        await asyncio.to_thread(service.wait_ready)
        service.popen.send_signal(signal.SIGSTOP)
        await until(port, "/livez", 503)
        await asyncio.to_thread(service.wait_line, "no sign of life for ASR_WATCHDOG_S=1 s")
        assert await status(port, "/metrics") == 503
        service.popen.send_signal(signal.SIGCONT)
        await until(port, "/livez", 200)
        assert await status(port, "/healthz") == 200
        assert await status(port, "/metrics") == 200
        service.popen.kill()
        await until(port, "/livez", 0)


async def test_a_service_whose_engine_hangs_is_live() -> None:
    """What the service mends by itself is no reason to end it: others' streams would go with it."""
    async with serving() as (service, port):
        await asyncio.to_thread(service.wait_ready)
        process = service.engine
        os.kill(process, signal.SIGSTOP)
        await until(port, "/healthz", 503)
        assert await status(port, "/livez") == 200
        await until(port, "/healthz", 200)
        assert service.engine != process
        assert await status(port, "/livez") == 200


@pytest.mark.parametrize(
    "workers",
    [
        1,
        pytest.param(
            2, marks=pytest.mark.skipif(sys.platform != "linux", reason="a port is shared on Linux only")
        ),
    ],
)
async def test_a_bridge_is_dead_only_where_it_hangs(workers: int) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        # There is no service behind it, and it is no deader for that.
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        with await asyncio.to_thread(
            lambda: Bridge(
                target, ASR_BRIDGE_METRICS_PORT=port, ASR_WATCHDOG_S=LIMIT_S, ASR_BRIDGE_WORKERS=workers
            )
        ) as bridge:
            assert (await bridge.get("/readyz"))[0] == 503
            if workers > 1:
                # One that is alone is seen to be while it drains, below.
                await stays_live(port)
            assert await status(port, "/livez") == 200
            bridge.popen.send_signal(signal.SIGSTOP)
            if workers > 1:
                await until(port, "/livez", 503)
            else:
                # One process: it does not even answer.
                assert await asyncio.to_thread(get, port, "/livez", LIMIT_S) == 0
            bridge.popen.send_signal(signal.SIGCONT)
            await until(port, "/livez", 200)
            assert bridge.stop() == 0
            assert await status(port, "/livez") == 0


async def test_a_bridge_that_drains_is_live(service: AsrService) -> None:
    port = free_port()
    with await asyncio.to_thread(
        lambda: Bridge(
            service.target, ASR_BRIDGE_METRICS_PORT=port, ASR_WATCHDOG_S=LIMIT_S, ASR_DRAIN_S=PATIENCE_S
        )
    ) as bridge:
        await bridge.ready()
        async with connect(bridge.url) as client:
            await client.send(INIT)
            await client.send(speechlike(1.0))
            await client.recv()
            bridge.signal(signal.SIGTERM)
            await bridge.said("draining")
            await stays_live(port)
            assert (await bridge.get("/readyz"))[0] == 503
            await client.send(CLOSE)
            assert (await listen(client)).code == 1000
        assert await asyncio.to_thread(bridge.wait) == 0
