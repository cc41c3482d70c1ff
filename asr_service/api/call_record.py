"""What metrics, traces and the log are told of one streaming call."""

from __future__ import annotations

import logging
import time
from collections import deque

from asr_service.core.errors import AsrError, InternalError
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Trace

log = logging.getLogger(__name__)

_REQUESTED_FINALS = (FinalReason.FINALIZE, FinalReason.END_OF_STREAM)


class CallRecord:
    """Counts and times what a call does, and tells metrics, trace and log.

    Args:
        metrics: of the service.
        trace: of the call; None without tracing.
        now: the event loop's time when the call began.

    Attributes:
        received_bytes: audio received; the call's reader adds to it.
        stream_id: name of the stream, "" until its config has come.
        key_name: name of the caller's API key, "" without keys.
    """

    def __init__(self, metrics: Metrics, trace: Trace | None, now: float) -> None:
        self.received_bytes = 0
        self.stream_id = ""
        self.key_name = ""
        self._metrics = metrics
        self._trace = trace
        self._began = now
        # Of `received_bytes`, what the metrics have.
        self._counted_bytes = 0
        self._audio_ms = 0
        self._engine: int | None = None
        # Monotonic times at which finals were requested (by finalize or half-close) that have not been sent yet.
        self._requested: deque[float] = deque()

    def admitted(self, config: StreamConfig, channels: int, engine: int | None = None) -> None:
        """The call was admitted with this config for each of its channels; `engine` steps it, if there are several."""
        self._engine = engine
        if self._trace is not None:
            self._trace.admitted(config, channels, self.key_name)

    def final_requested(self) -> None:
        """The client has asked for a final, by a finalize request or by its half-close."""
        self._requested.append(time.monotonic())

    def result_made(self, result: Result) -> None:
        """A result has come from the engine."""
        self._audio_ms = result.audio_ms
        self._count_bytes()

    def result_sent(self, result: Result) -> None:
        """A result was handed to the connection."""
        self._metrics.result_sent(time.time() - result.made_unix_ms / 1000)

    def result_done(self, result: Result, channel: int, *, sent: bool) -> None:
        """A result was handed to the connection, or has nothing to tell the client.

        The first channel's finals answer the requests: each request is answered in every channel.
        """
        latency_s = None
        if result.reason in _REQUESTED_FINALS and self._requested and not channel:
            latency_s = time.monotonic() - self._requested.popleft()
            self._metrics.final_latency(latency_s)
        if self._trace is not None and sent:
            self._trace.result(result, channel, latency_s)

    def ended(
        self, outcome: str, error: AsrError | None, *, admitted: bool, coalesced: int, peer: str, now: float
    ) -> None:
        """The call is over.

        Args:
            outcome: "ok", "cancelled", or the status in lower case.
            error: what the client is told, None if nothing went wrong.
            admitted: whether the call had been admitted.
            coalesced: interims that later ones replaced before they were sent.
            peer: address of the client.
            now: the event loop's time.
        """
        self._metrics.call_ended(outcome, admitted=admitted)
        self._count_bytes()
        self._metrics.coalesced(coalesced)
        fields = {
            "stream": self.stream_id,
            "outcome": outcome,
            "seconds": round(now - self._began, 3),
            "audio_ms": self._audio_ms,
            "bytes": self.received_bytes,
            "peer": peer,
        }
        if self._engine is not None:
            fields["engine"] = self._engine
        if self.key_name:
            fields["key"] = self.key_name
        if error is not None:
            fields["why"] = error.message
        if self._trace is not None:
            self._trace.end(outcome, error, audio_ms=self._audio_ms, received=self.received_bytes)
            if self._trace.id:
                fields["trace"] = self._trace.id
        level = logging.INFO if admitted else logging.DEBUG
        if isinstance(error, InternalError):
            level = logging.ERROR
        log.log(level, "stream ended", extra={"fields": fields})

    def _count_bytes(self) -> None:
        self._metrics.received(self.received_bytes - self._counted_bytes)
        self._counted_bytes = self.received_bytes
