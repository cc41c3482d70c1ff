"""The metrics of a front end, in a registry of their own that is passed around, never global.

Names and units follow Prometheus: seconds, bytes, `_total` for counters. `engine_metrics.py` has those of an engine;
the page that is scraped has the sums over all processes of the service (`asr_common/metric_pages.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
"""Buckets in seconds; among them are 80 and 160 ms, the shortest chunks that steps have to keep up with."""

GAUGES: Mapping[str, Callable[[float, float], float]] = {
    "asr_load": max,
    "asr_batch_limit": max,
    "asr_recorded_batch_sizes": min,
    "asr_tls_certificate_expiry_timestamp_seconds": min,
    "process_start_time_seconds": min,
    "asr_engine_process_start_time_seconds": min,
}
"""Gauges of which the service's value is not the sum of its processes', and what makes one value of two."""


class Metrics:
    """Counts and times what the service does.

    Attributes:
        registry: holds every metric; all are zero at first.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        r = self.registry
        self._streams_opened = Counter("asr_streams_opened", "Streams admitted.", registry=r)
        self._streams_ended = Counter(
            "asr_streams_ended",
            "Streams ended, by outcome: ok, cancelled, or the status.",
            ["outcome"],
            registry=r,
        )
        self._streams_active = Gauge("asr_streams_active", "Streams that are open.", registry=r)
        self._refusals = Counter(
            "asr_refusals", "Streams refused admission, by reason.", ["reason"], registry=r
        )
        self._errors = Counter(
            "asr_errors", "Calls ended with an error, by status code.", ["code"], registry=r
        )
        self._received = Counter("asr_received_bytes", "Audio bytes received.", registry=r)
        self._coalesced = Counter(
            "asr_interims_coalesced", "Interims that a later one replaced before they were sent.", registry=r
        )
        self._sent_latency = Histogram(
            "asr_result_to_sent_seconds",
            "From the end of a result's step to its being handed to its connection; with asr_chunk_to_result_seconds, "
            "all that the service adds.",
            buckets=SHORT,
            registry=r,
        )
        self._final_latency = Histogram(
            "asr_finalize_to_final_seconds",
            "From a finalize or half-close being received to its final being sent.",
            buckets=SHORT,
            registry=r,
        )
        self._loop_lag = Histogram(
            "asr_event_loop_lag_seconds", "How late the event loop wakes up.", buckets=SHORT, registry=r
        )

        self._certificate = Gauge(
            "asr_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, unix time; 0 without TLS.",
            registry=r,
        )

    def certificate_expires(self, unix_s: float) -> None:
        """Sets when the certificate in use expires, unix seconds; from any thread."""
        self._certificate.set(unix_s)

    def watch_active(self, active: Callable[[], int]) -> None:
        """Takes the function that gives how many streams are open here; it is asked at each scrape."""
        self._streams_active.set_function(active)

    def stream_opened(self) -> None:
        """Counts a stream that was admitted."""
        self._streams_opened.inc()

    def refused(self, reason: str) -> None:
        """Counts a stream that was not admitted, for a reason as in ErrorInfo, such as AT_CAPACITY."""
        self._refusals.labels(reason.lower()).inc()

    def call_ended(self, outcome: str, *, admitted: bool) -> None:
        """Counts a call that is over; `outcome` is "ok", "cancelled" or the status in lower case."""
        if admitted:
            self._streams_ended.labels(outcome).inc()
        if outcome not in ("ok", "cancelled"):
            self._errors.labels(outcome).inc()

    def received(self, count: int) -> None:
        """Counts audio bytes that were received."""
        self._received.inc(count)

    def coalesced(self, count: int) -> None:
        """Counts interims that later ones replaced before they were sent."""
        self._coalesced.inc(count)

    def result_sent(self, seconds: float) -> None:
        """Times how long after it was made a result was handed to its connection."""
        self._sent_latency.observe(seconds)

    def final_latency(self, seconds: float) -> None:
        """Times how long after the client's request a final was sent."""
        self._final_latency.observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """Times by how much the event loop woke up late."""
        self._loop_lag.observe(seconds)
