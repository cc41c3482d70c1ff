"""A front end's process: an event loop that listens, admits streams, recognizes them with engines' help, and drains."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import time
from collections.abc import Coroutine

import uvloop

from asr_common import stacks
from asr_common.control_channel import ControlChannel, Received
from asr_common.cpu_priority import do_not_displace
from asr_common.loop_channel import LoopChannel
from asr_common.metric_pages import page_of
from asr_service import __version__
from asr_service.access import tls
from asr_service.access.api_keys import KeyRing
from asr_service.api.listen import listen, make_health, make_server
from asr_service.app.board import Board
from asr_service.app.control import FromFrontEnd, ToFrontEnd
from asr_service.app.drain import drain
from asr_service.app.engine_connections import EngineConnections
from asr_service.app.permits_by_message import PermitsByMessage
from asr_service.config import Settings
from asr_service.core.errors import SettingsError, Unavailable
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Tracing
from asr_service.sessions.admission import Admission
from asr_service.sessions.packet_load import PacketLoad

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""After which a client refused by a draining or failed process should find another."""
LAST_CALLS_S = 0.2
"""How long calls are still refused before the server stops taking any: those that gRPC has received and not yet handed
to us would be cancelled without a reason."""
LAST_WORDS_S = 1.0
"""Time for the last statuses to reach their clients before connections close."""
_BEAT_S = 0.1
FAILED, REFUSED = 1, 2
"""Exit codes: what watches the front end has failed; the settings cannot be served."""


def run_front_end(
    number: int, control: ControlChannel, *, settings: Settings, port: int, shares_port: bool, board: Board
) -> int:
    """Serves in the process that was forked for it until the supervisor says to end; returns the exit code.

    Args:
        number: of the front end.
        control: to the supervisor.
        settings: of the service.
        port: to listen on; 0 for a free one.
        shares_port: whether others listen on it too.
        board: the front end keeps its record there.
    """
    stacks.show_on_signal()
    # Where no core is free, packets wait and steps do not.
    do_not_displace()

    async def serve() -> int:
        return await _FrontEnd(number, control, settings, board).run(port, shares_port=shares_port)

    try:
        return uvloop.run(serve())
    except SettingsError as error:
        control.send((FromFrontEnd.FAILED, pickle.dumps(error)))
        return REFUSED


class _FrontEnd:
    """The parts of a front end, on its event loop."""

    def __init__(self, number: int, control: ControlChannel, settings: Settings, board: Board) -> None:
        self._number = number
        self._settings = settings
        self._record = board.front_ends[number]
        self._engines = len(board.engines)
        self._metrics = metrics = Metrics()
        self._packets = PacketLoad()
        # What may not be had with these settings is made before messages can come.
        keys = KeyRing(settings.api_keys_file) if settings.api_keys_file else None
        files = tls.files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._identity = tls.FollowedIdentity(files, self._certificate_used) if files else None
        self._tracing = _tracing(settings)
        self._control = LoopChannel(control, self._take)
        self._connections = EngineConnections(settings, board)
        self._permits = PermitsByMessage(self._control.send)
        self._admission = Admission(
            self._connections.engines,
            self._permits,
            board,
            metrics,
            inbox_s=settings.inbox_s,
            max_unread=settings.max_unread,
            max_load=settings.max_load,
            idle_timeout_s=settings.idle_timeout_s,
            max_stream_s=settings.max_stream_s,
            tracing=self._tracing,
            keys=keys,
            packets=self._packets if settings.max_streams is None else None,
            on_count=self._count,
        )
        metrics.watch_active(lambda: self._admission.active)
        self._health = make_health()
        self._told_to_serve = False
        # Whether a background task has failed, without which the front end is not what it promises to be.
        self._unwatched = False
        self._over = asyncio.Event()

    async def run(self, port: int, *, shares_port: bool) -> int:
        """Listens, serves, drains; returns the exit code."""
        settings = self._settings
        server = make_server(
            settings, self._admission, self._health, engines=self._engines, shares_port=shares_port
        )
        port = listen(server, settings.host, port, self._identity)
        await server.start()
        self._record.beat = time.monotonic()
        self._log_listening(port)
        self._control.send((FromFrontEnd.LISTENING, port))
        watcher = self._watch(self._keep_up())
        try:
            await self._over.wait()
            stopped = Unavailable("the service has stopped", retry_after_s=RETRY_S)
            await drain(self._admission, settings.drain_s, stopped)
            self._admission.fail_all(stopped)
            await asyncio.sleep(LAST_CALLS_S)
            await server.stop(LAST_WORDS_S)
        finally:
            watcher.cancel()
            self._control.close()
            if self._tracing is not None:
                self._tracing.close()
        return FAILED if self._unwatched else 0

    def _log_listening(self, port: int) -> None:
        keys, identity = self._admission.keys, self._identity
        kind = "none" if identity is None else "mutual" if identity.identity.client_ca else "server"
        log.info(
            "front end %d listens on %s:%d; streams are refused until the service is ready",
            self._number,
            self._settings.host,
            port,
            extra={"fields": {"tls": kind, "keys": "none" if keys is None else len(keys)}},
        )

    # ------------------------------------------------------------------------------------- from the supervisor

    def _take(self, received: Received) -> None:
        match received.message:
            case (ToFrontEnd.ENGINE, number, model):
                if received.descriptors:
                    pool, link = received.descriptors
                    self._connections.connect(number, model, pool, socket.socket(fileno=link))
                else:
                    self._connections.know(number, model)
            case (ToFrontEnd.SERVE,):
                self._told_to_serve = True
                if not self._over.is_set():
                    self._admission.refusal = None
                    self._tell_health()
            case (ToFrontEnd.DRAIN,):
                self._stop_admitting(Unavailable("the service is draining", retry_after_s=RETRY_S))
            case (ToFrontEnd.PERMIT, request, is_granted):
                self._permits.answer(request, is_granted)
            case (ToFrontEnd.SCRAPE, number):
                self._control.send((FromFrontEnd.PAGE, number, page_of(self._metrics.registry)))

    # ------------------------------------------------------------------------------------------------ watching

    async def _keep_up(self) -> None:
        """Tells that the event loop turns, how late it wakes up, and whether streams can be served; for ever."""
        while True:
            # The loop's own clock counts whole milliseconds.
            due = time.monotonic() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            now = time.monotonic()
            late_s = max(0.0, now - due)
            self._packets.add(now, time.thread_time(), late_s, self._admission.active)
            self._record.beat, self._record.busy = now, self._packets.busy
            if self._settings.max_streams is None:
                self._record.carries = self._packets.carries
            self._metrics.loop_lag(late_s)
            self._tell_health()

    def _tell_health(self) -> None:
        """Tells whether streams would be admitted: an engine that is away may have been the only one."""
        can_serve = self._told_to_serve and not self._over.is_set()
        serving = can_serve and self._connections.engines.is_any_running
        if serving is not self._health.serving:
            self._health.set(serving=serving)

    def _watch(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._on_watcher_end)
        return task

    def _on_watcher_end(self, watcher: asyncio.Task[None]) -> None:
        """Lets streams finish and the process end when a background task has failed."""
        if not watcher.cancelled() and (bug := watcher.exception()) is not None:
            log.critical("a background task has failed: draining", exc_info=bug)
            self._unwatched = True
            self._stop_admitting(Unavailable("the service is restarting", retry_after_s=RETRY_S))

    def _stop_admitting(self, refusal: Unavailable) -> None:
        self._admission.refusal = refusal
        self._over.set()
        self._tell_health()

    def _count(self, streams: int) -> None:
        self._record.streams = streams

    def _certificate_used(self, identity: tls.Identity) -> None:
        """Tells when the certificate that was taken into use expires; from any thread."""
        if identity.not_after is None:
            log.warning("no client will take the certificate: it has expired or is not valid yet")
        else:
            self._metrics.certificate_expires(identity.not_after.timestamp())


def _tracing(settings: Settings) -> Tracing | None:
    if not settings.otlp_endpoint:
        return None
    return Tracing(settings.otlp_endpoint, version=__version__)
