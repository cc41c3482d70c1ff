"""HAProxy, nginx and Envoy with the configurations of docker/proxy, before two services and two bridges."""

from __future__ import annotations

import asyncio
import getpass
import re
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from testbed.processes import free_port
from tests.support import envoy
from tests.support.audio import cut
from tests.support.bridge import CLOSE, INIT, Bridge, Heard, listen
from tests.support.process import PATIENCE_S, ROOT, AsrService, ServerProcess
from tests.support.rpc import MADE_UP, Stub, audio, config, text
from tests.support.streams import speech

SHORT = speech(1.0, seed=52)
"""What newcomers say."""
HOST = "127.0.0.1"
WORKERS = 2  # of nginx
CONFIGURATIONS = {
    "haproxy": ROOT / "docker/proxy/haproxy.cfg",
    "nginx": ROOT / "docker/proxy/nginx.conf",
    "envoy": envoy.CONFIGURATION,
}


class Fleet:
    """A proxy, two services behind it and two bridges, which find the services through the same proxy.

    The proxy's configuration is the documented one, with other addresses and the test's own changes.

    Attributes:
        target: HOST:PORT of gRPC at the proxy.
        url: of WebSocket at the proxy.
        proxy: its process.
        admin: of Envoy, what it tells of itself.
        tls: of Envoy, a folder with tls.crt and tls.key; it is set before Envoy starts, with `tls_port` for TLS.
        services: by number, 0 and 1, once started.
        bridges: the same for bridges.
    """

    def __init__(self, kind: str, folder: Path, stack: ExitStack) -> None:
        """Takes ports and starts nothing; `stack` ends what is started later."""
        self.kind = kind
        self._folder = folder
        self._stack = stack
        self._reloads = 0
        self._front = [free_port(), free_port()]
        self._service_ports = [(free_port(), free_port()) for _ in range(2)]
        self._bridge_ports = [(free_port(), free_port()) for _ in range(2)]
        self.target = f"{HOST}:{self._front[0]}"
        self.url = f"ws://{HOST}:{self._front[1]}"
        self.services: dict[int, AsrService] = {}
        self.bridges: dict[int, Bridge] = {}
        self.admin = envoy.Admin()
        self.tls: Path | None = None
        self.tls_port = free_port()

    def start_service(self, number: int, **settings: object) -> AsrService:
        """A service that serves, in place of the one of this number that was stopped."""
        grpc_port, metrics_port = self._service_ports[number]
        defaults: dict[str, Any] = {
            "ASR_GRPC_PORT": grpc_port,
            "ASR_METRICS_PORT": metrics_port,
            "ASR_MAX_STREAMS": 32,
            "ASR_STEP_MS": 0,  # nobody waits for fuller steps
            "ASR_MAX_LOAD": 0,  # admits however busy the machine is
            "ASR_DRAIN_S": 30,
        }
        self.services[number] = self._stack.enter_context(AsrService(**(defaults | settings)))
        return self.services[number]

    async def opened_on_service(self, number: int) -> int:
        """How many streams a service has admitted since it was started."""
        return await asyncio.to_thread(_counted, self._service_ports[number][1], "asr_streams_opened_total")

    async def opened_on_bridge(self, number: int) -> int:
        """How many connections a bridge has taken since it was started."""
        port = self._bridge_ports[number][1]
        return await asyncio.to_thread(_counted, port, "asr_bridge_connections_opened_total")

    def start_bridge(self, number: int, **settings: object) -> Bridge:
        """A bridge that listens, in place of the one of this number that was stopped."""
        port, metrics_port = self._bridge_ports[number]
        defaults = {"ASR_PORT": port, "ASR_BRIDGE_METRICS_PORT": metrics_port, "ASR_DRAIN_S": 30}
        self.bridges[number] = self._stack.enter_context(Bridge(self.target, **(defaults | settings)))
        return self.bridges[number]

    def start_pair(self) -> None:
        """Two services and the proxy before them."""
        for number in range(2):
            self.start_service(number)
        self.start_proxy()

    def start_proxy(self, changes: Mapping[str, str] | None = None) -> None:
        """The proxy, once it listens. `changes`: what stands in the file, and what the test has instead."""
        path = self.configure(changes)
        if self.kind == "haproxy":
            argv = ["-db", "-f", str(path)]
        elif self.kind == "envoy":
            argv = envoy.arguments(path)
        else:
            own = f"daemon off; pid {self._folder}/nginx.pid;"
            if getpass.getuser() == "root":
                own += " user root;"  # else workers become somebody who cannot read this folder
            argv = ["-e", "stderr", "-p", str(self._folder), "-c", str(path), "-g", own]
        program = _program(self.kind)
        assert program is not None
        self.proxy = self._stack.enter_context(ServerProcess(argv, program=program))
        self._stack.callback(self.proxy.stop)  # before it is killed: of nginx, only the master would be
        for port in self._front:
            _until_listening(self.proxy, port)

    async def said(self, pattern: str) -> None:
        """A line of the proxy's log, past or to come."""
        await asyncio.to_thread(self.proxy.wait_line, pattern)

    def reload(self, changes: Mapping[str, str] | None = None) -> None:
        """Has nginx read its configuration again: streams go on with the old workers, newcomers come to new ones."""
        self.configure(changes)
        self._reloads += 1
        self.proxy.signal(signal.SIGHUP)
        self.proxy.wait_line("gracefully shutting down", count=WORKERS * self._reloads)

    def command(self, line: str) -> str:
        """Tells HAProxy something at its socket; what it answers."""
        answer = b""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(f"{self._folder}/admin.sock")
            admin.sendall(f"{line}\n".encode())
            while part := admin.recv(65_536):
                answer += part
        return answer.decode()

    async def until_in(self, instance: str) -> None:
        """Waits until the proxy has seen that an instance serves (backend/name). nginx sends somebody and sees."""
        await self._until(instance, serves=True)

    async def until_out(self, instance: str) -> None:
        """Waits until the proxy has seen that an instance takes no newcomers; nginx never does."""
        await self._until(instance, serves=False)

    async def _until(self, instance: str, *, serves: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.kind != "nginx" and await asyncio.to_thread(self._is_in, instance) is not serves:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    def _is_in(self, instance: str) -> bool:
        backend, name = instance.split("/")
        if self.kind == "envoy":
            return self._address(name) in self.admin.healthy(backend)
        states = self.command(f"show servers state {backend}")
        return re.search(rf"^\d+ {backend} \d+ {name} \S+ 2 ", states, re.MULTILINE) is not None

    def _address(self, name: str) -> str:
        """HOST:PORT of an instance by its documented name."""
        program, number = name.split("-")
        at = int(number) - 1
        return f"{HOST}:{(self._service_ports if program == 'service' else self._bridge_ports)[at][0]}"

    def configure(self, changes: Mapping[str, str] | None = None) -> Path:
        """Writes the proxy's configuration."""
        if self.kind == "envoy":
            text = self._of_envoy()
        else:
            text = CONFIGURATIONS[self.kind].read_text(encoding="utf-8")
        for old, new in (changes or {}).items():
            assert old in text, old
            text = text.replace(old, new)
        if self.kind != "envoy":
            text = self._with_addresses(text)
        path = self._folder / CONFIGURATIONS[self.kind].name
        path.write_text(text, encoding="utf-8")
        return path

    def _of_envoy(self) -> str:
        behind = {}
        for number in range(2):
            behind[f"service-{number + 1}", 50051] = (HOST, self._service_ports[number][0])
            behind[f"bridge-{number + 1}", 8080] = (HOST, self._bridge_ports[number][0])
        fronts = dict(zip((50051, 8080), self._front, strict=True))
        if self.tls is not None:
            fronts[8443] = self.tls_port
        text = envoy.configuration(fronts, self.admin.port, behind, tls=self.tls)
        # As below.
        return text.replace("interval: 1s", "interval: 0.2s")

    def _with_addresses(self, text: str) -> str:
        for port, mine in zip((50051, 8080), self._front, strict=True):
            text, count = re.subn(rf"(bind |listen )\S*\b{port}\b", rf"\g<1>{HOST}:{mine}", text)
            assert count == 1
        for number in range(2):
            grpc_port, metrics_port = self._service_ports[number]
            service, bridge = f"service-{number + 1}:50051", f"bridge-{number + 1}:8080"
            assert text.count(service) == text.count(bridge) == 1
            if self.kind == "haproxy":
                text, count = re.subn(rf"({service}.* port) 9464", rf"\1 {metrics_port}", text)
                assert count == 1
            text = text.replace(service, f"{HOST}:{grpc_port}")
            text = text.replace(bridge, f"{HOST}:{self._bridge_ports[number][0]}")
        if self.kind == "haproxy":
            text = text.replace("/run/haproxy", str(self._folder))
            text = text.replace("inter 1s", "inter 200ms")  # a test waits for it several times
        else:
            # What only its packager's folders are for, and lines to wait for.
            folders = "".join(
                f"{name}_temp_path {self._folder}/{name};"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            text = text.replace("http {", f"http {{ access_log off; error_log stderr notice; {folders}")
            text = text.replace(
                "worker_processes auto;", f"worker_processes {WORKERS}; error_log stderr notice;"
            )
        return text


def _counted(port: int, name: str) -> int:
    """The value of a counter without labels on a page of metrics."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=PATIENCE_S) as page:
        found = re.search(rf"^{name} (\S+)$", page.read().decode(), re.MULTILINE)
    assert found is not None, name
    return int(float(found[1]))


def _program(kind: str) -> str | None:
    return envoy.program() if kind == "envoy" else shutil.which(kind)


def _until_listening(process: ServerProcess, port: int) -> None:
    """Waits for a process that does not say when it listens; connecting is the only way to know."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection((HOST, port)):
                return
        except ConnectionRefusedError:
            assert process.popen.poll() is None, process.output
            assert time.monotonic() < deadline, process.output
            time.sleep(0.01)


@contextmanager
def fleet(kind: str, folder: Path) -> Iterator[Fleet]:
    """A fleet whose processes end with it; the test is skipped where the proxy is not installed."""
    if kind == "envoy":
        envoy.needs_envoy()
    elif _program(kind) is None:
        pytest.skip(f"{kind} is not installed: apt-get install {kind}")
    with ExitStack() as stack:
        yield Fleet(kind, folder, stack)


async def opened(stub: Stub, pcm: bytes) -> Any:
    """An admitted stream that has sent some audio and heard of it."""
    call = stub.Recognize()
    await call.write(config())
    await call.initial_metadata()
    for packet in cut(pcm, 3200):
        await call.write(audio(packet))
    return call


async def finished(call: Any, pcm: bytes) -> str:
    """The text of an open stream that sends the rest."""
    for packet in cut(pcm, 3200):
        await call.write(audio(packet))
    await call.done_writing()
    return text([response async for response in call])


async def attempt(stub: Stub) -> str | grpc.aio.AioRpcError:
    """What a newcomer with the short recording hears: its text, or its refusal.

    It sends audio once it is admitted, since grpc.aio makes up an INTERNAL where a stream ends under a write; and comes
    again where even its first write was too late.
    """
    while True:
        call = stub.Recognize()
        try:
            await call.write(config())
            if any(name == "x-stream-id" for name, _ in await call.initial_metadata()):
                return await finished(call, SHORT)
            async for _ in call:  # raises
                pass
        except grpc.aio.AioRpcError as error:
            if error.details() != MADE_UP:
                return error


async def attempt_websocket(url: str) -> str | int | tuple[int | None, str]:
    """What a newcomer with the short recording hears over WebSocket.

    Its text; or the HTTP status that its handshake was refused with; or the close code and the error it was told.
    """
    heard = Heard()
    try:
        async with connect(url, compression=None) as client:
            listening = asyncio.create_task(listen(client, heard))
            try:
                said: list[str | bytes] = [INIT, *cut(SHORT, 3200), CLOSE]
                for message in said:
                    await client.send(message)
            except ConnectionClosed:
                pass  # what was heard tells why
            await listening
    except InvalidStatus as refused:
        return refused.response.status_code
    if heard.code == 1000:
        return str(heard.final["text"])
    return heard.code, str(heard.error["code"])
