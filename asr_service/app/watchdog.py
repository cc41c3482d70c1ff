"""What watches the service while it serves: the engine's steps, and the event loop itself."""

from __future__ import annotations

import asyncio
import logging
import time

from asr_service.engine.client import EngineClient
from asr_service.observability.metrics import Metrics

log = logging.getLogger(__name__)

_LONGEST_LOOK_S = 1.0
_LAG_PERIOD_S = 0.1


async def watch_steps(engine: EngineClient, limit_s: float) -> TimeoutError:
    """Returns the failure once a model step has lasted longer than `limit_s`; else never."""
    while True:
        await asyncio.sleep(min(_LONGEST_LOOK_S, limit_s / 4))
        since = engine.busy_since
        if since is not None and time.monotonic() - since > limit_s:
            log.critical("a step has lasted longer than ASR_WATCHDOG_S=%g s; the engine's threads:", limit_s)
            engine.show_stacks()
            return TimeoutError("a model step hangs")


async def measure_lag(metrics: Metrics) -> None:
    """Measures how late the event loop wakes up, for ever."""
    while True:
        # The loop's own clock counts whole milliseconds.
        due = time.monotonic() + _LAG_PERIOD_S
        await asyncio.sleep(_LAG_PERIOD_S)
        metrics.loop_lag(max(0.0, time.monotonic() - due))
