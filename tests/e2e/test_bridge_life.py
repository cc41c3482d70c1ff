"""The bridge and its service come, go and come back: what clients are told, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from testbed.processes import free_port
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen, talk
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment
from tests.support.rpc import until_active


@asynccontextmanager
async def open_stream(bridge: Bridge) -> AsyncIterator[ClientConnection]:
    """A client whose stream is being served."""
    async with connect(bridge.url, compression=None) as client:
        await client.send(INIT)
        await client.send(speechlike(1.0))
        await client.recv()
        yield client


async def started(*args: object, **settings: Any) -> AsrService:
    """A service, without holding up the event loop."""
    return await asyncio.to_thread(lambda: AsrService(*map(str, args), **settings))


async def test_bridge_before_service_then_kill_9_then_another_service() -> None:
    port = free_port()
    pcm = speechlike(1.0)
    with Bridge(f"127.0.0.1:{port}") as bridge:
        assert await bridge.get("/healthz") == (200, {"status": "ok"})
        assert (await bridge.get("/readyz"))[0] == 503
        heard = await talk(bridge, [INIT, pcm])
        assert (heard.code, heard.error["code"], heard.error["sid"]) == (1013, "unavailable", "call-17")
        assert heard.error["retry_after_ms"] > 0

        with await started(ASR_GRPC_PORT=port) as service:
            await bridge.ready()
            heard = await talk(bridge, [INIT, *cut(pcm, 640), CLOSE])
            assert heard.code == 1000
            expected = heard.final["text"]
            assert expected

            async with open_stream(bridge) as one, open_stream(bridge) as two:
                service.vanish()
                for heard in await asyncio.gather(listen(one), listen(two)):
                    assert (heard.code, heard.error["code"]) == (1011, "unavailable")
                    assert heard.error["retry_after_ms"] > 0
            await bridge.said("connection ended .*outcome=unavailable")
        heard = await talk(bridge, [INIT, pcm])
        assert (heard.code, heard.error["code"]) == (1013, "unavailable")

        with await started(ASR_GRPC_PORT=port):
            await bridge.ready()
            heard = await talk(bridge, [INIT, *cut(pcm, 640), CLOSE])
            assert (heard.code, heard.final["text"]) == (1000, expected)


async def test_at_capacity_and_slots_come_back() -> None:
    with await started(ASR_MAX_STREAMS=2) as service, Bridge(service.target) as bridge:
        async with open_stream(bridge) as one, open_stream(bridge):
            heard = await talk(bridge, [INIT, *cut(speechlike(1.0), 640)])
            assert (heard.code, heard.error["code"]) == (1013, "resource_exhausted")
            assert heard.error["retry_after_ms"] > 0
            one.transport.abort()
            async with asyncio.timeout(PATIENCE_S):
                while heard.code != 1000:
                    heard = await talk(bridge, [INIT, CLOSE])
        await bridge.said("connection ended .*outcome=gone")


async def test_kill_9_of_the_bridge_gives_the_slots_back() -> None:
    with await started(ASR_MAX_STREAMS=2) as service, Bridge(service.target) as bridge:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            async with open_stream(bridge) as one, open_stream(bridge):
                bridge.signal(signal.SIGKILL)
                assert (await listen(one)).code is None
            await until_active(stub, 0)


async def test_a_draining_service_lets_the_bridges_streams_finish() -> None:
    with await started(ASR_DRAIN_S=30) as service, Bridge(service.target) as bridge:
        async with open_stream(bridge) as client:
            service.signal(signal.SIGTERM)
            await asyncio.to_thread(service.wait_line, "draining")
            refused = await talk(bridge, [INIT])
            assert (refused.code, refused.error["code"]) == (1013, "unavailable")
            await client.send(CLOSE)
            heard = await listen(client)
            assert (heard.code, bool(heard.final["text"])) == (1000, True)
        assert await asyncio.to_thread(service.wait) == 0


async def test_sigterm_drains_the_bridge(service: AsrService) -> None:
    with Bridge(service.target, ASR_DRAIN_S=30) as bridge:
        async with connect(bridge.url) as idle, open_stream(bridge) as client:
            bridge.signal(signal.SIGTERM)
            await bridge.said("draining")
            heard = await listen(idle)  # it had not begun
            assert (heard.code, heard.error["code"]) == (1013, "unavailable")
            assert await bridge.get("/healthz") == (200, {"status": "ok"})
            assert await bridge.get("/readyz") == (503, {"status": "draining"})
            with pytest.raises(InvalidStatus) as refused:
                await connect(bridge.url)
            assert refused.value.response.status_code == 503

            await client.send(speechlike(1.0))
            await client.send(CLOSE)
            heard = await listen(client)
            assert (heard.code, bool(heard.final["text"])) == (1000, True)
        assert await asyncio.to_thread(bridge.wait) == 0


async def test_streams_that_outlast_the_drain_are_told(service: AsrService) -> None:
    with Bridge(service.target, ASR_DRAIN_S=0.2) as bridge:
        async with open_stream(bridge) as client:
            bridge.signal(signal.SIGTERM)
            heard = await listen(client)
            assert (heard.code, heard.error["code"]) == (1013, "unavailable")
        assert await asyncio.to_thread(bridge.wait) == 0


async def test_a_second_signal_ends_at_once(service: AsrService) -> None:
    with Bridge(service.target, ASR_DRAIN_S=600) as bridge:
        async with open_stream(bridge) as client:
            bridge.signal(signal.SIGTERM)
            await bridge.said("draining")
            bridge.signal(signal.SIGTERM)
            assert await asyncio.to_thread(bridge.wait) == 128 + signal.SIGTERM
            assert (await listen(client)).code is None


async def test_logs_hold_no_text_and_json_is_json(service: AsrService) -> None:
    with Bridge(service.target, ASR_LOG_FORMAT="json", ASR_LOG_LEVEL="info", ASR_PORT=0) as bridge:
        heard = await talk(bridge, [INIT, speechlike(1.0), CLOSE])
        await bridge.said("connection ended")
    ended = [entry for line in bridge.lines if (entry := json.loads(line))["message"] == "connection ended"]
    assert [entry["outcome"] for entry in ended] == ["ok"]
    assert ended[0]["audio_bytes"] == 32_000
    assert heard.final["text"].split()[0] not in bridge.output


def test_ready_file(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    with Bridge("127.0.0.1:1", "--ready-file", str(path)) as bridge:
        ready = json.loads(path.read_text())
        assert ready == {"pid": bridge.pid, "host": "127.0.0.1", "port": bridge.port}


def run(*args: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("args", "settings", "says"),
    [
        ([], {"ASR_PORT": "http"}, "ASR_PORT=http"),
        (["--port", "99999"], {}, "--port=99999: should be less than or equal to 65535"),
        ([], {"ASR_BRIDGE_ORIGINS": "example.com"}, "scheme://host"),
        (["--channels", "0"], {}, "--channels=0"),
        ([], {"ASR_LOG_FORMAT": "xml"}, "ASR_LOG_FORMAT=xml"),
        ([], {"ASR_HOST": "no.such.host.invalid"}, "cannot listen on no.such.host.invalid"),
    ],
)
def test_bad_settings(args: list[str], settings: dict[str, object], says: str) -> None:
    ended = run("-m", "ws_bridge", *args, **settings)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("-m", "ws_bridge", ASR_HOST="127.0.0.1", ASR_PORT=port)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port} (ASR_HOST, ASR_PORT)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_tells_the_settings_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ws_bridge.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'nemo', 'grpc', 'asr', 'asr_service', 'websockets', 'numpy')"
        " if name in sys.modules])"
    )
    ended = run("-c", code)
    assert ended.stdout.splitlines()[-1] == "[]"
    for variable in ("ASR_PORT", "ASR_GRPC_TARGET", "ASR_BRIDGE_CHANNELS", "ASR_DRAIN_S"):
        assert f"[{variable}, default:" in ended.stdout
