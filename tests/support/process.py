"""Real server processes for tests: started on free ports, waited for by what they print, always stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
STOP_S = 30.0


def clean_environment(**settings: object) -> dict[str, str]:
    """This process's environment without its ASR_* settings, with the given ones, able to import the project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ASR_")}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "proto/python")])
    kept["PYTHONUNBUFFERED"] = "1"
    return kept | {name: str(value) for name, value in settings.items()}


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, oldest first; none if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def resident_bytes(pid: int) -> int:
    """Memory of a process and of its children."""
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children(pid))]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


class ServerProcess:
    """A process whose output is read line by line as it comes; a context manager that never leaves it behind."""

    def __init__(self, argv: Sequence[str], *, program: str = sys.executable, **settings: object) -> None:
        """Starts `argv` with Python, or another program; `settings` are environment variables by full name."""
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.popen = subprocess.Popen(
            [program, *argv],
            cwd=ROOT,
            env=clean_environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as output:
            for line in output:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        """What it printed so far."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_line(self, pattern: str, timeout: float = START_S, *, count: int = 1) -> re.Match[str]:
        """The first line, past or to come, that holds the pattern; or the second, third, ... by `count`."""
        seen = 0
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        count -= 1
                        if not count:
                            return match
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = (
                        f"ended with {self.popen.wait()}"
                        if self._ended
                        else f"did not say it in {timeout:g} s"
                    )
                    raise AssertionError(
                        f"no line with {pattern!r}: the process {why}; it said:\n{self.output}"
                    )
                self._news.wait(left)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout: float = STOP_S) -> int:
        """The exit code, once it has ended by itself."""
        try:
            code = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the process did not end in {timeout:g} s; it said:\n{self.output}"
            ) from None
        self._reader.join(STOP_S)
        return code

    def stop(self) -> int:
        """Asks it to stop, and insists if it does not; the exit code."""
        if self.popen.poll() is None:
            self.signal()
        try:
            return self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.popen.kill()
        self.popen.wait()
        self._reader.join(STOP_S)


class AsrService(ServerProcess):
    """`python -m asr_service` on a free port of 127.0.0.1, with the null model unless told otherwise."""

    def __init__(self, *options: str, wait: bool = True, **settings: object) -> None:
        """`settings` by full name (ASR_MAX_STREAMS=2), FAULT or IDLE_TIMEOUT_S for `faulty_service`; waits until
        it serves."""
        defaults: dict[str, Any] = {
            "ASR_HOST": "127.0.0.1",
            "ASR_GRPC_PORT": 0,
            "ASR_MODEL": "null",
            "ASR_DEVICE": "cpu",
            "ASR_DRAIN_S": 5,
            "ASR_FINALIZE_SILENCE_MS": 0,  # the null model hears it
        }
        faulty = {"FAULT", "IDLE_TIMEOUT_S"} & settings.keys()
        program = ["tests/support/faulty_service.py"] if faulty else ["-m", "asr_service"]
        super().__init__([*program, "serve", *options], **(defaults | settings))
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.popen.kill()
                raise

    def wait_ready(self, timeout: float = START_S) -> str:
        """Waits until it serves; its HOST:PORT."""
        return self.wait_line(r"serving grpc on (\S+)", timeout).group(1)

    @property
    def target(self) -> str:
        """HOST:PORT to connect to."""
        return self.wait_ready()
