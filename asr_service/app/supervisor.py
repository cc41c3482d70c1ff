"""Starts engines and front ends, connects them, restarts what has ended, and ends them all.

It has one thread, which only waits, and imports neither grpc nor torch nor numpy: so it may fork at any time. Streams
never pass through it. Whatever process ends takes its own streams with it and nothing else; it is started again, and
the service ends by itself only where that fails again and again.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Sequence

from asr_common import restarts, stacks
from asr_common.control_channel import Received
from asr_common.process_group import Child, News, ProcessGroup, how_it_ended
from asr_common.watchdog import Watchdog
from asr_service.app.board import Board
from asr_service.app.control import FromEngine, FromFrontEnd, ToEngine, ToFrontEnd
from asr_service.app.permit_requests import PermitRequests
from asr_service.app.processes import Plan, Process
from asr_service.app.scrapes import Scrapes
from asr_service.core.errors import SettingsError

log = logging.getLogger(__name__)

FAILED, REFUSED = 1, 2
"""Exit codes: what was started has failed, or cannot be had now; the settings cannot be served."""
FRONT_END_START_S = 60.0
"""How long a front end may take until it listens; an engine's model may take as long as it takes."""
ENGINE_STOP_S = 1.0
"""How long engines have to finish their steps once no front end is left."""
LAST_WORDS_S = 4.0
"""How long after the time of a drain a front end has for the last finals and statuses of its streams."""


class Supervisor:
    """Runs the processes of a plan until it is told to end, or until they fail again and again.

    Args:
        plan: what is to run.
        board: that the processes write to.
        group: forks them.
    """

    def __init__(self, plan: Plan, board: Board, group: ProcessGroup) -> None:
        self._plan = plan
        self._board = board
        self._group = group
        self._permits = PermitRequests(lambda: self._take_news(group.wait(0)))
        self._scrapes = Scrapes(group, plan.answer_scrapes)
        self._watchdog = Watchdog(plan.watchdog_s)
        self._engines = [Process(True, number, name) for number, name in enumerate(plan.engines)]
        self._front_ends = [
            Process(False, number, f"front end {number}") for number in range(plan.front_ends)
        ]
        self._by_child: dict[int, Process] = {}
        self._was_ready = False
        self._is_ready = False
        # When a drain is over at the latest; None before.
        self._drain_until: float | None = None
        self._stop_until: float | None = None
        self._exit_code = 0
        self._refusal: BaseException | None = None

    @property
    def _processes(self) -> list[Process]:
        return [*self._engines, *self._front_ends]

    def run(self) -> int:
        """Runs until the end; returns the exit code of the service.

        Raises:
            SettingsError: an engine or a front end cannot be had with these settings.
            ModelUnavailable: the model cannot be had now.
        """
        while not self._is_over():
            now = self._board.service.beat = time.monotonic()
            self._start_due(now)
            self._look_for_hanging(now)
            self._end_late(now)
            self._scrapes.keep_up(now)
            self._take_news(self._group.wait(self._next_look(now)))
            self._permits.answer()
            self._tell_ready()
        if self._refusal is not None:
            raise self._refusal
        return self._exit_code

    def _is_over(self) -> bool:
        return self._drain_until is not None and not any(process.child for process in self._processes)

    def _take_news(self, news: News) -> None:
        for child, received in news.received:
            if self._scrapes.is_from(child):
                self._scrapes.take(received.message, self._processes)
            else:
                self._take(self._by_child[child.pid], received)
        for child in news.ended:
            if self._scrapes.is_from(child):
                self._scrapes.on_end(child)
            else:
                self._on_end(self._by_child.pop(child.pid), child)
        for number in news.signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._on_signal(number)

    # ------------------------------------------------------------------------------------------------- starting

    def _start_due(self, now: float) -> None:
        for process in self._processes:
            if process.start_at is not None and process.start_at <= now and self._drain_until is None:
                self._start(process)

    def _start(self, process: Process) -> None:
        process.start_at, process.failure = None, None
        number = process.number
        plan, pinned = self._plan, process.pinned
        try:
            if process.is_engine:
                child = self._group.fork(
                    f"asr-engine-{number}", lambda control: plan.run_engine(number, control, pinned)
                )
            else:
                child = self._group.fork(
                    f"asr-front-{number}", lambda control: plan.run_front_end(number, control)
                )
        except OSError as error:
            self._on_no_process(process, error)
            return
        process.child = child
        self._by_child[child.pid] = process
        if not process.is_engine:
            for engine in self._engines:
                self._connect(engine, process)

    def _on_no_process(self, process: Process, error: OSError) -> None:
        """Tries again later where the system has no room for a process now; others serve meanwhile."""
        log.critical("%s cannot be started: %s", process.name, error.strerror)
        if self._was_ready:
            process.start_at = time.monotonic() + restarts.FORK_RETRY_S
        else:
            self._give_up(None)

    def _connect(self, engine: Process, front_end: Process) -> None:
        """Links an engine that has its model to a front end; of one that is away, tells what it serves."""
        if front_end.child is None:
            return
        if engine.child is None or engine.pool is None:
            if engine.model:
                front_end.child.control.send((ToFrontEnd.ENGINE, engine.number, engine.model))
            return
        ends = socket.socketpair()
        engine.child.control.send((ToEngine.LINK, front_end.number), [ends[0].fileno()])
        front_end.child.control.send(
            (ToFrontEnd.ENGINE, engine.number, engine.model), [engine.pool, ends[1].fileno()]
        )
        for end in ends:
            end.close()

    def _tell_ready(self) -> None:
        """Lets streams in once everything runs, and tells so each time that it does again."""
        is_ready = all(process.is_ready for process in self._processes)
        if is_ready and not self._is_ready and self._drain_until is None:
            self._board.service.is_serving = 1
            for front_end in self._front_ends:
                self._send(front_end, (ToFrontEnd.SERVE,))
            self._was_ready = True
            self._plan.on_ready(self._front_ends[0].port)
        self._is_ready = is_ready

    # ------------------------------------------------------------------------------------------------- messages

    def _send(self, process: Process, message: tuple[object, ...]) -> None:
        if process.child is not None:
            process.child.control.send(message)

    def _take(self, process: Process, received: Received) -> None:
        if process.is_engine:
            self._take_from_engine(process, received)
        else:
            self._take_from_front_end(process, received)

    def _take_from_engine(self, engine: Process, received: Received) -> None:
        match received.message:
            case (FromEngine.MADE, model, pinned):
                engine.model, engine.pinned = model, pinned
                (engine.pool,) = received.descriptors
                self._group.keep_private(engine.pool)
                for front_end in self._front_ends:
                    self._connect(engine, front_end)
            case (FromEngine.RUNNING,):
                self._on_process_ready(engine)
            case (FromEngine.PAGE, number, page):
                self._scrapes.take_page(engine, number, page)
            case (FromEngine.FAILED, error):
                engine.failure = pickle.loads(error)

    def _take_from_front_end(self, front_end: Process, received: Received) -> None:
        match received.message:
            case (FromFrontEnd.LISTENING, port):
                front_end.port = port
                self._on_process_ready(front_end)
                if self._was_ready:
                    self._send(front_end, (ToFrontEnd.SERVE,))
            case (FromFrontEnd.ASK_PERMIT, request, key, count, limit):
                self._permits.ask(front_end, request, key, count, limit)
            case (FromFrontEnd.GIVE_BACK, key, count):
                self._permits.give_back(front_end, key, count)
            case (FromFrontEnd.PAGE, number, page):
                self._scrapes.take_page(front_end, number, page)
            case (FromFrontEnd.FAILED, error):
                front_end.failure = pickle.loads(error)

    def _on_process_ready(self, process: Process) -> None:
        process.is_ready = True
        process.restarts.ready(time.monotonic())

    # ----------------------------------------------------------------------------------------------------- ends

    def _on_end(self, process: Process, child: Child) -> None:
        """Starts a process again that has ended, or gives it up."""
        was_ready, process.is_ready = process.is_ready, False
        process.child, process.kill_at = None, None
        self._scrapes.on_process_end(process)
        self._watchdog.forget(process.name)
        if process.is_engine:
            self._board.clear_engine(process.number)
            if process.pool is not None:
                self._group.forget(process.pool)
                os.close(process.pool)
                process.pool = None
        else:
            self._board.clear_front_end(process.number)
            self._permits.forget(process)
        if self._drain_until is not None:
            return
        if process.failure is not None and not self._was_ready:
            # What cannot be had at the start cannot be had: it is for a person to mend.
            self._give_up(process.failure)
            return
        assert child.exit_code is not None
        why = f": {process.failure}" if process.failure is not None else ""
        log.critical("%s has ended %s%s", process.name, how_it_ended(child.exit_code), why)
        wait_s = process.restarts.ended(time.monotonic())
        if not self._was_ready and not was_ready:
            wait_s = None
        if wait_s is None:
            log.critical("%s is not started again: it has ended too often", process.name)
            self._give_up(None)
            return
        log.warning("%s is started again in %.1f s", process.name, wait_s)
        process.start_at = time.monotonic() + wait_s

    def _give_up(self, refusal: BaseException | None) -> None:
        self._exit_code = REFUSED if isinstance(refusal, SettingsError) else FAILED
        self._refusal = refusal
        self._drain()

    def _on_signal(self, number: int) -> None:
        """SIGTERM or SIGINT: the first drains, the second ends all processes at once."""
        name = signal.Signals(number).name
        if self._drain_until is not None:
            log.warning("%s again: ending at once", name)
            self._group.close()
            os._exit(128 + number)
        log.info("%s: draining %d streams for at most %g s", name, self._board.streams, self._plan.drain_s)
        self._drain()

    def _drain(self) -> None:
        """Lets no more streams in, lets those finish that are open, and ends all processes."""
        self._board.service.is_draining, self._board.service.is_serving = 1, 0
        self._drain_until = time.monotonic() + self._plan.drain_s + LAST_WORDS_S
        for process in self._processes:
            process.start_at = None
        for front_end in self._front_ends:
            self._send(front_end, (ToFrontEnd.DRAIN,))

    def _end_late(self, now: float) -> None:
        """Ends engines once no front end is left, and at last whatever does not end by itself."""
        if self._drain_until is None:
            return
        if any(front_end.child for front_end in self._front_ends):
            if now >= self._drain_until:
                self._kill(self._front_ends)
            return
        if self._stop_until is None:
            self._stop_until = now + ENGINE_STOP_S
            for engine in self._engines:
                self._send(engine, (ToEngine.STOP,))
                if not engine.is_ready and engine.child is not None:
                    # One that makes its model has nothing to finish.
                    self._group.kill(engine.child)
        elif now >= self._stop_until:
            self._kill(self._engines)

    def _kill(self, processes: Sequence[Process]) -> None:
        for process in processes:
            if process.child is not None:
                self._group.kill(process.child)

    # ------------------------------------------------------------------------------------------------- watching

    def _look_for_hanging(self, now: float) -> None:
        """Kills processes that give no sign of life, after they were made to show what they do."""
        self._watchdog.look(now)
        for process in self._processes:
            if process.child is None or (process.is_engine and not process.is_ready):
                continue
            if process.kill_at is not None:
                if now >= process.kill_at:
                    self._group.kill(process.child)
                continue
            records = self._board.engines if process.is_engine else self._board.front_ends
            record = records[process.number]
            starting_s = 0.0 if process.is_ready else FRONT_END_START_S
            if self._watchdog.hangs(process.name, record.beat, at_least_s=starting_s):
                log.critical(
                    "%s has given no sign of life for %s s; its threads:",
                    process.name,
                    f"{starting_s:g}" if starting_s else f"ASR_WATCHDOG_S={self._watchdog.limit_s:g}",
                )
                self._group.kill(process.child, stacks.SHOW_STACKS)
                process.kill_at = now + stacks.STACKS_S

    def _next_look(self, now: float) -> float:
        """Returns how long to wait at most."""
        moments = [now + self._watchdog.look_s]
        moments += [process.start_at for process in self._processes if process.start_at is not None]
        moments += [process.kill_at for process in self._processes if process.kill_at is not None]
        moments += [moment for moment in (self._drain_until, self._stop_until) if moment is not None]
        moments += self._scrapes.moments
        return max(0.0, min(moments) - now)
