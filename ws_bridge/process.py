"""The bridge's process: what it consists of, its signals, and its end; alone, or as one of several workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial

import uvloop
from websockets.asyncio.server import Server

from asr_common import stacks
from asr_common.control_channel import ControlChannel, Received
from asr_common.cpu_priority import do_not_displace
from asr_common.loop_channel import LoopChannel
from asr_common.metric_pages import page_of
from asr_common.ready_file import write_ready_file
from asr_common.settings import BadSettings
from asr_common.watchdog import Watchdog
from ws_bridge.channels import Channels
from ws_bridge.config import Settings
from ws_bridge.metrics import Metrics
from ws_bridge.server import Bridge
from ws_bridge.tls import server_certificate, service_credentials
from ws_bridge.worker_board import WorkerBoard
from ws_bridge.workers import DRAIN, FAILED, LISTENING, PAGE, SCRAPE, port_taken

log = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Serves until a signal; returns the process's exit code.

    Raises:
        BadSettings: a port cannot be opened.
    """
    do_not_displace()
    return uvloop.run(_run_alone(settings))


def run_worker(
    settings: Settings, number: int, port: int, board: WorkerBoard, control: ControlChannel
) -> int:
    """Serves in one of several processes until the channel says to end; returns the exit code."""
    do_not_displace()
    stacks.show_on_signal()
    try:
        return uvloop.run(_Worker(settings, number, board, control).run(port))
    except BadSettings as error:
        control.send((FAILED, str(error)))
        return 2


class _Process:
    """The parts of a bridge's process, from listening to its end."""

    def __init__(self, settings: Settings, count_connections: Callable[[int], int] = lambda own: own) -> None:
        certificate = server_certificate(settings.bridge_tls_cert, settings.bridge_tls_key)
        credentials = service_credentials(settings.grpc_ca, settings.grpc_cert, settings.grpc_key)
        self.metrics = Metrics()
        self.told_to_stop = asyncio.Event()
        self._channels = Channels(settings.grpc_target, settings.bridge_channels, credentials)
        self._bridge = Bridge(settings, self._channels, self.metrics, certificate, count_connections)
        self._is_broken = False

    async def listen(self, port: int, *, shared: bool = False) -> Server:
        """Opens the port; see `Bridge.listen`."""
        return await self._bridge.listen(port, shared=shared)

    async def serve(self, server: Server) -> int:
        """Serves until `told_to_stop`, drains, and returns the exit code."""
        background = [
            asyncio.create_task(self._bridge.keep_up()),
            asyncio.create_task(self._channels.watch(self.metrics.reconnected)),
        ]
        for task in background:
            task.add_done_callback(self._background_ended)
        await self.told_to_stop.wait()
        await self._bridge.drain()
        for task in background:
            task.cancel()
        server.close()
        await server.wait_closed()
        await self._channels.close()
        return 1 if self._is_broken else 0

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        """Drains and ends the process: without the task, dead clients or lost connections would stay."""
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.critical("a background task has failed", exc_info=bug)
            self._is_broken = True
            self.told_to_stop.set()


async def _run_alone(settings: Settings) -> int:
    process = _Process(settings)
    try:
        server = await process.listen(settings.port)
    except OSError as error:
        raise BadSettings(port_taken(settings, error)) from None
    if settings.bridge_metrics_port:
        board = WorkerBoard(1)
        _beat_regularly(settings, partial(board.set_beat, 0))
        process.metrics.listen(settings, lambda: board.beat(0))
    _on_signals(process.told_to_stop)
    where = {"host": settings.host, "port": next(iter(server.sockets)).getsockname()[1]}
    if settings.bridge_ready_file is not None:
        write_ready_file(settings.bridge_ready_file, where)
    log.info("listening", extra={"fields": {**where, "service": settings.grpc_target}})
    code = await process.serve(server)
    log.info("stopped")
    return code


def _beat_regularly(settings: Settings, beat: Callable[[float], None]) -> None:
    """Gives signs of life of this event loop, up to its end, as often as the watchdog looks."""
    loop = asyncio.get_running_loop()
    every_s = Watchdog(settings.watchdog_s).look_s

    def turn() -> None:
        beat(time.monotonic())
        loop.call_later(every_s, turn)

    turn()


class _Worker:
    """One of several processes of a bridge, and its channel to the one that watches them."""

    def __init__(self, settings: Settings, number: int, board: WorkerBoard, control: ControlChannel) -> None:
        self._settings = settings
        self._number = number
        self._board = board
        self._control = control

    async def run(self, port: int) -> int:
        """Serves until the channel says to end; returns the exit code."""
        self._process = process = _Process(self._settings, self._count)
        server = await process.listen(port, shared=True)
        _beat_regularly(self._settings, partial(self._board.set_beat, self._number))
        self._channel = LoopChannel(self._control, self._take)
        self._channel.send((LISTENING,))
        code = await process.serve(server)
        self._channel.close()
        return code

    def _count(self, own: int) -> int:
        self._board.set_connections(self._number, own)
        return self._board.connections

    def _take(self, received: Received) -> None:
        message = received.message
        if message[0] == DRAIN:
            self._process.told_to_stop.set()
        elif message[0] == SCRAPE:
            self._channel.send((PAGE, message[1], page_of(self._process.metrics.registry)))


def _on_signals(told: asyncio.Event) -> None:
    """Sets the event at the first SIGTERM or SIGINT; the second ends the process at once."""

    def came(number: int) -> None:
        if told.is_set():
            log.warning("second signal: ending at once")
            os._exit(128 + number)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, came, number)
