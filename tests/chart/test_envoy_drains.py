"""What the chart's preStop does to Envoy before live streams: the script itself, a real Envoy, service and bridge."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from asr.v1 import asr_pb2_grpc
from websockets.asyncio.client import connect

from testbed.processes import free_port
from tests.chart.releases import CHART
from tests.support import envoy
from tests.support.audio import speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen, until_ready
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, audio, config, text, transcribe

SCRIPT = CHART / "files/drain.sh"
PCM = speechlike(2.0)


def drain(admin: int, *seconds: int) -> subprocess.Popen[str]:
    """The script, started."""
    return subprocess.Popen(
        ["bash", SCRIPT, *map(str, seconds)],
        env=os.environ | {"ENVOY_ADMIN_PORT": str(admin)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def hold(stub: Stub) -> Any:
    """A stream that is admitted."""
    held = stub.Recognize()
    await held.write(config())
    await held.initial_metadata()
    return held


async def finish(held: Any) -> str:
    """Says `PCM` on a stream; its text."""
    await held.write(audio(PCM))
    await held.done_writing()
    responses = []
    while (response := await held.read()) is not grpc.aio.EOF:
        responses.append(response)
    return text(responses)


async def test_it_waits_for_the_last_stream_and_cuts_none(tmp_path: Path) -> None:
    """A gRPC stream and a WebSocket are held across it; the next stream of the same client takes another connection."""
    envoy.needs_envoy()
    grpc_port, websocket_port, admin = free_port(), free_port(), envoy.Admin()
    with await asyncio.to_thread(AsrService) as service, Bridge(service.target) as bridge:
        host, port = service.target.rsplit(":", 1)
        behind = {
            (f"{kind}-{number}", theirs): (host, mine)
            for kind, theirs, mine in (("service", 50051, int(port)), ("bridge", 8080, bridge.port))
            for number in (1, 2)
        }
        path = tmp_path / "envoy.yaml"
        path.write_text(envoy.configuration({50051: grpc_port, 8080: websocket_port}, admin.port, behind))
        with envoy.start(path, ["--drain-strategy", "immediate"]) as proxy:
            await envoy.wait_listening(proxy, admin)
            await until_ready(websocket_port)
            target = f"127.0.0.1:{grpc_port}"
            async with (
                grpc.aio.insecure_channel(target) as channel,
                connect(f"ws://127.0.0.1:{websocket_port}") as socket,
            ):
                stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
                expected = await transcribe(stub, PCM)
                held = await hold(stub)
                await socket.send(INIT)
                await socket.send(speechlike(1.0))
                await socket.recv()
                connections = admin.counter("http.grpc.downstream_cx_total")

                script = drain(admin.port, 0, int(PATIENCE_S))
                async with asyncio.timeout(PATIENCE_S):
                    # Streams that come meanwhile are served, and tell their connection that it is the last one.
                    while (
                        await asyncio.to_thread(admin.counter, "http.grpc.downstream_cx_total") == connections
                    ):
                        assert await transcribe(stub, PCM) == expected
                assert script.poll() is None

                assert await finish(held) == expected
                assert script.poll() is None, "the WebSocket is open"
                await socket.send(CLOSE)
                heard = await listen(socket)
                assert (heard.code, bool(heard.final["text"])) == (1000, True)
            said, _ = await asyncio.to_thread(script.communicate, timeout=PATIENCE_S)
            assert (script.returncode, said) == (0, "")


async def test_it_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    envoy.needs_envoy()
    grpc_port, admin = free_port(), envoy.Admin()
    with await asyncio.to_thread(AsrService) as service:
        host, port = service.target.rsplit(":", 1)
        behind = {
            (f"{kind}-{number}", theirs): (host, int(port))
            for kind, theirs in (("service", 50051), ("bridge", 8080))
            for number in (1, 2)
        }
        path = tmp_path / "envoy.yaml"
        path.write_text(envoy.configuration({50051: grpc_port, 8080: free_port()}, admin.port, behind))
        with envoy.start(path) as proxy:
            await envoy.wait_listening(proxy, admin)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
                stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
                expected = await transcribe(stub, PCM)
                held = await hold(stub)
                script = drain(admin.port, 0, 1)
                said, _ = await asyncio.to_thread(script.communicate, timeout=PATIENCE_S)
                assert (script.returncode, said) == (0, "")
                assert await finish(held) == expected, "it is Envoy's SIGTERM that ends it"


def test_an_envoy_that_is_gone_is_not_waited_for() -> None:
    script = drain(free_port(), 0, int(PATIENCE_S))
    script.communicate(timeout=PATIENCE_S)
    assert script.returncode == 0


def test_it_lints_clean() -> None:
    if (shellcheck := shutil.which("shellcheck", path=str(Path(sys.executable).parent))) is None:
        pytest.skip("shellcheck is not installed: requirements-dev.lock has it for Linux on x86-64 only")
    subprocess.run([shellcheck, "--shell=bash", SCRIPT], check=True)
