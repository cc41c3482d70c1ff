"""Several processes of a bridge behind one port: real ones, killed, drained and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from testbed.processes import free_port
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen, talk
from tests.support.process import PATIENCE_S, AsrService, clean_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a port is shared on Linux only")

WORKERS = 3
# So many connections that each worker surely has some: the kernel deals them out at random.
CLIENTS = 40


def workers(bridge: Bridge) -> dict[str, int]:
    """The bridge's processes by name."""
    children = Path(f"/proc/{bridge.popen.pid}/task/{bridge.popen.pid}/children").read_text().split()
    return {Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in children}


async def metrics(port: int) -> dict[str, float]:
    """The values of the bridge's page."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    lines = (await asyncio.to_thread(fetch)).splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


@pytest.fixture
async def clients() -> AsyncIterator[AsyncExitStack]:
    """Closes what is left open."""
    async with AsyncExitStack() as stack:
        yield stack


async def streams(bridge: Bridge, clients: AsyncExitStack, count: int) -> list[ClientConnection]:
    """Clients whose streams are being served."""

    async def begin() -> ClientConnection:
        client = await clients.enter_async_context(
            connect(bridge.url, compression=None, open_timeout=PATIENCE_S)
        )
        await client.send(INIT)
        await client.send(speechlike(1.0))
        await client.recv()
        return client

    return list(await asyncio.gather(*(begin() for _ in range(count))))


async def test_a_worker_that_is_killed_takes_its_own_connections_and_is_started_again(
    clients: AsyncExitStack,
) -> None:
    metrics_port = free_port()
    pcm = speechlike(1.0)
    with (
        await asyncio.to_thread(AsrService, ASR_MAX_STREAMS=CLIENTS) as service,
        Bridge(
            service.target,
            ASR_BRIDGE_WORKERS=WORKERS,
            ASR_BRIDGE_METRICS_PORT=metrics_port,
        ) as bridge,
    ):
        await bridge.ready()
        expected = (await talk(bridge, [INIT, *cut(pcm, 640), CLOSE])).final["text"]
        open_ones = await streams(bridge, clients, CLIENTS)
        before = await metrics(metrics_port)
        assert before['asr_bridge_connections{state="open"}'] == CLIENTS
        assert before["asr_bridge_connections_opened_total"] == CLIENTS + 1

        killed = workers(bridge)["ws-bridge-1"]
        os.kill(killed, signal.SIGKILL)
        await bridge.said("ws-bridge-1 has ended by signal 9")
        ends = await asyncio.gather(*(finish(client) for client in open_ones))
        kinds = Counter(ends)
        assert kinds[None] > 0, "some were the killed worker's"
        assert kinds[expected] > 0, "others went on"
        assert set(kinds) == {None, expected}

        # Its successor takes connections, and what it had counted stays counted.
        await bridge.said("ws-bridge-1 listens again")
        assert workers(bridge)["ws-bridge-1"] != killed
        for _ in range(CLIENTS):
            assert (await talk(bridge, [INIT, *cut(pcm, 6400), CLOSE])).final["text"] == expected
        after = await metrics(metrics_port)
        assert after["asr_bridge_connections_opened_total"] == 2 * CLIENTS + 1
        assert after['asr_bridge_connections{state="open"}'] == 0

        # The process that answers with the page is started again too, and asks anew.
        os.kill(workers(bridge)["ws-metrics"], signal.SIGKILL)
        await bridge.said("ws-metrics listens again")
        assert (await metrics(metrics_port))["asr_bridge_connections_opened_total"] == 2 * CLIENTS + 1


async def finish(client: ClientConnection) -> str | None:
    """The text of a stream's final; None if its connection broke."""
    try:
        await client.send(CLOSE)
        heard = await listen(client)
    except ConnectionClosed:
        return None
    return str(heard.final["text"]) if heard.code == 1000 else None


async def test_a_worker_that_hangs_is_killed_and_started_again(
    service: AsrService, clients: AsyncExitStack
) -> None:
    with Bridge(service.target, ASR_BRIDGE_WORKERS=2, ASR_WATCHDOG_S=2) as bridge:
        await bridge.ready()
        open_ones = await streams(bridge, clients, 8)
        hanging = workers(bridge)["ws-bridge-0"]
        os.kill(hanging, signal.SIGSTOP)
        await bridge.said("ws-bridge-0 has given no sign of life for ASR_WATCHDOG_S=2 s")
        await bridge.said("ws-bridge-0 has ended by signal 9")
        await bridge.said("ws-bridge-0 listens again")
        assert workers(bridge)["ws-bridge-0"] != hanging
        # Those of the other one never noticed.
        ends = Counter([await finish(client) for client in open_ones])
        assert len(ends.keys() - {None}) <= 1
        again = await streams(bridge, clients, 8)
        assert None not in [await finish(client) for client in again]


async def test_sigterm_lets_streams_of_all_workers_finish(
    service: AsrService, clients: AsyncExitStack
) -> None:
    with Bridge(service.target, ASR_BRIDGE_WORKERS=WORKERS, ASR_DRAIN_S=60) as bridge:
        await bridge.ready()
        open_ones = await streams(bridge, clients, 8)
        processes = workers(bridge)
        assert len(processes) == WORKERS
        bridge.signal(signal.SIGTERM)
        # Workers close the port once their streams are over, and streams go on.
        texts = {await finish(client) for client in open_ones}
        assert len(texts) == 1
        assert None not in texts
        assert await asyncio.to_thread(bridge.wait) == 0
        for pid in processes.values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_a_second_signal_ends_all_at_once(service: AsrService, clients: AsyncExitStack) -> None:
    with Bridge(service.target, ASR_BRIDGE_WORKERS=WORKERS, ASR_DRAIN_S=600) as bridge:
        await bridge.ready()
        await streams(bridge, clients, 4)
        bridge.signal(signal.SIGTERM)
        await bridge.said("draining")
        bridge.signal(signal.SIGINT)
        assert await asyncio.to_thread(bridge.wait) == 128 + signal.SIGINT


async def test_the_limit_of_connections_is_that_of_all_workers(
    service: AsrService, clients: AsyncExitStack
) -> None:
    with Bridge(service.target, ASR_BRIDGE_WORKERS=WORKERS, ASR_BRIDGE_MAX_CONNECTIONS=5) as bridge:
        await bridge.ready()
        # Whoever has had an answer is counted.
        await streams(bridge, clients, 5)
        for _ in range(2 * WORKERS):
            with pytest.raises(InvalidStatus):
                await connect(bridge.url)


def test_nothing_is_left_when_the_one_that_watches_is_killed() -> None:
    with Bridge("127.0.0.1:1", ASR_BRIDGE_WORKERS=WORKERS) as bridge:
        bridge.signal(signal.SIGKILL)
        # Its workers have its output open too.
        bridge.wait()
        with socket.socket() as another:
            bind_alone(another, bridge.port)


def bind_alone(listener: socket.socket, port: int) -> None:
    """Binds a port that nobody shares, as soon as nobody has it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))


def refused(**settings: str) -> str:
    """What a bridge with workers says at last that ends since it cannot have what these settings ask for."""
    environment = clean_environment() | {"ASR_HOST": "127.0.0.1", "ASR_PORT": "0", "ASR_BRIDGE_WORKERS": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "ws_bridge"],
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("setting", ["ASR_PORT", "ASR_BRIDGE_METRICS_PORT"])
def test_a_port_that_somebody_has_is_an_error(setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        says = refused(**{setting: str(port)})
    assert setting in says
    assert f"127.0.0.1:{port}" in says


def test_what_only_a_worker_finds_is_an_error_too(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("")
    says = refused(ASR_BRIDGE_TLS_CERT=str(nothing), ASR_BRIDGE_TLS_KEY=str(nothing))
    assert "ASR_BRIDGE_TLS" in says
