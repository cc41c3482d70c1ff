"""The service as its settings describe it: which processes there are, what each of them runs, and its exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from asr_common.control_channel import ControlChannel
from asr_common.log_lines import name_process
from asr_common.metrics_http import open_port
from asr_common.process_group import ProcessGroup
from asr_common.ready_file import write_ready_file
from asr_common.shared_port import SharedPort
from asr_service.app.board import Board
from asr_service.app.deployment import plan_deployment, this_machine
from asr_service.app.processes import Plan
from asr_service.app.supervisor import FAILED, REFUSED, Supervisor
from asr_service.config import Settings
from asr_service.core.addresses import grpc_port_taken, metrics_port_taken
from asr_service.core.errors import ModelUnavailable, SettingsError

log = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Serves until told to stop; returns the process's exit code."""
    group = ProcessGroup()
    ports = contextlib.ExitStack()
    try:
        return _Service(settings, group, ports).run()
    except SettingsError as error:
        for line in error.message.splitlines():
            log.error("%s", line)
        return REFUSED
    except ModelUnavailable as error:
        log.error("%s", error.message)
        return FAILED
    finally:
        group.close()
        ports.close()


def run_front_end(number: int, control: ControlChannel, **options: Any) -> int:
    """Runs a front end; see `front_end.run_front_end`."""
    # gRPC is not to be there before a fork.
    from asr_service.app import front_end

    return front_end.run_front_end(number, control, **options)


class _Service:
    """What all processes of the service share, and what is told of the whole."""

    def __init__(self, settings: Settings, group: ProcessGroup, ports: contextlib.ExitStack) -> None:
        self._settings = settings
        self._group = group
        # They are kept for as long as the service runs.
        self._ports = ports
        self._started = time.monotonic()
        self._deployment = plan_deployment(settings, this_machine())
        for note in self._deployment.notes:
            log.warning("%s", note)
        self._board = Board(len(self._deployment.engines), self._deployment.front_ends)
        self._was_ready = False
        # Only Linux gives each of the processes that listen on one port its share of connections.
        self._shared_port = self._share_port() if sys.platform == "linux" else None

    def run(self) -> int:
        """Serves until told to stop.

        Raises:
            SettingsError, ModelUnavailable: the service cannot be had.
        """
        plan = Plan(
            engines=[engine.name for engine in self._deployment.engines],
            front_ends=self._deployment.front_ends,
            run_engine=self._run_engine,
            run_front_end=self._run_front_end,
            drain_s=self._settings.drain_s,
            watchdog_s=self._settings.watchdog_s,
            on_ready=self._on_ready,
            answer_scrapes=self._scrapes(),
        )
        for engine in self._deployment.engines:
            log.info("%s makes the model %s", engine.name, engine.model.name)
        return Supervisor(plan, self._board, self._group).run()

    def _share_port(self) -> SharedPort:
        """Takes the port for the front ends."""
        settings = self._settings
        try:
            port = SharedPort(settings.host, settings.grpc_port)
        except OSError:
            raise grpc_port_taken(settings.host, settings.grpc_port) from None
        self._ports.callback(port.close)
        for descriptor in port.filenos():
            self._group.keep_private(descriptor)
        return port

    def _run_engine(self, number: int, control: ControlChannel, pinned: str) -> int:
        planned = self._deployment.engines[number]
        if len(self._deployment.engines) > 1:
            name_process(engine=number)
        if planned.cpus is not None:
            # Before torch and Numba look how many there are.
            os.sched_setaffinity(0, planned.cpus)
        # Nothing of it is to be in the processes that fork.
        from asr_service.app.engine_process import run_engine
        from asr_service.engine.contract import EngineSettings
        from asr_service.model import locate, make_model

        if pinned:
            locate.pin_model(planned.model.name, pinned)
        settings = self._settings
        engine_settings = EngineSettings(
            max_batch=settings.max_batch,
            tick_s=settings.step_ms / 1000,
            max_streams=settings.max_streams,
            max_load=settings.max_load,
        )
        return run_engine(
            number,
            control,
            make_model=partial(make_model, planned.model),
            settings=engine_settings,
            board=self._board,
            pinned_name=partial(locate.pinned_name, planned.model.name),
        )

    def _run_front_end(self, number: int, control: ControlChannel) -> int:
        shared = self._shared_port
        if self._deployment.front_ends > 1:
            name_process(front_end=number)
        return run_front_end(
            number,
            control,
            settings=self._settings,
            port=shared.number if shared else self._settings.grpc_port,
            shares_port=shared is not None,
            board=self._board,
        )

    def _scrapes(self) -> Callable[[ControlChannel], int] | None:
        settings, board = self._settings, self._board
        if not settings.metrics_port:
            return None
        try:
            port = open_port(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            raise metrics_port_taken(settings.metrics_host, settings.metrics_port, error) from None

        self._ports.callback(port.close)

        def answer(control: ControlChannel) -> int:
            from asr_service.app.metrics_process import answer_scrapes

            return answer_scrapes(control, port=port, board=board, watchdog_s=settings.watchdog_s)

        return answer

    def _on_ready(self, port: int) -> None:
        """Tells that everything runs, for the first time or again."""
        if self._was_ready:
            log.info("everything runs again")
            return
        self._was_ready = True
        settings = self._settings
        if settings.ready_file is not None:
            where = {"host": settings.host, "grpc_port": port, "metrics_port": settings.metrics_port}
            write_ready_file(Path(settings.ready_file), where)
        log.info("ready after %.1f s", time.monotonic() - self._started)
        log.info("serving grpc on %s:%d", settings.host, port)
