"""The demo's two servers as processes that are never left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 60.0
"""Longest wait for a program to end: longer than it may drain, and on a busy machine its exit alone takes a while."""
LOOK_S = 0.05
SAY_S = 15.0
TAIL_LINES = 30


class DemoError(Exception):
    """The demo cannot go on; `log` is what to show with it."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Process:
    """A Python program with its output in a file. Leaving the context ends it, one way or the other."""

    def __init__(self, name: str, argv: Sequence[str], settings: Mapping[str, str], folder: Path) -> None:
        """Starts it with these ASR_* settings and no others."""
        self._name = name
        self._log = folder / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ASR_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *argv],
                cwd=ROOT,
                env={**environment, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo, which then stops its programs itself.
                start_new_session=True,
            )

    def tail(self) -> str:
        """The end of what it said."""
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- log of the {self._name}", *lines, ""])

    def wait_ready(self, console: Console, file: Path, timeout_s: float) -> dict[str, Any]:
        """Waits for its ready file and gives the content; DemoError if it ends first or takes too long."""
        started = said = time.monotonic()
        with console.status(f"Starting the {self._name} ..."):
            while not file.exists():
                if not console.is_terminal and time.monotonic() - said > SAY_S:
                    said = time.monotonic()
                    lines = self._log.read_text(errors="replace").splitlines()
                    console.print(
                        f"  {said - started:.0f} s: {lines[-1] if lines else ''}",
                        markup=False,
                        soft_wrap=True,
                    )
                if self._process.poll() is not None:
                    raise DemoError(f"the {self._name} ended with {self._process.returncode}", self.tail())
                if time.monotonic() - started > timeout_s:
                    raise DemoError(f"the {self._name} was not ready after {timeout_s:.0f} s", self.tail())
                time.sleep(LOOK_S)
        console.print(f"The {self._name} is ready after {time.monotonic() - started:.1f} s.")
        ready: dict[str, Any] = json.loads(file.read_text())
        return ready

    def stop(self) -> None:
        """Stops it as an operator would; DemoError unless it ends well and in time."""
        self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"the {self._name} did not stop in {STOP_S:.0f} s", self.tail()) from None
        if code != 0:
            raise DemoError(f"the {self._name} ended with {code} when it was stopped", self.tail())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
