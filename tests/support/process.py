"""Real server processes for tests: started on free ports, waited for by what they print, always stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_common import server_process
from asr_common.server_process import PATIENCE_S
from testbed.processes import ROOT, children, children_by_name, clean_environment

SERVING = r"serving grpc on (\S+)"
"""What the service prints once it serves."""
_FAULTS = {"FAULT", "IDLE_TIMEOUT_S", "KEEPALIVE_S", "RESTART_S", "LINK_BYTES"}
"""Settings of `faulty_service`."""


def gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def run_python(*argv: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs Python with `argv` in the project's root to its end; `settings` are environment variables by full name."""
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def printed(*argv: object, **settings: object) -> str:
    """What `run_python` prints, stripped; it has to succeed."""
    done = run_python(*argv, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def resident_bytes(pid: int) -> int:
    """Memory of a process and of its children."""
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children(pid))]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


class ServerProcess(server_process.ServerProcess):
    """A server process with the project's root as its folder; a context manager that never leaves it behind."""

    def __init__(
        self, argv: Sequence[str], *, program: str | Path = sys.executable, **settings: object
    ) -> None:
        """Starts `argv` with Python, or another program; `settings` are environment variables by full name."""
        super().__init__(argv, clean_environment(**settings), program=program, cwd=ROOT)

    def __exit__(self, *error: Any) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            self.stop()  # who is killed does not say which lines have run
        super().__exit__(*error)


class AsrService(ServerProcess):
    """`python -m asr_service` on a free port of 127.0.0.1, with the null model unless told otherwise."""

    module: tuple[str, ...] = ("asr_service",)
    """What Python runs, and its first arguments."""

    def __init__(self, *options: str, wait: bool = True, **settings: object) -> None:
        """`settings` by full name (ASR_MAX_STREAMS=2), and those of `faulty_service`, such as FAULT; waits until it
        serves."""
        defaults: dict[str, Any] = {
            "ASR_HOST": "127.0.0.1",
            "ASR_GRPC_PORT": 0,
            "ASR_MODEL": "null",
            "ASR_DEVICE": "cpu",
            "ASR_DRAIN_S": 5,
            "ASR_FINALIZE_SILENCE_MS": 0,  # the null model hears it
        }
        faulty = _FAULTS & settings.keys()
        program = ["tests/support/faulty_service.py"] if faulty else ["-m", *self.module]
        super().__init__([*program, "serve", *options], **(defaults | settings))
        if wait:
            self.wait_started(SERVING)

    def wait_ready(self, timeout: float = PATIENCE_S) -> str:
        """Waits until it serves; its HOST:PORT."""
        return self.wait_line(SERVING, timeout).group(1)

    @property
    def engine(self) -> int:
        """Process id of the first engine."""
        return children_by_name(self.pid)["asr-engine-0"]

    @property
    def front_end(self) -> int:
        """Process id of the first front end."""
        return children_by_name(self.pid)["asr-front-0"]

    @property
    def target(self) -> str:
        """HOST:PORT to connect to."""
        return self.wait_ready()

    def vanish(self) -> None:
        """Ends all of its processes, as a machine that goes.

        The supervisor's death alone ends the others too, but a front end may come to tell that its engine is gone.
        """
        self.signal(signal.SIGSTOP)
        processes = children_by_name(self.pid)
        for name in sorted(processes, key=lambda name: not name.startswith("asr-front-")):
            os.kill(processes[name], signal.SIGKILL)
        self.signal(signal.SIGKILL)
