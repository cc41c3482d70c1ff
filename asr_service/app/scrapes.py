"""Collects the metrics of all processes for the one that answers the metrics port, and keeps that one running."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from asr_common.control_channel import ControlChannel, Message
from asr_common.metric_pages import Page, Scrape, ServicePages
from asr_common.process_group import Child, ProcessGroup, how_it_ended
from asr_common.restarts import FORK_RETRY_S, LONGEST_WAIT_S, Restarts
from asr_service.app.control import FromMetrics, ToEngine, ToMetrics
from asr_service.app.processes import Process
from asr_service.observability.metrics import GAUGES

log = logging.getLogger(__name__)

SCRAPE_S = 0.5
"""How long a process may take for its metrics; then its last ones are shown."""


class Scrapes:
    """Runs the process that answers scrapes. For the supervisor's thread.

    Args:
        group: forks it.
        run: runs it with its channel; None where there is no metrics port.
    """

    def __init__(self, group: ProcessGroup, run: Callable[[ControlChannel], int] | None) -> None:
        self._group = group
        self._run = run
        self._pages = ServicePages(GAUGES)
        self._scrape: Scrape | None = None
        self._child: Child | None = None
        self._restarts = Restarts()
        self._start_at: float | None = None if run is None else 0.0

    @property
    def moments(self) -> Iterable[float]:
        """Monotonic times at which there is something to do."""
        if self._start_at is not None:
            yield self._start_at
        if self._scrape is not None:
            yield self._scrape.until

    def keep_up(self, now: float) -> None:
        """Starts the process where it is due, and gives it the page that it waits for as soon as that is whole."""
        if self._run is not None and self._start_at is not None and self._start_at <= now:
            self._start(now, self._run)
        if self._scrape is not None and self._child is not None and self._scrape.is_over(now):
            self._child.control.send((ToMetrics.PAGE, self._scrape.number, self._pages.merged()))
            self._scrape = None

    def _start(self, now: float, run: Callable[[ControlChannel], int]) -> None:
        self._start_at = None
        try:
            self._child = self._group.fork("asr-metrics", run)
        except OSError as error:
            log.error("asr-metrics cannot be started: %s", error.strerror)
            self._start_at = now + FORK_RETRY_S
            return
        self._restarts.ready(now)

    def is_from(self, child: Child) -> bool:
        """Whether a child is the process that answers scrapes."""
        return child is self._child

    def take(self, message: Message, processes: Iterable[Process]) -> None:
        """Takes a message of the process that answers scrapes: asks all others for their metrics."""
        if message[0] != FromMetrics.SCRAPE:
            return
        # One that makes its model does not answer before that is done.
        asked = [process for process in processes if process.child is not None and process.is_ready]
        self._scrape = Scrape(message[1], [process.name for process in asked], time.monotonic() + SCRAPE_S)
        for process in asked:
            assert process.child is not None
            process.child.control.send((ToEngine.SCRAPE, message[1]))

    def take_page(self, process: Process, number: int, page: Page) -> None:
        """Takes the metrics of a process."""
        self._pages.take(process.name, page)
        if self._scrape is not None:
            self._scrape.take(process.name, number)

    def on_process_end(self, process: Process) -> None:
        """Takes that a process has ended: what it has counted stays counted."""
        self._pages.ended(process.name)
        if self._scrape is not None:
            self._scrape.leave_out(process.name)

    def on_end(self, child: Child) -> None:
        """Has the process that answers scrapes started again: nobody's stream depends on it."""
        assert child.exit_code is not None
        log.error("%s has ended %s and is started again", child.name, how_it_ended(child.exit_code))
        self._child, self._scrape = None, None
        now = time.monotonic()
        wait_s = self._restarts.ended(now)
        if wait_s is None:
            wait_s, self._restarts = LONGEST_WAIT_S, Restarts()
        self._start_at = now + wait_s

    def stop(self) -> None:
        """Ends the process that answers scrapes."""
        self._start_at = None
        if self._child is not None:
            self._group.kill(self._child)
