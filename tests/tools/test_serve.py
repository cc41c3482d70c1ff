"""`make serve` without make: both programs as one, from the environment."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process import ServerProcess


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@contextmanager
def serving() -> Iterator[tuple[ServerProcess, list[int]]]:
    """Both programs up; their process ids, of the service first."""
    grpc_port, port = free_ports(2)
    settings = {"ASR_HOST": "127.0.0.1", "ASR_GRPC_PORT": grpc_port, "ASR_PORT": port, "ASR_MODEL": "null"}
    with ServerProcess(["tools/serve.py"], **settings) as process:
        try:
            process.wait_line(r"serving grpc")
            process.wait_line(r"listening .*port=")
            yield process, children(process.pid)
        finally:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, oldest first."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_both(signum: int) -> None:
    with serving() as (process, pids):
        process.signal(signum)
        assert process.wait() == 0, process.output
        assert len(pids) == 2
        assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("victim", [0, 1], ids=["service", "bridge"])
def test_when_one_dies_the_other_is_stopped_and_it_shows(victim: int) -> None:
    with serving() as (process, pids):
        os.kill(pids[victim], signal.SIGKILL)
        assert process.wait() > 0
        assert all(gone(pid) for pid in pids)
        name = ("service", "bridge")[victim]
        assert re.search(rf"serve: the {name} ended with -9; stopping the other", process.output)


def test_a_setting_that_cannot_be_served_ends_both() -> None:
    with ServerProcess(["tools/serve.py"], ASR_DECODER="tdt", ASR_PORT=0) as process:
        assert process.wait() == 2
        assert "ASR_DECODER" in process.output
