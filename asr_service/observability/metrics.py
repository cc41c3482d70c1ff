"""The metrics of the service, in a registry of their own that is passed around, never global.

Names and units follow Prometheus: seconds, bytes, `_total` for counters. Metrics are changed on the event loop and
rendered in another thread; prometheus_client does the locking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from asr_service.core.model import Readings

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
"""Buckets in seconds; among them are 80 and 160 ms, the shortest chunks that steps have to keep up with."""
SLOT_STATES = ("leased", "free", "fresh", "running", "ready")
"""Leased and free slots are all slots. Of the leased, fresh ones hold no state yet and running ones that of a segment;
ready ones wait for a step."""
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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
        self._streams_active = Gauge("asr_streams_active", "Streams that hold a permit.", registry=r)
        self._streams_limit = Gauge("asr_streams_limit", "Streams that may hold a permit.", registry=r)
        self._load = Gauge(
            "asr_load",
            "Moving 95th percentile of what live chunks take, over their duration; above 1 words come late.",
            registry=r,
        )
        self._batch_limit = Gauge(
            "asr_batch_limit", "Most streams in a step; out of memory halves it.", registry=r
        )
        self._slots = Gauge("asr_slots", "Slots of model state, by state.", ["state"], registry=r)
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
        self._audio = Counter("asr_audio_seconds", "Seconds of audio stepped.", registry=r)
        self._steps = Counter("asr_steps", "Model steps, by outcome.", ["outcome"], registry=r)
        self._step_time = Histogram(
            "asr_step_seconds", "Duration of a model step.", buckets=_SHORT, registry=r
        )
        self._batch = Histogram("asr_batch_streams", "Streams in a step.", buckets=_BATCH, registry=r)
        self._queue_wait = Histogram(
            "asr_queue_wait_seconds", "From a chunk being complete to its step.", buckets=_SHORT, registry=r
        )
        self._chunk_latency = Histogram(
            "asr_chunk_to_result_seconds",
            "From a chunk being complete to the end of its step.",
            buckets=_SHORT,
            registry=r,
        )
        self._sent_latency = Histogram(
            "asr_result_to_sent_seconds",
            "From a result's being made to its being handed to its connection; with asr_chunk_to_result_seconds, all "
            "that this process adds.",
            buckets=_SHORT,
            registry=r,
        )
        self._final_latency = Histogram(
            "asr_finalize_to_final_seconds",
            "From a finalize or half-close being received to its final being sent.",
            buckets=_SHORT,
            registry=r,
        )
        self._loop_lag = Histogram(
            "asr_event_loop_lag_seconds", "How late the event loop wakes up.", buckets=_SHORT, registry=r
        )

        self._certificate = Gauge(
            "asr_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, unix time; 0 without TLS.",
            registry=r,
        )

    def certificate_expires(self, unix_s: float) -> None:
        """Sets when the certificate in use expires, unix seconds; from any thread."""
        self._certificate.set(unix_s)

    def watch(
        self,
        *,
        active: Callable[[], int],
        limit: Callable[[], int],
        slots: Callable[[], Mapping[str, int]],
        batch_limit: Callable[[], int],
        load: Callable[[], float],
        readings: Callable[[], Readings],
        engine_pid: int,
    ) -> None:
        """Takes the functions that give the values which are read at each scrape.

        Args:
            active: streams that hold a permit.
            limit: streams that may hold one.
            slots: slots by state, one of `SLOT_STATES`.
            batch_limit: most streams in a step.
            load: see `asr_service.engine.capacity.Load`.
            readings: what the model has measured of its own work.
            engine_pid: process that holds the model; its CPU time and memory are shown beside this one's.
        """
        ProcessCollector(namespace="asr_engine", pid=lambda: engine_pid, registry=self.registry)
        self._streams_active.set_function(active)
        self._streams_limit.set_function(limit)
        self._batch_limit.set_function(batch_limit)
        self._load.set_function(load)
        for state in SLOT_STATES:
            self._slots.labels(state).set_function(partial(_slots_in, slots, state))
        self.registry.register(_ReadingsCollector(readings))

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        """Counts a step of the engine; see `EngineMetrics`."""
        self._steps.labels("ok").inc()
        self._step_time.observe(seconds)
        self._batch.observe(len(waits_s))
        self._audio.inc(audio_s)
        for wait in waits_s:
            self._queue_wait.observe(wait)
            self._chunk_latency.observe(wait + seconds)

    def step_failed(self, streams: int) -> None:
        """Counts a step of the engine that raised, and so ended this many streams."""
        self._steps.labels("failed").inc()
        self._batch.observe(streams)

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

    def render(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _ReadingsCollector(Collector):
    """Makes metrics of the model's latest readings."""

    def __init__(self, readings: Callable[[], Readings]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        now = self._readings()
        stages = CounterMetricFamily(
            "asr_step_stage_seconds", "Seconds spent in each stage of all steps.", labels=["stage"]
        )
        for stage, seconds in now.stages:
            stages.add_metric([stage], seconds)
        yield stages
        memory = GaugeMetricFamily(
            "asr_device_memory_bytes",
            "Memory of the device; none where it has none of its own.",
            labels=["kind"],
        )
        if now.memory_total:
            memory.add_metric(["used"], now.memory_used)
            memory.add_metric(["total"], now.memory_total)
        yield memory


def _slots_in(state_counts: Callable[[], Mapping[str, int]], state: str) -> float:
    return state_counts().get(state, 0)
