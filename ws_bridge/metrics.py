"""The bridge's metrics, for Prometheus on a port of its own.

Counters are added to on the event loop; the connections by state and the channels are read when they are scraped, from
the thread that answers. None of them holds audio or text.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable
from functools import partial
from threading import Thread

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from asr_common.metrics_http import MetricsServer, open_port
from asr_common.settings import BadSettings, variable
from asr_common.watchdog import Watchdog
from ws_bridge.config import Settings
from ws_bridge.messages import State

_CODES = {1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1013}
"""Close codes with a series of their own; clients may send thousands of others."""

GAUGES = {"process_start_time_seconds": min, "process_max_fds": min}
"""Gauges of which the value of several workers is not the sum, and how it is made of theirs."""


class Metrics:
    """Every metric of the bridge, in a registry of its own."""

    def __init__(self) -> None:
        """Everything at zero."""
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._connections = Gauge(
            "asr_bridge_connections",
            "WebSocket connections by state: new before init, open, closing after close.",
            ["state"],
            registry=r,
        )
        self._opened = Counter("asr_bridge_connections_opened", "WebSocket connections accepted.", registry=r)
        self._refused = Counter(
            "asr_bridge_refused", "Handshakes answered with an error, by reason.", ["reason"], registry=r
        )
        self._uploads = Counter(
            "asr_bridge_uploads",
            "Recordings sent by POST, by HTTP status; 0 for those whose client left before it had one.",
            ["status"],
            registry=r,
        )
        self._closed = Counter(
            "asr_bridge_closed",
            "Connections ended, by close code; 1006 for those that broke off.",
            ["code"],
            registry=r,
        )
        messages = Counter(
            "asr_bridge_messages",
            "Messages by direction, in from clients and out to them, and kind.",
            ["direction", "kind"],
            registry=r,
        )
        self._audio_in, self._control_in = (messages.labels("in", kind) for kind in ("audio", "control"))
        self._out = {kind: messages.labels("out", kind) for kind in ("interim", "final", "event", "error")}
        volume = Counter("asr_bridge_bytes", "Bytes of messages, by direction.", ["direction"], registry=r)
        self._bytes_in, self._bytes_out = volume.labels("in"), volume.labels("out")
        self._skipped = Counter(
            "asr_bridge_interims_skipped",
            "Interims that a later one replaced, since the client did not read.",
            registry=r,
        )
        self._upstream = Gauge(
            "asr_bridge_upstream_channels", "Connections to the service that are ready.", registry=r
        )
        self._reconnects = Counter(
            "asr_bridge_upstream_reconnects",
            "Connections to the service made again after a loss.",
            registry=r,
        )

    def watch(self, *, states: Callable[[], Counts[State]], ready: Callable[[], int]) -> None:
        """Sets what is asked at each scrape: the connections by state, and the channels that are ready."""
        for state in State:
            self._connections.labels(state.value).set_function(partial(_count, states, state))
        self._upstream.set_function(ready)

    def opened(self) -> None:
        """Counts a connection that was accepted."""
        self._opened.inc()

    def refused(self, reason: str) -> None:
        """Counts a handshake that was answered with 503."""
        self._refused.labels(reason).inc()

    def uploaded(self, status: int) -> None:
        """Counts a recording that was answered with this status."""
        self._uploads.labels(str(status)).inc()

    def closed(self, code: int | None, skipped: int) -> None:
        """Counts a connection that ended with this close code (None: it broke off), and its skipped interims."""
        known = code if code is not None else 1006
        self._closed.labels(str(known) if known in _CODES else "other").inc()
        self._skipped.inc(skipped)

    def received(self, data: str | bytes) -> None:
        """Counts a client's message: audio if it is binary. A character of text counts as a byte."""
        (self._audio_in if isinstance(data, bytes) else self._control_in).inc()
        self._bytes_in.inc(len(data))

    def sent(self, kind: str, size: int) -> None:
        """Counts an interim, a final, an event of a dialect or an error that was sent; `size` in characters."""
        self._out[kind].inc()
        self._bytes_out.inc(size)

    def reconnected(self) -> None:
        """Counts a connection to the service that was made again."""
        self._reconnects.inc()

    def listen(self, settings: Settings, beat: Callable[[], float]) -> None:
        """Starts to answer `/metrics` and `/livez`; see `answer_scrapes`."""
        answer_scrapes(settings, lambda: generate_latest(self.registry), beat)


def answer_scrapes(settings: Settings, render: Callable[[], bytes], beat: Callable[[], float]) -> None:
    """Starts to answer the metrics port, in threads of its own.

    Args:
        settings: have the port.
        render: makes the page of metrics; called in any thread.
        beat: gives the last sign of life of what the bridge depends on.

    Raises:
        BadSettings: the port cannot be listened on.
    """
    try:
        port = open_port(settings.bridge_metrics_host, settings.bridge_metrics_port)
    except OSError as error:
        raise BadSettings(_port_taken(settings, error)) from None
    server = MetricsServer(port, render=render, beat=beat, watchdog=Watchdog(settings.watchdog_s))
    Thread(target=server.serve, name="scrape", daemon=True).start()


def _port_taken(settings: Settings, error: OSError) -> str:
    """Says that the port of the metrics cannot be listened on."""
    name, host, port = (
        variable("bridge_metrics_port"),
        settings.bridge_metrics_host,
        settings.bridge_metrics_port,
    )
    return f"{name}={port}: cannot listen on {host}:{port} ({error.strerror}); choose a free port, or 0 for no metrics"


def _count(states: Callable[[], Counts[State]], state: State) -> float:
    return states()[state]
