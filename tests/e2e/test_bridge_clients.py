"""The file client of the bridge and the microphone client, as the programs that people run."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from testbed.processes import free_port
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, admit, scripted_service, talk
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment

PCM = speechlike(1.0, seed=21)


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wav") / "speech.wav"
    soundfile.write(path, np.frombuffer(PCM, "<i2"), 16_000)
    return path


def run(*args: object, data: bytes = b"") -> tuple[int, str, str]:
    """Exit code, output and errors of a client."""
    ended = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=clean_environment(),
        input=data,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


async def expected(bridge: Bridge) -> str:
    text: str = (await talk(bridge, [INIT, *cut(PCM, 640), CLOSE])).final["text"]
    assert text
    return text


@pytest.mark.parametrize(
    "how", [["clients/ws_client_wav.py"], ["-m", "clients.ws_client_wav"]], ids=["script", "module"]
)
async def test_documented_call(bridge: Bridge, wav: Path, how: list[str]) -> None:
    code, out, err = run(*how, wav, bridge.url, "call-17", "--fast")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == await expected(bridge)


async def test_a_copy_works_from_anywhere(bridge: Bridge, wav: Path, tmp_path: Path) -> None:
    """As users take it: the files of the folder, without this project on the path."""
    copy = tmp_path / "clients"
    copy.mkdir()
    for file in (ROOT / "clients").glob("*.py"):
        shutil.copy(file, copy)
    code, out, err = run("-I", copy / "ws_client_wav.py", wav, bridge.url, "--fast")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == await expected(bridge)
    for name in ("grpc_client_wav", "mic"):
        code, out, err = run("-I", copy / f"{name}.py", "--help")
        assert (code, err) == (0, "") and out.startswith("usage: ")


def test_the_websocket_client_needs_no_grpc() -> None:
    snippet = "import sys, clients.ws_client_wav; print(*{'grpc', 'google', 'asr'} & set(sys.modules))"
    assert run("-c", snippet) == (0, "\n", "")


async def test_real_time_shows_interims_and_the_time_to_the_final(bridge: Bridge, wav: Path) -> None:
    code, out, err = run("clients/ws_client_wav.py", wav, bridge.url, "--packet-ms", 40)
    assert code == 0
    *interims, final = out.splitlines()
    assert final == await expected(bridge)
    assert len(interims) >= 2
    assert all(final.startswith(line.removeprefix("  ... ")) for line in interims)
    assert err.startswith("1.0 s of audio; last final ")


def test_words_and_stereo_at_another_rate(bridge: Bridge, tmp_path: Path) -> None:
    path = tmp_path / "stereo.flac"
    left = np.frombuffer(speechlike(1.0, seed=3, rate=44_100), "<i2")
    soundfile.write(path, np.stack([left, left], axis=1), 44_100)
    code, out, err = run("clients/ws_client_wav.py", path, bridge.url, "--fast", "--words")
    assert (code, err) == (0, "")
    assert " 0.00     0.08  " in out


def test_one_line_for_what_goes_wrong(bridge: Bridge, wav: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("this is not audio")
    port = free_port()
    cases = [
        ([tmp_path / "none.wav", bridge.url], 2, "no such file"),
        ([text, bridge.url], 2, "not an audio file"),
        ([wav, f"ws://127.0.0.1:{port}"], 1, "cannot connect"),
        ([wav, f"http://127.0.0.1:{bridge.port}"], 2, "should start with ws://"),
        ([wav, bridge.url, "café"], 1, "invalid_argument: sid"),
        ([wav, bridge.url, "--fast", "--endpoint-ms", 5], 1, "invalid_argument: endpoint_ms"),
        ([wav, bridge.url + "/healthz"], 1, "HTTP 200"),
    ]
    for args, expected_code, says in cases:
        code, _, err = run("clients/ws_client_wav.py", *args)
        assert code == expected_code
        assert says in err.splitlines()[-1]
        assert "Traceback" not in err


async def test_raw_audio_from_another_program(bridge: Bridge, service: AsrService) -> None:
    for target in (service.target, bridge.url):
        for how in (["clients/mic.py"], ["-m", "clients.mic"]):
            code, out, err = run(*how, "-", "--to", target, "--endpoint-ms", 0, data=PCM)
            assert (code, err) == (0, "")
            assert out.splitlines()[-1] == await expected(bridge)


async def test_clients_need_nothing_that_windows_lacks(
    bridge: Bridge, service: AsrService, wav: Path, tmp_path: Path
) -> None:
    words = await expected(bridge)
    for client in (
        ("clients/grpc_client_wav.py", "--fast", "--target", service.target, wav),
        ("clients/ws_client_wav.py", "--fast", wav, bridge.url),
        ("clients/mic.py", "-", "--to", service.target, "--endpoint-ms", 0),
        ("clients/mic.py", "-", "--to", bridge.url, "--endpoint-ms", 0),
    ):
        code, out, err = run("-m", "tests.support.other_systems", "win32", *client, data=PCM)
        assert code == 0, err
        assert out.splitlines()[-1].removesuffix("[end_of_stream]").strip() == words, client
    copy = shutil.copy(wav, tmp_path)
    transcriber = ("clients.transcribe", "--target", service.target, "--text", copy)
    code, _, err = run("-m", "tests.support.other_systems", "win32", *transcriber)
    assert code == 0, err
    assert (tmp_path / "speech.txt").read_text().strip() == words


def test_microphone_client_tells_what_is_wrong(bridge: Bridge, service: AsrService) -> None:
    port = free_port()
    cases: list[tuple[list[object], int, str]] = [
        (["-", "--to", service.target, "--rate", 5], 1, "INVALID_ARGUMENT: config.sample_rate_hertz"),
        (["-", "--to", bridge.url, "--rate", 5], 1, "invalid_argument: sr"),
        (["-", "--to", f"ws://127.0.0.1:{port}"], 1, "cannot connect"),
    ]
    if importlib.util.find_spec("sounddevice") is None:
        cases.append((["--to", service.target], 2, "pip install sounddevice"))
    for args, expected_code, says in cases:
        code, _, err = run("clients/mic.py", *args, data=PCM)
        assert (code, says in err) == (expected_code, True), err
        assert "Traceback" not in err


@asynccontextmanager
async def deaf(kind: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Where the microphone client finds a server that takes nothing but the stream, and when it has taken that."""
    opened = asyncio.Event()

    async def admit_only(_: Any, context: Any) -> None:
        await admit(context)
        opened.set()
        await asyncio.Event().wait()

    async def read_init_only(connection: ServerConnection) -> None:
        await connection.recv()
        opened.set()
        await connection.wait_closed()

    if kind == "gRPC":
        async with scripted_service(admit_only) as target:
            yield target, opened
    else:
        async with serve(read_init_only, "127.0.0.1", 0, max_queue=1, close_timeout=0.1) as listening:
            yield f"ws://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}", opened


@pytest.mark.parametrize("kind", ["gRPC", "WebSocket"])
async def test_ctrl_c_ends_a_microphone_client_whose_server_takes_nothing(kind: str) -> None:
    async with deaf(kind) as (target, opened), asyncio.timeout(PATIENCE_S):
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "clients/mic.py", "-", "--to", target), cwd=ROOT, env=clean_environment(),
            stdin=PIPE, stderr=PIPE,
        )  # fmt: skip
        assert client.stdin is not None and client.stderr is not None
        await opened.wait()
        client.stdin.write(bytes(100_000_000))  # more than pipe, client and sockets hold
        with pytest.raises(TimeoutError):  # nothing is taken any more
            await asyncio.wait_for(client.stdin.drain(), 2)
        while client.returncode is None:
            client.send_signal(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.wait(), 1)
        said = (await client.stderr.read()).decode()
    assert (client.returncode, said) == (1, f"{target}: stopped before the last words came\n")


@pytest.mark.parametrize("kind", ["gRPC", "WebSocket"])
async def test_a_microphone_client_stops_rather_than_lose_audio(kind: str, tmp_path: Path) -> None:
    """With another sound library, whose microphone is as fast as the machine."""
    (tmp_path / "sounddevice.py").write_text(
        "import threading\n"
        "class PortAudioError(Exception): pass\n"
        "class RawInputStream:\n"
        "    def __init__(self, callback, **_): self.callback, self.open = callback, True\n"
        "    def start(self): threading.Thread(target=self.run, daemon=True).start()\n"
        "    def close(self): self.open = False\n"
        "    def run(self):\n"
        "        while self.open: self.callback(bytes(640), 320, None, None)\n"
    )
    environment = clean_environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    async with deaf(kind) as (target, _), asyncio.timeout(PATIENCE_S):
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "clients/mic.py", "--to", target), cwd=ROOT, env=environment, stderr=PIPE
        )
        _, said = await client.communicate()
    assert client.returncode == 2
    assert said.decode().splitlines()[1:] == ["10 s of audio wait to be taken: the service is too slow"]


def load(url: str, folder: Path, *options: object) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output and figures of the load generator over WebSocket."""
    path = folder / "load.json"
    code, out, err = run("-m", "clients.loadgen", "--ws", url, "--json", path, *options)
    assert "Traceback" not in err
    return code, out + err, json.loads(path.read_text() or "{}")


def test_load_over_the_bridge(bridge: Bridge, tmp_path: Path) -> None:
    options = ["--streams", 4, "--duration", 2, "--ramp", 0.2, "--finalize-every", 0.5]
    code, said, report = load(bridge.url, tmp_path, *options)
    assert code == 0, said
    assert report["outcomes"] == {"ok": 4}
    assert (report["packets"], report["audio_s"]) == (400, 8)
    assert report["interims"] > 0
    assert (
        set(report["interim_latency_ms"]) == set(report["final_latency_ms"]) == {"p50", "p95", "p99", "max"}
    )


def test_load_tells_how_many_handshakes_were_refused(service: AsrService, tmp_path: Path) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_CONNECTIONS=2) as small:
        code, said, report = load(small.url, tmp_path, "--streams", 4, "--duration", 4, "--ramp", 1)
        assert code == 1, said
        assert report["outcomes"] == {"ok": 2, "HTTP 503": 2}
        assert "too many connections" in report["error_details"]["HTTP 503"]
        # For the search, a refused stream is one that is not sustained.
        options = ["--find-max", "--streams", 4, "--duration", 1, "--ramp", 0.1, "--limit-ms", 60_000]
        code, said, report = load(small.url, tmp_path, *options)
        assert code == 0, said
        assert report["tried"]["4"] <= 2
        assert report["max_streams"] <= 2


async def test_load_that_finds_no_room_at_all_says_so(service: AsrService, tmp_path: Path) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_CONNECTIONS=1) as small:
        async with connect(small.url):
            for how in ([], ["--find-max"]):
                code, said, _ = await asyncio.to_thread(load, small.url, tmp_path, *how)
                assert (code, said.count("\n")) == (1, 1)
                assert "HTTP 503" in said and "too many connections" in said


def say(*messages: str) -> Callable[[ServerConnection], Awaitable[None]]:
    """A server that hears init and a packet, says something, and closes in order."""

    async def server(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.recv()
        for message in messages:
            await connection.send(message)

    return server


async def drop(connection: ServerConnection) -> None:
    """A server that goes away in the middle."""
    await connection.recv()
    connection.transport.abort()


FINAL = '{"op":"final","sid":"wav","text":"book a table","final":true,"ts":1}'


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (say(), "closed with 1000 before a final"),
        (say("welcome"), "not the bridge's protocol: 'welcome'"),
        (say(FINAL), "the server ended the stream before all the audio was sent"),
        (drop, "the connection was lost"),
    ],
)
async def test_what_happened_after_connecting_is_told(
    wav: Path, server: Callable[[ServerConnection], Awaitable[None]], says: str
) -> None:
    """Another server than the bridge, since the bridge does none of it."""
    async with serve(server, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        code, _, err = await asyncio.to_thread(run, "clients/ws_client_wav.py", wav, f"ws://127.0.0.1:{port}")
    assert (code, err) == (1, f"ws://127.0.0.1:{port}: {says}\n")
