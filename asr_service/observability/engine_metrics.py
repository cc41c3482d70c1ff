"""The metrics of an engine's process: its steps, its slots, and what its model has measured.

Names and units follow Prometheus. A step is counted by a few operations on arrays, whatever the number of its streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from asr_service.core.model import Readings
from asr_service.observability.metrics import SHORT

SLOT_STATES = ("leased", "free", "fresh", "running", "ready")
"""Leased and free slots are all slots. Of the leased, fresh ones hold no state yet and running ones that of a segment;
ready ones wait for a step."""
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class EngineMetrics:
    """Counts and times what an engine does.

    Args:
        record: what the engine tells of itself, an `EngineRecord`.
        readings: gives what the model has measured of its own work.

    Attributes:
        registry: holds every metric; all are zero at first.
    """

    def __init__(self, record: Any, readings: Callable[[], Readings]) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(namespace="asr_engine", registry=r)
        limit = Gauge("asr_streams_limit", "Streams that may be open.", registry=r)
        limit.set_function(lambda: float(record.limit))
        load = Gauge(
            "asr_load",
            "Moving 95th percentile of what live chunks take, over their duration; above 1 words come late. Of several "
            "engines the largest.",
            registry=r,
        )
        load.set_function(lambda: float(record.load))
        batch_limit = Gauge(
            "asr_batch_limit", "Most streams in a step; out of memory halves it for a while.", registry=r
        )
        batch_limit.set_function(lambda: float(record.batch_limit))
        slots = Gauge("asr_slots", "Slots of model state, by state.", ["state"], registry=r)
        for state in SLOT_STATES:
            slots.labels(state).set_function(partial(_slots_in, record, state))
        self._audio = Counter("asr_audio_seconds", "Seconds of audio stepped.", registry=r)
        self._steps = Counter("asr_steps", "Model steps, by outcome.", ["outcome"], registry=r)
        self._step_time = Histogram(
            "asr_step_seconds", "Duration of a model step.", buckets=SHORT, registry=r
        )
        self._batch = Histogram("asr_batch_streams", "Streams in a step.", buckets=_BATCH, registry=r)
        self._queue_wait = _ArrayHistogram(
            "asr_queue_wait_seconds", "From a chunk being complete to its step.", SHORT, r
        )
        self._chunk_latency = _ArrayHistogram(
            "asr_chunk_to_result_seconds",
            "From a chunk being complete to the end of its step.",
            SHORT,
            r,
        )
        r.register(_ReadingsCollector(readings))

    def step(self, *, seconds: float, audio_s: float, waits_s: npt.NDArray[np.float64]) -> None:
        """Counts a step; see `asr_service.engine.contract.EngineMetrics`."""
        self._steps.labels("ok").inc()
        self._step_time.observe(seconds)
        self._batch.observe(len(waits_s))
        self._audio.inc(audio_s)
        self._queue_wait.observe(waits_s)
        self._chunk_latency.observe(waits_s + seconds)

    def step_failed(self, slots: int) -> None:
        """Counts a step that raised, and so ended the streams of this many slots."""
        self._steps.labels("failed").inc()
        self._batch.observe(slots)


class _ArrayHistogram(Collector):
    """A histogram that observes arrays; for one thread, as is its rendering."""

    def __init__(self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._names = [*map(str, buckets), "+Inf"]
        self._buckets = np.array(buckets)
        self._counts = np.zeros(len(self._names), np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: npt.NDArray[np.float64]) -> None:
        """Takes all values of an array."""
        # A value that is equal to a bucket's bound is in it.
        places = self._buckets.searchsorted(values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterator[Metric]:
        """Yields the one metric."""
        up_to = accumulate(self._counts.tolist())
        buckets = list(zip(self._names, map(float, up_to), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


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
        recorded = GaugeMetricFamily(
            "asr_recorded_batch_sizes",
            "Sizes of batches whose steps are replayed from recordings on a GPU; 0 where each step is launched kernel "
            "by kernel, which is slower; none on a CPU.",
        )
        if now.recorded is not None:
            recorded.add_metric([], len(now.recorded))
        yield recorded


def _slots_in(record: Any, state: str) -> float:
    leased, running = record.leased, record.running
    counts = {
        "leased": leased,
        "free": record.slots - leased,
        "fresh": leased - running,
        "running": running,
        "ready": record.ready,
    }
    return float(counts[state])
