"""OpenTelemetry traces, which are optional: a span for each stream, sent to a collector as OTLP over HTTP.

OpenTelemetry is imported only where an endpoint is set. A span holds what the log line of a stream holds, and when it
happened; never audio, never text. Spans are sent by a thread of OpenTelemetry's: a collector that is slow or gone holds
up no stream, and spans that it does not take are dropped after a while, with a line in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asr_service.core.errors import AsrError, InternalError, SettingsError, wire_status
from asr_service.core.values import Result, StreamConfig

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

_EXPORT_S = 5.0
"""Longest time for one attempt to send."""
_CLOSE_S = 2.0
"""Longest time for the remaining spans to be sent when the process ends."""
_CONTEXT_KEYS = ("traceparent", "tracestate")
_LONGEST_CONTEXT = 1024
_OUR_FAULT = ("INTERNAL", "UNAVAILABLE")
"""Statuses that make a span an error; a client's own mistakes are not errors of the service."""


class Tracing:
    """Makes a span for each stream.

    Args:
        endpoint: base URL of a collector that takes OTLP over HTTP, such as http://localhost:4318.
        version: of the service.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, *, version: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as missing:
            raise SettingsError(
                f"ASR_OTLP_ENDPOINT needs OpenTelemetry ({missing.name} is not installed): install the extra otel",
                field="otlp_endpoint",
            ) from None
        names = {"service.name": "asr_service", "service.version": version}
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        # OpenTelemetry's own hook at the end of the process would wait for a collector that is gone.
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("asr_service", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Trace:
        """Begins the trace of a stream; its parent is the one that W3C trace context in the metadata names."""
        carrier = {
            key: value
            for key, value in metadata
            if key in _CONTEXT_KEYS and isinstance(value, str) and len(value) <= _LONGEST_CONTEXT
        }
        return Trace(self._tracer, method, self._propagator.extract(carrier))

    def close(self) -> None:
        """Sends the remaining spans, as far as that takes no longer than `_CLOSE_S`."""
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(_CLOSE_S)


class Trace:
    """One stream's span, with a child for its admission and events for its first interim and its finals.

    Attributes:
        id: of the trace, as in the log; "" if it is not sampled.
    """

    def __init__(self, tracer: Tracer, method: str, parent: Any) -> None:
        from opentelemetry import trace

        self._api = trace
        service, _, name = method.rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        self._span: Span = tracer.start_span(
            method, context=parent, kind=trace.SpanKind.SERVER, attributes=attributes
        )
        self._admission: Span | None = tracer.start_span("admission", trace.set_span_in_context(self._span))
        self._interims = self._finals = 0
        context = self._span.get_span_context()
        self.id = trace.format_trace_id(context.trace_id) if self._span.is_recording() else ""

    def admitted(self, config: StreamConfig, channels: int, key: str) -> None:
        """Notes that the stream was admitted; `key` is the name of its API key, "" without keys."""
        attributes: dict[str, str | int | bool] = {
            "asr.stream_id": config.name,
            "asr.encoding": (config.coding or config.encoding).name.lower(),
            "asr.sample_rate_hertz": config.sample_rate,
            "asr.channels": channels,
            "asr.interim_results": config.interim_results,
            "asr.endpointing": config.endpointing is not None,
        }
        if config.model:
            attributes["asr.model"] = config.model
        if config.look_ahead_ms is not None:
            attributes["asr.look_ahead_ms"] = config.look_ahead_ms
        if key:
            attributes["asr.key"] = key
        self._span.set_attributes(attributes)
        self._end_admission("admitted")

    def _end_admission(self, outcome: str) -> None:
        if self._admission is not None:
            self._admission.set_attribute("asr.admission", outcome)
            self._admission.end()
            self._admission = None

    def result(self, result: Result, channel: int, latency_s: float | None) -> None:
        """Notes that a result was sent; `latency_s` is the time since the request for a final, None without one."""
        if result.reason is None:
            self._interims += 1
            if self._interims == 1:
                self._span.add_event("first interim", {"asr.audio_ms": result.audio_ms})
            return
        self._finals += 1
        attributes: dict[str, str | int | float] = {
            "asr.audio_ms": result.audio_ms,
            "asr.utterance": result.utterance,
            "asr.reason": result.reason.value,
            "asr.channel": channel,
        }
        if latency_s is not None:
            attributes["asr.finalize_to_final_s"] = round(latency_s, 4)
        self._span.add_event("final", attributes)

    def end(self, outcome: str, error: AsrError | None, *, audio_ms: int, received: int) -> None:
        """Ends the span, with an outcome as in the log."""
        self._end_admission("refused" if error is not None else outcome)
        self._span.set_attributes(
            {
                "asr.outcome": outcome,
                "asr.interims": self._interims,
                "asr.finals": self._finals,
                "asr.audio_seconds": audio_ms / 1000,
                "asr.received_bytes": received,
            }
        )
        if error is None:
            self._span.set_attribute("rpc.grpc.status_code", 1 if outcome == "cancelled" else 0)
        else:
            status = wire_status(error)
            self._span.set_attributes({"rpc.grpc.status_code": status.grpc_code, "error.type": status.name})
            if isinstance(error, InternalError):
                self._span.set_attribute("asr.request_id", error.request_id)
            if status.name in _OUR_FAULT:
                self._span.set_status(self._api.StatusCode.ERROR, status.name)
        self._span.end(time.time_ns())
