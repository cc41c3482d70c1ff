"""The HTTP port of the metrics: `/metrics` for Prometheus, `/healthz` for probes over plain HTTP."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
"""Longest time in which a request has to arrive."""


def open_port(host: str, port: int) -> socket.socket:
    """Opens the port, to be answered at by `MetricsServer`. Raises OSError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=16)


class MetricsServer(ThreadingHTTPServer):
    """Answers requests at a port that is open, each in a thread of its own, while `serve_forever` runs.

    Args:
        port: as `open_port` opens it.
        render: makes the page of metrics; called in any thread.
        serving: whether the service serves.
    """

    daemon_threads = True

    def __init__(
        self, port: socket.socket, *, render: Callable[[], bytes], serving: Callable[[], bool]
    ) -> None:
        super().__init__(port.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = port
        self.render = render
        self.serving = serving

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
            self._answer(200, self.server.render(), CONTENT_TYPE_LATEST)
        elif path == "/healthz":
            up = self.server.serving()
            self._answer(200 if up else 503, b"serving\n" if up else b"not serving\n")
        else:
            self._answer(404, b"there are /metrics and /healthz\n")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: scrapes are routine."""
