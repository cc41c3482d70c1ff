"""Streams behind HAProxy, nginx and Envoy while everything behind them is restarted, and while nobody says anything."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from websockets.asyncio.client import connect

from asr_service.config import Settings
from tests.support.bridge import CLOSE, INIT, listen
from tests.support.process import ServerProcess
from tests.support.proxies import (
    CONFIGURATIONS,
    SHORT,
    Fleet,
    attempt,
    attempt_websocket,
    finished,
    fleet,
    opened,
)
from tests.support.rpc import Stub, config, transcribe
from ws_bridge.config import Settings as BridgeSettings

KINDS = pytest.mark.parametrize("kind", ["haproxy", "nginx", "envoy"])
PAUSE_S = 0.05
"""Of a caller, before it comes again; it leaves the processor to those that start."""


async def callers(target: str, expected: str, over: asyncio.Event) -> Counter[str]:
    """One stream after the other over gRPC, each of which ends exactly or is refused before it begins."""
    seen: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        while not over.is_set():
            found = await attempt(stub)
            if isinstance(found, str):
                assert found == expected
                seen["exact"] += 1
            else:
                assert found.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                seen["refused"] += 1
            await asyncio.sleep(PAUSE_S)
    return seen


async def browsers(url: str, expected: str, over: asyncio.Event) -> Counter[str]:
    """The same over WebSocket."""
    seen: Counter[str] = Counter()
    while not over.is_set():
        found = await attempt_websocket(url)
        if isinstance(found, str):
            assert found == expected
            seen["exact"] += 1
        else:
            assert found in (503, (1013, "unavailable"))
            seen["refused"] += 1
        await asyncio.sleep(PAUSE_S)
    return seen


async def restart(behind: Fleet, kind: str, number: int) -> None:
    """SIGTERM, and another in its place once it has ended in order."""
    processes: dict[int, ServerProcess] = {**(behind.services if kind == "service" else behind.bridges)}
    processes[number].signal()
    assert await asyncio.to_thread(processes[number].wait) == 0
    start = behind.start_service if kind == "service" else behind.start_bridge
    await asyncio.to_thread(start, number)
    if kind == "bridge":
        await behind.bridges[number].ready()
    await behind.until_in(f"{kind}s/{kind}-{number + 1}")


@KINDS
async def test_a_rolling_restart_loses_no_stream(kind: str, tmp_path: Path) -> None:
    """Services and bridges, one after the other, under callers of both protocols; streams that span each restart."""
    with fleet(kind, tmp_path) as behind:
        behind.start_pair()
        for number in range(2):
            await behind.start_bridge(number).ready()
            await behind.until_in(f"bridges/bridge-{number + 1}")
        async with grpc.aio.insecure_channel(behind.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, SHORT)
            over = asyncio.Event()
            restarts = [("service", 0), ("service", 1), ("bridge", 0), ("bridge", 1)]
            async with asyncio.TaskGroup() as group:
                calling = [group.create_task(callers(behind.target, expected, over)) for _ in range(2)]
                browsing = [group.create_task(browsers(behind.url, expected, over)) for _ in range(2)]
                for program, number in restarts:
                    held = [await opened(stub, SHORT[:8_000]) for _ in range(2)]
                    async with connect(behind.url) as one, connect(behind.url) as two:
                        for client in (one, two):
                            await client.send(INIT)
                            await client.send(SHORT)
                            await client.recv()
                        restarting = group.create_task(restart(behind, program, number))
                        process = (behind.services if program == "service" else behind.bridges)[number]
                        await asyncio.to_thread(process.wait_line, "draining")
                        assert [await finished(call, SHORT[8_000:]) for call in held] == [expected] * 2
                        for client in (one, two):
                            await client.send(CLOSE)
                            heard = await listen(client)
                            assert (heard.code, heard.final["text"]) == (1000, expected)
                    await restarting
                over.set()
            seen = [task.result() for task in [*calling, *browsing]]
            assert all(counts["exact"] for counts in seen)
            total: Counter[str] = sum(seen, Counter(exact=len(restarts) * 4))
            print(f"{kind}: {len(restarts)} restarts, {total['exact']} exact, {total['refused']} refused")


def test_the_proxies_are_more_patient_than_we_are() -> None:
    """Their time-outs beside the defaults of the settings that the comments there name."""
    idle_s = Settings.model_fields["idle_timeout_s"].default
    dead_s = 3 * BridgeSettings.model_fields["bridge_ping_s"].default
    haproxy, nginx, envoy = (
        CONFIGURATIONS[kind].read_text(encoding="utf-8") for kind in ("haproxy", "nginx", "envoy")
    )
    grpc_side = re.findall(r"timeout (?:client|server) (\d+)s", haproxy)
    grpc_side += re.findall(r"\b(?:client_body|grpc_send|send)_timeout (\d+)s", nginx)
    grpc_side += re.findall(r"stream_idle_timeout: (\d+)s", envoy)
    assert len(grpc_side) == 2 + 3 + 2
    assert all(int(seconds) > idle_s for seconds in grpc_side)
    websocket_side = re.findall(r"timeout tunnel (\d+)s", haproxy)
    websocket_side += re.findall(r"proxy_(?:read|send)_timeout (\d+)s", nginx)
    websocket_side += re.findall(r" idle_timeout: (\d+)s", envoy)
    # Of nginx, two for WebSockets and one for recordings; of Envoy, one for each.
    assert len(websocket_side) == 1 + 3 + 2
    assert all(int(seconds) > dead_s for seconds in websocket_side)


@KINDS
async def test_quiet_streams_outlive_the_time_outs(kind: str, tmp_path: Path) -> None:
    """Time-outs of a second: signs of life in one direction alone keep a stream; without them it is cut."""
    with fleet(kind, tmp_path) as behind:
        service = behind.start_service(0)
        behind.start_proxy({"330s": "1s", "75s": "1s"})
        # Straight to the service: what a bridge does for a client that says nothing is to say nothing.
        bridge = behind.start_bridge(0, ASR_BRIDGE_PING_S=0.2, ASR_GRPC_TARGET=service.target)
        await bridge.ready()
        await behind.until_in("bridges/bridge-1")
        async with grpc.aio.insecure_channel(behind.target) as channel, connect(behind.url) as client:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, SHORT)
            await client.send(INIT)
            keeping = stub.Recognize()
            await keeping.write(config(interim_results=False))
            silent = await opened(stub, b"")
            for _ in range(8):
                await keeping.write(pb.RecognizeRequest(keep_alive=pb.KeepAlive()))
                await asyncio.sleep(0.25)  # what is tested is time
            assert await silent.code() is not grpc.StatusCode.OK
            assert await finished(keeping, SHORT) == expected
            await client.send(SHORT)
            await client.send(CLOSE)
            heard = await listen(client)
            assert (heard.code, heard.final["text"]) == (1000, expected)
