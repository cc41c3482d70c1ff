"""A collector of OpenTelemetry traces: OTLP over HTTP on a free port."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.process import PATIENCE_S


class Collector:
    """A collector of OTLP over HTTP, on a free port."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())
                if known:
                    collector._take(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._news:
            self.bodies.append(body)
            for one in request.resource_spans:
                self.resources.append(facts(one.resource.attributes))
                self.spans += [span for scope in one.scope_spans for span in scope.spans]
            self._news.notify_all()

    async def span(self, stream: str) -> Span:
        """The span of a stream, once it has come."""
        return await asyncio.to_thread(
            self._wait, lambda span: facts(span.attributes).get("asr.stream_id") == stream
        )

    async def refused(self) -> Span:
        """A span of a stream that was not admitted."""
        return await asyncio.to_thread(
            self._wait,
            lambda span: (
                "error.type" in facts(span.attributes) and "asr.stream_id" not in facts(span.attributes)
            ),
        )

    def _wait(self, wanted: Any) -> Span:
        def first() -> Span | None:
            return next(filter(wanted, self.spans), None)

        with self._news:
            found = self._news.wait_for(first, PATIENCE_S)
            assert found, f"no such span among {[facts(span.attributes) for span in self.spans]}"
            return found

    def children(self, span: Span) -> list[Span]:
        return [one for one in self.spans if one.parent_span_id == span.span_id]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def facts(attributes: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
