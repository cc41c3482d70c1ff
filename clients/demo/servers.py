"""Starts the demo's two servers, tells what they do until they are ready, and stops them as an operator does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from asr_common.server_process import ServerError, ServerProcess, environment_without_settings

ROOT = Path(__file__).resolve().parents[2]
SAY_S = 15.0
"""How often the demo tells what a server is doing that is not ready, where there is no terminal."""
STOP_S = 60.0
"""Longest wait for a server to end: longer than it may drain, and on a busy machine its exit alone takes a while."""
TAIL_LINES = 30


class DemoError(Exception):
    """The demo cannot go on.

    Attributes:
        log: the end of the servers' logs, which tells why; "" where they have nothing to do with it.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class DemoServer(ServerProcess):
    """The service or the bridge, as a process of the demo's."""

    def __init__(self, name: str, argv: Sequence[str], settings: Mapping[str, str], ready_file: Path) -> None:
        """Starts it with these ASR_* settings and no others; one of them names its ready file."""
        self._name = name
        self._ready_file = ready_file
        # Ctrl-C is for the demo, which then stops its servers itself.
        super().__init__(argv, {**environment_without_settings(), **settings}, cwd=ROOT, own_session=True)

    def tail(self) -> str:
        """Gives the end of what it said."""
        return "\n".join([f"--- log of the {self._name}", *self.lines[-TAIL_LINES:], ""])

    def wait_ready(self, console: Console, timeout_s: float) -> dict[str, Any]:
        """Waits for its ready file and gives the content; DemoError if it ends first or takes too long."""
        started = time.monotonic()
        try:
            with console.status(f"Starting the {self._name} ..."):
                while not self.wait_file(self._ready_file, SAY_S):
                    waited = time.monotonic() - started
                    if waited > timeout_s:
                        raise DemoError(
                            f"the {self._name} was not ready after {timeout_s:.0f} s", self.tail()
                        )
                    if not console.is_terminal:
                        last = self.lines[-1] if self.lines else ""
                        console.print(f"  {waited:.0f} s: {last}", markup=False, soft_wrap=True)
        except ServerError as error:
            raise DemoError(f"the {self._name} {error.reason}", self.tail()) from None
        console.print(f"The {self._name} is ready after {time.monotonic() - started:.1f} s.")
        ready: dict[str, Any] = json.loads(self._ready_file.read_text())
        return ready

    def stop_well(self) -> None:
        """Stops it as an operator would; DemoError unless it ends well and in time."""
        self.signal()
        try:
            code = self.wait(STOP_S)
        except ServerError as error:
            raise DemoError(f"the {self._name} {error.reason} when it was stopped", self.tail()) from None
        if code != 0:
            raise DemoError(f"the {self._name} ended with {code} when it was stopped", self.tail())
