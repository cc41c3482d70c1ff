"""The HTTP port of the metrics: `/metrics` for Prometheus; `/livez` and, of the service, `/healthz` for probes."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from asr_common.watchdog import Watchdog

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
"""Longest time in which a request has to arrive."""


def open_port(host: str, port: int) -> socket.socket:
    """Opens the port, to be answered at by `MetricsServer`. Raises OSError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=16)


class MetricsServer(ThreadingHTTPServer):
    """Answers requests at a port that is open, each in a thread of its own, while `serve` runs.

    `/livez` is for those who would end the program and start it again: it says no only where what everything depends on
    hangs, never because there is nothing to serve yet or any more. Where that has ended, nobody answers here either.

    Args:
        port: as `open_port` opens it.
        render: makes the page of metrics; called in any thread. TimeoutError: it cannot be had now.
        beat: gives the last sign of life of what everything depends on, which has to differ from the one before at
            every `look_s` of the watchdog.
        watchdog: says after which time without one it hangs; for this server alone.
        serving: whether the program serves; None where another port tells that.
    """

    daemon_threads = True

    def __init__(
        self,
        port: socket.socket,
        *,
        render: Callable[[], bytes],
        beat: Callable[[], float],
        watchdog: Watchdog,
        serving: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(port.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = port
        self.render = render
        self.serving = serving
        self.is_live = True
        self._beat = beat
        self._watchdog = watchdog

    @property
    def limit_s(self) -> float:
        """How long there may be no sign of life."""
        return self._watchdog.limit_s

    def serve(self) -> None:
        """Answers until `shutdown` is called, from another thread."""
        self.serve_forever(poll_interval=self._watchdog.look_s)

    def service_actions(self) -> None:
        """Looks for signs of life, between requests and at every turn."""
        self._watchdog.look(time.monotonic())
        is_live = not self._watchdog.hangs("all", self._beat())
        if self.is_live and not is_live:
            log.critical("no sign of life for ASR_WATCHDOG_S=%g s: /livez says so from now on", self.limit_s)
        self.is_live = is_live

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs the failure of a request, but not that a proxy's probe reset the connection once it had the status."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            log.exception("a request to the metrics port failed")


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server: MetricsServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer_metrics()
        elif path == "/livez":
            hangs = f"no sign of life for {self.server.limit_s:g} s\n"
            self._answer(*(200, b"live\n") if self.server.is_live else (503, hangs.encode()))
        elif path == "/healthz" and self.server.serving is not None:
            up = self.server.serving()
            self._answer(200 if up else 503, b"serving\n" if up else b"not serving\n")
        else:
            known = "/metrics and /livez" if self.server.serving is None else "/metrics, /livez and /healthz"
            self._answer(404, f"there are {known}\n".encode())

    def _answer_metrics(self) -> None:
        try:
            page = self.server.render()
        except TimeoutError:
            self._answer(503, b"the process that collects the metrics does not answer\n")
        else:
            self._answer(200, page, CONTENT_TYPE_LATEST)

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: scrapes are routine."""
