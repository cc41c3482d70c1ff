"""The HTTP port of the metrics: `/metrics` for Prometheus, `/healthz` for probes over plain HTTP.

It runs in a thread of its own, so that it answers when the event loop does not.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from asr_service.core.errors import SettingsError

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
"""Longest time in which a request has to arrive."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs the failure of a request, but not that a proxy's probe reset the connection once it had the status."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            log.exception("a request to the metrics port failed")


def listen(host: str, port: int, *, render: Callable[[], bytes], serving: Callable[[], bool]) -> int:
    """Starts to answer requests; returns the port, which is a free one if 0 is given.

    Args:
        host: address to listen on.
        port: to listen on.
        render: makes the page of metrics.
        serving: whether the service serves.

    Raises:
        SettingsError: the port cannot be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, render(), CONTENT_TYPE_LATEST)
            elif path == "/healthz":
                up = serving()
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

    try:
        server = _Server((host, port), Handler)
    except OSError as error:
        raise SettingsError(
            f"ASR_METRICS_PORT={port}: cannot listen on {host}:{port} ({error.strerror}); choose a free port, or 0 for "
            "no metrics",
            field="metrics_port",
        ) from None
    threading.Thread(target=server.serve_forever, name="scrape", daemon=True).start()
    return server.server_address[1]
