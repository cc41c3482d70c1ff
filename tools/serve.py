"""Runs the service and the bridge side by side, as `make serve` does; both read the environment.

Ctrl-C or SIGTERM lets both drain, and the exit code is 0 when they have; a second one ends them at once. If one of them
ends by itself the other is stopped too and the exit code is not 0: whatever restarts this program then restarts both.
Signals are for this program alone: systemd, which would send them to the two as well, needs KillMode=mixed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

ANY_ADDRESS = ("0.0.0.0", "::")
OFF = ("0", "false", "f", "no", "n", "off")
"""What the settings take for false."""


class Stopped(Exception):
    """SIGINT or SIGTERM came."""


class Supervisor:
    """The two processes, and what signals do to them."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self._signals = 0
        self._waiting = False
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: object) -> None:
        self._signals += 1
        if self._signals > 1:
            for _, process in self._running.values():
                process.kill()
        elif self._waiting:
            raise Stopped

    def start(self, name: str, module: str, environment: dict[str, str]) -> None:
        """Starts a process in a session of its own: Ctrl-C in a terminal reaches it once, from here."""
        process = subprocess.Popen([sys.executable, "-m", module], env=environment, start_new_session=True)
        self._running[process.pid] = (name, process)

    def wait(self) -> int:
        """Until a signal comes (0) or a process ends by itself (its code, at least 1)."""
        try:
            self._waiting = True
            if self._signals:
                return 0
            pid, status = os.wait()
            while pid not in self._running:
                # Where this is process 1 of a container, orphans of others come to it, which end as they like.
                pid, status = os.wait()
        except Stopped:
            return 0
        finally:
            self._waiting = False
        name, process = self._running.pop(pid)
        # What os.wait() took, the process object can no longer ask for.
        process.returncode = os.waitstatus_to_exitcode(status)
        print(
            f"serve: the {name} ended with {process.returncode}; stopping the other",
            file=sys.stderr,
            flush=True,
        )
        return max(process.returncode, 1)

    def stop(self) -> int:
        """Stops what runs; 1 if one did not end as asked.

        Both are told at once, since both drain: the service takes no new streams from then on, and lets those of the
        bridge finish. One after the other would take twice the time, and the service would admit streams meanwhile.
        """
        failed = 0
        for _, process in self._running.values():
            process.terminate()
        for name, process in self._running.values():
            # A process that had no time to set up its handler ends by the signal itself.
            if process.wait() not in (0, -signal.SIGTERM):
                print(f"serve: the {name} ended with {process.returncode}", file=sys.stderr, flush=True)
                failed = 1
        return failed


def service_target(environment: Mapping[str, str]) -> str:
    """Where the bridge finds the service: what ASR_GRPC_TARGET says, or the address and port that it listens on.

    An unset variable and an empty one are the same to both programs, and so here.
    """
    if target := environment.get("ASR_GRPC_TARGET"):
        return target
    host = environment.get("ASR_HOST") or ANY_ADDRESS[0]
    if host in ANY_ADDRESS:
        host = "localhost"
    return f"{f'[{host}]' if ':' in host else host}:{environment.get('ASR_GRPC_PORT') or 50051}"


def page_address(environment: Mapping[str, str]) -> str:
    """Where a browser finds the bridge's page; "" where there is none, or nobody knows its port yet."""
    port = environment.get("ASR_PORT") or "8080"
    if port == "0" or environment.get("ASR_BRIDGE_PAGE", "").lower() in OFF:
        return ""
    host = environment.get("ASR_HOST") or ANY_ADDRESS[0]
    if host in ANY_ADDRESS:
        # Browsers give a page the microphone from there, without a certificate too.
        host = "localhost"
    scheme = "https" if environment.get("ASR_BRIDGE_TLS_CERT") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def main() -> int:
    """Command line; takes no arguments."""
    service = dict(os.environ)
    supervisor = Supervisor()
    supervisor.start("service", "asr_service", service)
    # It waits for the service by itself.
    supervisor.start("bridge", "ws_bridge", service | {"ASR_GRPC_TARGET": service_target(service)})
    if address := page_address(service):
        print(f"serve: once both are ready, speak into {address}", file=sys.stderr, flush=True)
    code = supervisor.wait()
    return supervisor.stop() or code


if __name__ == "__main__":
    sys.exit(main())
