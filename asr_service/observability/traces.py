"""OpenTelemetry traces, as an option: one span for each stream, sent to a collector as OTLP over HTTP.

OpenTelemetry is imported only where an endpoint is set. A span says what the log line of a stream says and when things
happened to it; never audio, never text. Spans are sent by a thread of OpenTelemetry's: a collector that is slow or gone
holds up no stream, and what it does not take is dropped after a while, with a line in the log.
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
"""For what is left when the process ends."""
_CONTEXT_KEYS = ("traceparent", "tracestate")
_LONGEST_CONTEXT = 1024
_OUR_FAULT = ("INTERNAL", "UNAVAILABLE")
"""Statuses that make a span an error; a client's own mistakes are not errors of the service."""


class Tracing:
    """Makes a span for each stream.

    Args:
        endpoint: base URL of a collector that speaks OTLP over HTTP, such as http://localhost:4318.
        version: of the service.
        model: its name.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, *, version: str, model: str) -> None:
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
        names = {"service.name": "asr_service", "service.version": version, "asr.model": model}
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        # Its own hook at the end of the process would wait for a collector that is gone.
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("asr_service", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Trace:
        """The trace of a stream that begins now; its parent is what W3C trace context in the metadata names."""
        carrier = {
            key: value
            for key, value in metadata
            if key in _CONTEXT_KEYS and isinstance(value, str) and len(value) <= _LONGEST_CONTEXT
        }
        return Trace(self._tracer, method, self._propagator.extract(carrier))

    def close(self) -> None:
        """Sends what is left, as far as that goes quickly."""
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
        known = self._span.get_span_context()
        self.id = trace.format_trace_id(known.trace_id) if self._span.is_recording() else ""

    def admitted(self, config: StreamConfig, channels: int, key: str) -> None:
        """The stream was let in; `key` is the name of its API key, "" without keys."""
        asked: dict[str, str | int | bool] = {
            "asr.stream_id": config.name,
            "asr.encoding": config.encoding.name.lower(),
            "asr.sample_rate_hertz": config.sample_rate,
            "asr.channels": channels,
            "asr.interim_results": config.interim_results,
            "asr.endpointing": config.endpointing is not None,
        }
        if key:
            asked["asr.key"] = key
        self._span.set_attributes(asked)
        self._end_admission("admitted")

    def _end_admission(self, how: str) -> None:
        if self._admission is not None:
            self._admission.set_attribute("asr.admission", how)
            self._admission.end()
            self._admission = None

    def result(self, result: Result, channel: int, latency_s: float | None) -> None:
        """A result was sent; `latency_s` after its final was asked for, if it was."""
        if result.reason is None:
            self._interims += 1
            if self._interims == 1:
                self._span.add_event("first interim", {"asr.audio_ms": result.audio_ms})
            return
        self._finals += 1
        facts: dict[str, str | int | float] = {
            "asr.audio_ms": result.audio_ms,
            "asr.utterance": result.utterance,
            "asr.reason": result.reason.value,
            "asr.channel": channel,
        }
        if latency_s is not None:
            facts["asr.finalize_to_final_s"] = round(latency_s, 4)
        self._span.add_event("final", facts)

    def end(self, outcome: str, error: AsrError | None, *, audio_ms: int, received: int) -> None:
        """The stream is over, with an outcome as in the log."""
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
