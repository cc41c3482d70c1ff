"""A server in a process of its own: started, waited for, stopped, and never left behind.

So the demo, the benchmarks and the tests run the service and the bridge.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 180.0
"""Longest wait for what must come, on however busy a machine, unless the caller says otherwise."""
LOOK_S = 0.05
"""How often a file is looked for."""


class ServerError(Exception):
    """A server did not do what was waited for.

    Attributes:
        reason: in a few words: that it ended, or how long it was waited for.
    """

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(f"{reason}; it said:\n{output}")
        self.reason = reason


def environment_without_settings() -> dict[str, str]:
    """This process's environment, but for settings of the service and the bridge (ASR_*)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ASR_")}


class ServerProcess:
    """A program whose output is read line by line as it comes; a context manager that never leaves it behind.

    Attributes:
        lines: what it printed so far, standard error included.
        popen: the process.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        program: str | Path = sys.executable,
        cwd: Path | None = None,
        own_session: bool = False,
    ) -> None:
        """Starts it.

        Args:
            argv: arguments for Python, or for another program.
            environment: all of it.
            program: what is run.
            cwd: the folder that it runs in; this process's own if not given.
            own_session: whether Ctrl-C in the terminal is kept from it.
        """
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.popen = subprocess.Popen(
            [program, *argv],
            cwd=cwd,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=own_session,
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
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def output(self) -> str:
        """What it printed so far."""
        return "\n".join(self.lines)

    def wait_line(self, pattern: str, timeout_s: float = PATIENCE_S, *, count: int = 1) -> re.Match[str]:
        """Waits for the first line, past or to come, that holds the pattern; or the second, third, ... by `count`.

        Raises:
            ServerError: the process ended without it, or it did not come in time.
        """
        seen = 0
        deadline = time.monotonic() + timeout_s
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
                    why = f"it ended with {self.popen.wait()}" if self._ended else f"not in {timeout_s:g} s"
                    raise ServerError(f"no line with {pattern!r}: {why}", self.output)
                self._news.wait(left)

    def wait_started(self, pattern: str, timeout_s: float = PATIENCE_S, *, count: int = 1) -> re.Match[str]:
        """As `wait_line`, for who is still to be handed the process: if the line does not come, it is killed."""
        try:
            return self.wait_line(pattern, timeout_s, count=count)
        except BaseException:
            self.kill()
            raise

    def wait_file(self, path: Path, timeout_s: float) -> bool:
        """Waits for a file that the program writes once it is ready; whether it came in time.

        Raises:
            ServerError: the process ended without it.
        """
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            if (code := self.popen.poll()) is not None:
                self._reader.join(PATIENCE_S)
                raise ServerError(f"ended with {code}", self.output)
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Sends it a signal."""
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Waits until it has ended by itself; its exit code.

        Raises:
            ServerError: it did not end in time.
        """
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServerError(f"did not end in {timeout_s:g} s", self.output) from None
        self._reader.join(PATIENCE_S)
        return code

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """Stops it as an operator does, with SIGTERM, and kills it if it does not end in time; its exit code."""
        if self.popen.poll() is None:
            self.signal()
        try:
            return self.wait(timeout_s)
        except ServerError:
            return self.kill()

    def kill(self) -> int:
        """Ends it at once; its exit code."""
        self.popen.kill()
        code = self.popen.wait()
        self._reader.join(PATIENCE_S)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
