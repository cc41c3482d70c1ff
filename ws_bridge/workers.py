"""Several processes that serve one port, and the one that starts and watches them (`ASR_BRIDGE_WORKERS`).

Each worker is a whole bridge (`process.py`). A worker that ends takes its own connections with it and is started again;
only one that ends again and again ends the bridge. The metrics of all are one page, answered by a process of its own.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from asr_common import stacks
from asr_common.control_channel import ControlChannel
from asr_common.metric_pages import Scrape, ServicePages, render
from asr_common.page_requests import PageRequests
from asr_common.process_group import Child, ProcessGroup, how_it_ended
from asr_common.ready_file import write_ready_file
from asr_common.restarts import FORK_RETRY_S, Restarts
from asr_common.settings import BadSettings, variable
from asr_common.shared_port import SharedPort
from asr_common.watchdog import Watchdog
from ws_bridge.config import Settings
from ws_bridge.metrics import GAUGES, answer_scrapes
from ws_bridge.worker_board import WATCHER, WorkerBoard

log = logging.getLogger(__name__)

LISTENING, DRAIN, SCRAPE, PAGE, FAILED = "listening", "drain", "scrape", "page", "failed"
"""What the processes tell each other: that one listens, (SCRAPE, number) and (PAGE, number, page) with its
metrics, DRAIN that it should end, (FAILED, text) that it cannot have what the settings ask for."""

_SCRAPE_S = 0.5
"""How long a worker may take for its metrics; then its last ones are shown."""
_LAST_S = 15.0
"""How long after the time of a drain, and of closing its connections, a worker is killed."""
_START_S = 60.0
"""How long a worker may take until it listens."""
_METRICS = -1


class Workers:
    """Starts the workers, watches them, and ends them.

    Args:
        settings: of the bridge.
        group: forks them.
    """

    def __init__(self, settings: Settings, group: ProcessGroup) -> None:
        self._settings = settings
        self._group = group
        self._board = WorkerBoard(settings.bridge_workers)
        self._watchdog = Watchdog(settings.watchdog_s)
        self._pages = ServicePages(GAUGES)
        self._scrape: Scrape | None = None
        # By number; of `_METRICS` the process that answers with their page.
        self._children: dict[int, Child] = {}
        self._restarts = {number: Restarts() for number in (*range(settings.bridge_workers), _METRICS)}
        self._start_at: dict[int, float] = {}
        # Of those that hang.
        self._kill_one_at: dict[int, float] = {}
        self._listening: set[int] = set()
        self._was_ready = False
        self._kill_at: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Serves until a signal; returns the exit code.

        Raises:
            BadSettings: a port cannot be had.
        """
        settings = self._settings
        port = _share_port(settings)
        for descriptor in port.filenos():
            self._group.keep_private(descriptor)
        self._port = port.number
        if settings.bridge_metrics_port:
            self._start(_METRICS)
        for number in range(settings.bridge_workers):
            self._start(number)
        while self._kill_at is None or self._children.keys() - {_METRICS}:
            self._turn()
        return self._exit_code

    def _turn(self) -> None:
        now = time.monotonic()
        self._board.set_beat(WATCHER, now)
        for number in [number for number, at in self._start_at.items() if at <= now]:
            self._start(number)
        if self._kill_at is not None and now >= self._kill_at:
            for child in self._children.values():
                self._group.kill(child)
        self._look_for_hanging(now)
        self._finish_scrape(now)
        moments = [now + self._watchdog.look_s, *self._start_at.values(), *self._kill_one_at.values()]
        moments += [self._kill_at] if self._kill_at is not None and now < self._kill_at else []
        moments += [self._scrape.until] if self._scrape else []
        news = self._group.wait(max(0.0, min(moments) - now))
        numbers = {child: number for number, child in self._children.items()}
        for child, (message, _) in news.received:
            self._take(numbers[child], *message)
        for child in news.ended:
            self._on_end(numbers[child], child)
        for number in news.signals:
            self._on_signal(number)

    def _start(self, number: int) -> None:
        self._start_at.pop(number, None)
        name: str
        run: Callable[[ControlChannel], int]
        if number == _METRICS:
            name, run = "ws-metrics", self._answer_scrapes
        else:
            name, run = f"ws-bridge-{number}", partial(self._run_worker, number)
        try:
            self._children[number] = self._group.fork(name, run)
        except OSError as error:
            log.critical("%s cannot be started: %s", name, error.strerror)
            if self._was_ready:
                # The others serve meanwhile.
                self._start_at[number] = time.monotonic() + FORK_RETRY_S
            else:
                self._exit_code = 1
                self._drain()

    def _run_worker(self, number: int, control: ControlChannel) -> int:
        # gRPC is not to be there before a fork.
        from ws_bridge.process import run_worker

        return run_worker(self._settings, number, self._port, self._board, control)

    def _take(self, number: int, kind: str, *values: Any) -> None:
        if kind == LISTENING:
            self._listening.add(number)
            self._restarts[number].ready(time.monotonic())
            if self._was_ready:
                log.info("%s listens again", self._children[number].name)
            elif len(self._listening - {_METRICS}) == self._settings.bridge_workers:
                self._was_ready = True
                self._tell_ready()
        elif kind == FAILED:
            if not self._was_ready:
                raise BadSettings(values[0])
            log.error("%s", values[0])
        elif kind == PAGE:
            self._pages.take(number, values[1])
            if self._scrape:
                self._scrape.take(number, values[0])
        elif kind == SCRAPE:
            workers = self._children.keys() - {_METRICS}
            self._scrape = Scrape(values[0], workers, time.monotonic() + _SCRAPE_S)
            for worker in workers:
                self._children[worker].control.send((SCRAPE, values[0]))

    def _finish_scrape(self, now: float) -> None:
        scrape = self._scrape
        if scrape and scrape.is_over(now):
            self._scrape = None
            self._children[_METRICS].control.send((PAGE, scrape.number, self._pages.merged()))

    def _tell_ready(self) -> None:
        settings = self._settings
        where = {"host": settings.host, "port": self._port}
        if settings.bridge_ready_file is not None:
            write_ready_file(settings.bridge_ready_file, where)
        fields = {**where, "service": settings.grpc_target, "workers": settings.bridge_workers}
        log.info("listening", extra={"fields": fields})

    def _on_end(self, number: int, child: Child) -> None:
        """Starts a process again that has ended, or ends the bridge."""
        del self._children[number]
        self._listening.discard(number)
        self._kill_one_at.pop(number, None)
        self._watchdog.forget(number)
        if number != _METRICS:
            self._board.set_connections(number, 0)
            self._pages.ended(number)
        if number == _METRICS:
            # Nobody is left who asks.
            self._scrape = None
        elif self._scrape:
            self._scrape.leave_out(number)
        if self._kill_at is not None:
            return
        assert child.exit_code is not None
        log.critical("%s has ended %s", child.name, how_it_ended(child.exit_code))
        wait_s = self._restarts[number].ended(time.monotonic()) if self._was_ready else None
        if wait_s is None:
            self._exit_code = 1
            self._drain()
        else:
            self._start_at[number] = time.monotonic() + wait_s

    def _look_for_hanging(self, now: float) -> None:
        """Kills workers that give no sign of life, after they were made to show what they do."""
        self._watchdog.look(now)
        for number, child in self._children.items():
            if number == _METRICS:
                continue
            if number in self._kill_one_at:
                if now >= self._kill_one_at[number]:
                    self._group.kill(child)
                continue
            starting_s = 0.0 if number in self._listening else _START_S
            if self._watchdog.hangs(number, self._board.beat(number), at_least_s=starting_s):
                limit = (
                    f"{starting_s:g}"
                    if starting_s
                    else f"{variable('watchdog_s')}={self._watchdog.limit_s:g}"
                )
                log.critical("%s has given no sign of life for %s s; its threads:", child.name, limit)
                self._group.kill(child, stacks.SHOW_STACKS)
                self._kill_one_at[number] = now + stacks.STACKS_S

    def _on_signal(self, number: int) -> None:
        """SIGTERM or SIGINT: the first drains, the second ends all at once."""
        if self._kill_at is not None:
            log.warning("second signal: ending at once")
            self._group.close()
            os._exit(128 + number)
        self._drain()

    def _drain(self) -> None:
        self._start_at.clear()
        self._kill_at = time.monotonic() + self._settings.drain_s + self._settings.bridge_close_s + _LAST_S
        for child in self._children.values():
            child.control.send((DRAIN,))

    def _answer_scrapes(self, control: ControlChannel) -> int:
        """Answers `/metrics` with the page of all workers, and `/livez`, in a process that does nothing else."""
        requests = PageRequests(lambda number: control.send((SCRAPE, number)))
        try:
            answer_scrapes(self._settings, lambda: render(requests.get()), lambda: self._board.beat(WATCHER))
        except BadSettings as error:
            control.send((FAILED, str(error)))
            return 2
        control.send((LISTENING,))
        while control.is_open:
            select.select([control], [], [])
            for message, _ in control.read():
                if message[0] == PAGE:
                    requests.take(*message[1:])
        return 0


def _share_port(settings: Settings) -> SharedPort:
    if sys.platform != "linux":
        raise BadSettings(
            f"{variable('bridge_workers')}={settings.bridge_workers}: only Linux shares a port between processes; it "
            "should be 1 here"
        )
    try:
        return SharedPort(settings.host, settings.port)
    except OSError as error:
        raise BadSettings(port_taken(settings, error)) from None


def port_taken(settings: Settings, error: OSError) -> str:
    """Says that the port cannot be listened on."""
    where = f"{settings.host}:{settings.port}"
    return f"cannot listen on {where} ({variable('host')}, {variable('port')}): {error}"


def serve_with_workers(settings: Settings) -> int:
    """Serves with several processes until a signal; returns the exit code.

    Raises:
        BadSettings: a port cannot be had.
    """
    group = ProcessGroup()
    try:
        code = Workers(settings, group).run()
    finally:
        group.close()
    log.info("stopped")
    return code
