"""`make serve` without make: both programs as one, from the environment."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.asyncio.client import connect

from testbed.processes import children_by_name, free_port
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, listen, until_ready
from tests.support.process import PATIENCE_S, ServerProcess, children, gone, run_python
from tests.support.rpc import config as grpc_config
from tests.support.rpc import failure, retry_after_s, transcribe
from tools.serve import page_address, service_target

AS_PROCESS_1 = """
import ctypes, os, signal, sys
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
if (child := os.fork()) == 0:
    if os.fork() == 0:
        signal.pause()
    os._exit(0)
os.waitpid(child, 0)
os.execv(sys.executable, [sys.executable, "tools/serve.py"])
"""
"""Runs `tools/serve.py` as a process that gets orphans, as process 1 of a container does, and has one already."""


def until_gone(pid: int) -> None:
    """Returns once a process has ended and its parent has asked for its exit code, of which nobody else is told."""
    until = time.monotonic() + PATIENCE_S
    while not gone(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def serving() -> Iterator[tuple[ServerProcess, list[int]]]:
    """Both programs up; their process ids, of the service first."""
    with serving_at(free_port(), free_port()) as process:
        yield process, children(process.pid)


@contextmanager
def serving_at(
    grpc_port: int,
    port: int,
    host: str = "127.0.0.1",
    argv: Sequence[str] = ("tools/serve.py",),
    **more: object,
) -> Iterator[ServerProcess]:
    """Both programs up on these ports."""
    settings: dict[str, Any] = {
        "ASR_HOST": host,
        "ASR_GRPC_PORT": grpc_port,
        "ASR_PORT": port,
        "ASR_MODEL": "null",
        **more,
    }
    with ServerProcess(argv, **settings) as process:
        try:
            process.wait_line(r"serving grpc")
            process.wait_line(r"listening .*port=")
            process.wait_line(rf"speak into http://{re.escape(host)}:{port}/$")
            yield process
        finally:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_both(signum: int) -> None:
    with serving() as (process, pids):
        process.signal(signum)
        assert process.wait() == 0, process.output
        assert len(pids) == 2
        assert all(gone(pid) for pid in pids)


async def test_a_signal_lets_a_stream_over_the_bridge_finish_while_both_take_no_more() -> None:
    pcm = speechlike(2.0, seed=8)
    first, *rest = cut(pcm, 16_000)
    grpc_port, port = free_port(), free_port()
    with serving_at(grpc_port, port) as process:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, pcm)
            await until_ready(port)
            socket = await connect(f"ws://127.0.0.1:{port}", compression=None)
            await socket.send(INIT)
            await socket.send(first)
            assert '"interim"' in str(await socket.recv()), "the stream is under way"
            process.signal(signal.SIGTERM)
            # Both drain now, with the stream open: neither waits for the other to end.
            await asyncio.to_thread(process.wait_line, r"SIGTERM: draining 1 streams")
            await asyncio.to_thread(process.wait_line, r"\bdraining\b.*streams=1")
            # A front end hears of it a moment after the log.
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            async with asyncio.timeout(PATIENCE_S):
                while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                    pass
            watch.cancel()
            refused = await failure(stub, [grpc_config()])
            assert refused.code() is grpc.StatusCode.UNAVAILABLE and retry_after_s(refused) > 0
            for packet in rest:
                await socket.send(packet)
            await socket.send(CLOSE)
            heard = await listen(socket)
        assert (heard.final["text"], heard.code) == (expected, 1000)
        assert await asyncio.to_thread(process.wait) == 0, process.output


@pytest.mark.skipif(sys.platform != "linux", reason="a port is shared on Linux only")
async def test_both_in_several_processes_each(tmp_path: Path) -> None:
    """One file says that all of them serve, one check finds them healthy, one signal ends them."""
    grpc_port, port = free_port(), free_port()
    ready = tmp_path / "ready.json"
    settings: dict[str, Any] = {
        "ASR_FRONT_ENDS": 3,
        "ASR_ENGINES": 2,
        "ASR_DEVICE": "cpu",
        "ASR_BRIDGE_WORKERS": 2,
        "ASR_READY_FILE": ready,
    }
    with serving_at(grpc_port, port, **settings) as process:
        assert json.loads(ready.read_text())["grpc_port"] == grpc_port
        service, bridge = children(process.pid)
        ours = [service, bridge, *children(service), *children(bridge)]
        names = [*children_by_name(service), *children_by_name(bridge)]
        assert sorted(names) == [
            *("asr-engine-0", "asr-engine-1"),
            *("asr-front-0", "asr-front-1", "asr-front-2"),
            *("ws-bridge-0", "ws-bridge-1"),
        ]
        await until_ready(port)
        addresses = {"ASR_HOST": "127.0.0.1", "ASR_GRPC_PORT": grpc_port, "ASR_PORT": port}
        check = await asyncio.to_thread(run_python, "docker/healthcheck.py", "all", **addresses)
        assert (check.returncode, check.stdout) == (0, ""), check.stdout + check.stderr
        texts = set()
        for _ in range(8):
            socket = await connect(f"ws://127.0.0.1:{port}", compression=None)
            for message in (INIT, speechlike(0.5), CLOSE):
                await socket.send(message)
            texts.add((await listen(socket)).final["text"])
        assert len(texts) == 1 and texts != {""}
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0, process.output
        assert all(gone(pid) for pid in ours)


@pytest.mark.parametrize("victim", [0, 1], ids=["service", "bridge"])
def test_when_one_dies_the_other_is_stopped_and_it_shows(victim: int) -> None:
    with serving() as (process, pids):
        os.kill(pids[victim], signal.SIGKILL)
        assert process.wait() > 0
        assert all(gone(pid) for pid in pids)
        name = ("service", "bridge")[victim]
        assert re.search(rf"serve: the {name} ended with -9; stopping the other", process.output)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give orphans to process 1 alone")
async def test_an_orphan_of_others_that_ends_stops_nothing() -> None:
    grpc_port, port = free_port(), free_port()
    with serving_at(grpc_port, port, argv=["-c", AS_PROCESS_1]) as process:
        orphan, *ours = children(process.pid)
        assert len(ours) == 2
        os.kill(orphan, signal.SIGKILL)
        await asyncio.to_thread(until_gone, orphan)
        await until_ready(port)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            assert await transcribe(asr_pb2_grpc.SpeechServiceStub(channel), speechlike(0.5))
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0, process.output
        assert all(gone(pid) for pid in ours)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_an_address_of_its_own_is_where_the_bridge_asks() -> None:
    grpc_port, port = free_port(), free_port()
    with serving_at(grpc_port, port, "127.0.0.2") as process:
        await until_ready(port, host="127.0.0.2")
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0, process.output


@pytest.mark.parametrize(
    ("environment", "target"),
    [
        ({}, "localhost:50051"),
        ({"ASR_GRPC_PORT": "7000"}, "localhost:7000"),
        ({"ASR_HOST": "0.0.0.0", "ASR_GRPC_PORT": ""}, "localhost:50051"),
        ({"ASR_HOST": "::"}, "localhost:50051"),
        ({"ASR_HOST": "fd00::7", "ASR_GRPC_PORT": "7000"}, "[fd00::7]:7000"),
        ({"ASR_HOST": "10.0.0.7", "ASR_GRPC_TARGET": "dns:///asr:50051"}, "dns:///asr:50051"),
    ],
)
def test_where_the_bridge_finds_the_service(environment: dict[str, str], target: str) -> None:
    assert service_target(environment) == target


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "http://localhost:8080/"),
        ({"ASR_HOST": "0.0.0.0", "ASR_PORT": "80"}, "http://localhost:80/"),
        ({"ASR_HOST": "fd00::7", "ASR_BRIDGE_TLS_CERT": "/etc/asr/live.pem"}, "https://[fd00::7]:8080/"),
        ({"ASR_PORT": "0"}, ""),
        ({"ASR_BRIDGE_PAGE": "False"}, ""),
    ],
)
def test_where_the_page_is(environment: dict[str, str], address: str) -> None:
    assert page_address(environment) == address


def test_a_setting_that_cannot_be_served_ends_both() -> None:
    with ServerProcess(["tools/serve.py"], ASR_DECODER="tdt", ASR_PORT=0) as process:
        assert process.wait() == 2
        assert "ASR_DECODER" in process.output
