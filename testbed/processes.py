"""Servers of tests and benchmarks: their environment and ports; of benchmarks, their CPU time and metrics as well."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from pathlib import Path

from asr_common.server_process import ServerProcess, environment_without_settings

ROOT = Path(__file__).resolve().parents[1]
START_S = 300.0
STOP_S = 15.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Finds a TCP port that nobody else is given as long as this process lives; servers of ours may listen on it.

    A bound socket that does not listen sees to that: whoever sets SO_REUSEADDR, as all of these do, may bind the port
    beside it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = int(held.getsockname()[1])
    # It stays open, and the end of the process closes it.
    held.detach()
    return port


def clean_environment(**settings: object) -> dict[str, str]:
    """Makes an environment with the given settings and no other ASR_*, in which the project can be imported."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto/python")])
    given = {name: str(value) for name, value in settings.items()}
    return environment_without_settings() | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | given


def children(pid: int) -> list[int]:
    """Gives the process ids of the children of a process, oldest first; none if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def children_by_name(pid: int) -> dict[str, int]:
    """Gives the process ids of the children of a process by the names that they have given themselves."""
    found = {}
    for child in children(pid):
        try:
            found[Path(f"/proc/{child}/comm").read_text().strip()] = child
        except FileNotFoundError:
            continue
    return found


def cpu_s_of(pid: int) -> float:
    """Sums the CPU time so far of a process's threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


class Server(ServerProcess):
    """A server under measurement.

    Attributes:
        says: what it says once it serves; the group is `target`.
        target: HOST:PORT to connect to.
    """

    says = r"serving grpc on (\S+)"

    def __init__(self, *argv: str, **settings: object) -> None:
        """Starts Python with `argv` and the `settings` as environment variables; returns when it serves."""
        super().__init__(argv, clean_environment(**settings), cwd=ROOT)
        self.target = self.wait_started(self.says, START_S).group(1)

    def cpu_s(self) -> float:
        """Sums the CPU time so far of its threads and of the processes it has started, user and system."""
        return sum(map(cpu_s_of, (self.pid, *children(self.pid))))

    def idle_cpu(self, seconds: float) -> float:
        """Measures the CPU seconds per second while nobody asks anything of it."""
        before, began = self.cpu_s(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_s() - before) / (time.monotonic() - began)

    def __exit__(self, *error: object) -> None:
        """Stops it as an operator does, so that its engine's process is gone as well when the next server starts."""
        self.stop(STOP_S)


class AsrService(Server):
    """The service under measurement, with its metrics."""

    def __init__(self, model: str, **settings: object) -> None:
        """`settings`, by full name, replace those of a benchmark."""
        self._metrics_port = free_port()
        defaults: dict[str, object] = {
            "ASR_HOST": "127.0.0.1",
            "ASR_GRPC_PORT": 0,
            "ASR_MODEL": model,
            "ASR_DEVICE": "cpu",
            "ASR_METRICS_PORT": self._metrics_port,
            "ASR_DRAIN_S": 1,
            "ASR_MAX_STREAMS": 128,  # no probe at the start
            "ASR_MAX_LOAD": 0,  # what it sustains is found by overloading it
        }
        super().__init__("-m", "asr_service", **(defaults | settings))

    def metrics(self) -> dict[str, float]:
        """Reads all samples by name and labels, as Prometheus writes them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }


def histogram_percentile(
    before: dict[str, float], after: dict[str, float], name: str, quantile: float
) -> float:
    """Gives a percentile of what a histogram took in between two readings, interpolated in its bucket; 0 of nothing."""
    counts: list[tuple[float, float]] = []
    for key, value in after.items():
        if match := re.fullmatch(rf'{name}_bucket{{le="(.+)"}}', key):
            counts.append((float(match.group(1)), value - before.get(key, 0.0)))
    counts.sort()
    rank = quantile * counts[-1][1]
    low, below = 0.0, 0.0
    for edge, count in counts:
        if count >= rank and count > below:
            high = edge if edge != float("inf") else low
            return low + (high - low) * (rank - below) / (count - below)
        low, below = (edge, count) if edge != float("inf") else (low, count)
    return low
