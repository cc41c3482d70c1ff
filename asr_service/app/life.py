"""The life of the service: it listens, waits for its model, serves, drains and stops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

import uvloop

from asr_common.cpu_priority import do_not_displace
from asr_common.ready_file import write_ready_file
from asr_service.access import tls
from asr_service.api.listen import listen, make_server
from asr_service.app.drain import drain
from asr_service.app.watchdog import measure_lag, watch_steps
from asr_service.app.wiring import Parts, wire
from asr_service.config import Settings
from asr_service.core.errors import ModelUnavailable, SettingsError, Unavailable
from asr_service.engine.capacity import Capacity
from asr_service.engine.client import EngineClient
from asr_service.engine.contract import EngineState
from asr_service.observability import metrics_http
from asr_service.observability.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""After which a client refused by a draining or failed process should find another."""
LAST_CALLS_S = 0.2
"""How long calls are still refused before the server stops taking any: those that gRPC has received and not yet handed
to us would be cancelled without a reason."""
LAST_WORDS_S = 1.0
"""Time for the last statuses to reach their clients before connections close."""
ENGINE_STOP_S = 2.0
NEWS = 2
"""The log tells how many streams the machine sustains once they are so many times what it told last, or the reverse."""
FAILED, REFUSED = 1, 2
"""Exit codes: the engine or what watches it failed, or the model cannot be had now; the settings cannot be served."""


def serve(settings: Settings, engine: EngineClient) -> int:
    """Serves until told to stop; returns the process's exit code.

    Args:
        settings: of the service.
        engine: that was started with them.
    """
    service = None
    try:
        service = _Service(wire(settings, engine, _certificate_used))
        # After the fork: the engine's threads do displace others.
        do_not_displace()
        return uvloop.run(service.run())
    except SettingsError as error:
        for line in error.message.splitlines():
            log.error("%s", line)
        return REFUSED
    except ModelUnavailable as error:
        log.error("%s", error.message)
        return FAILED
    finally:
        if service is not None:
            service.close()


class _Service:
    """Runs the parts of the service on the event loop, from listening to its end."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._failure: BaseException | None = None
        # Whether a background task has failed, without which the service is not what it promises to be.
        self._unwatched = False
        self._over = asyncio.Event()
        self._port = 0
        # When the engine had made its model, monotonic.
        self._made_at = parts.engine.forked_at
        # The number of streams that the log told last.
        self._capacity_told = 0

    async def run(self) -> int:
        """Listens, makes the model, serves, drains; returns the exit code."""
        parts, settings = self._parts, self._parts.settings
        loop = asyncio.get_running_loop()
        server = make_server(settings, parts.admission, parts.health)
        self._port = listen(server, settings.host, settings.grpc_port, parts.identity)
        if settings.metrics_port:
            metrics_http.listen(
                settings.metrics_host,
                settings.metrics_port,
                render=parts.metrics.render,
                serving=lambda: parts.health.serving,
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        await server.start()
        keys = parts.admission.keys
        log.info(
            "making the model %s; streams are refused until it is ready",
            settings.model,
            extra={
                "fields": {
                    "tls": _tls_kind(parts.identity),
                    "keys": "none" if keys is None else len(keys),
                }
            },
        )
        parts.engine.on_state(self._on_engine_state)
        parts.engine.on_capacity(self._take_capacity)
        parts.engine.start()
        watchers = [loop.create_task(work) for work in (self._watch_steps(), measure_lag(parts.metrics))]
        for watcher in watchers:
            watcher.add_done_callback(self._on_watcher_end)
        try:
            await self._over.wait()
            stopped = Unavailable("the service has stopped", retry_after_s=RETRY_S)
            if self._failure is None:
                await drain(parts.admission, parts.registry, settings.drain_s, stopped)
            parts.registry.fail_all(stopped)
            await asyncio.sleep(LAST_CALLS_S)
            await server.stop(LAST_WORDS_S)
        finally:
            for watcher in watchers:
                watcher.cancel()
        if isinstance(self._failure, SettingsError | ModelUnavailable):
            raise self._failure
        return FAILED if self._failure is not None or self._unwatched else 0

    def close(self) -> None:
        """Ends the engine's process and what else is left, once the event loop is over."""
        self._parts.engine.stop(ENGINE_STOP_S if self._failure is None else 0)
        if self._parts.admission.tracing is not None:
            self._parts.admission.tracing.close()

    def _on_engine_state(self, state: EngineState) -> None:
        if state is EngineState.WARMING:
            self._made_at = time.monotonic()
        elif state is EngineState.RUNNING and not self._over.is_set():
            self._begin_to_serve()
        elif state is EngineState.FAILED:
            self._fail(self._parts.engine.failure or RuntimeError("the engine stopped"))

    def _begin_to_serve(self) -> None:
        """Admits streams from now on, and tells so: the engine runs."""
        parts, settings = self._parts, self._parts.settings
        if parts.engine.capacity is not None:
            self._take_capacity(parts.engine.capacity)
        parts.admission.model_info = parts.engine.info
        parts.admission.refusal = None
        parts.health.set(serving=True)
        if settings.ready_file is not None:
            where = {
                "host": settings.host,
                "grpc_port": self._port,
                "metrics_port": settings.metrics_port,
            }
            write_ready_file(settings.ready_file, where)
        log.info(
            "ready: the model took %.1f s to make and %.1f s to warm up",
            self._made_at - parts.engine.forked_at,
            time.monotonic() - self._made_at,
        )
        log.info("serving grpc on %s:%d", settings.host, self._port)

    def _take_capacity(self, capacity: Capacity) -> None:
        """Admits as many streams from now on as the machine was measured to sustain; logs it if that is news."""
        self._parts.registry.max_streams = self._parts.admission.measured_streams = capacity.streams
        told, now = self._capacity_told, capacity.streams
        if told and max(told, now) < NEWS * min(told, now):
            return
        self._capacity_told = now
        steps = ", ".join(f"{rows}: {1000 * took:.1f} ms" for rows, took in capacity.timings)
        before = f", {told} before" if told else ""
        log.info("measured: this machine sustains %d live streams%s (steps of %s)", now, before, steps)
        if not capacity.enough:
            log.warning(
                "one stream alone takes longer than its audio: words will come late; give the service more of the "
                "machine, a faster device, a longer look-ahead (ASR_ATT_CTX) or ASR_DECODER=ctc"
            )

    def _on_signal(self, number: int) -> None:
        """SIGTERM or SIGINT: the first drains, the second ends the process."""
        name = signal.Signals(number).name
        if self._over.is_set():
            log.warning("%s again: ending at once", name)
            os._exit(128 + number)
        active, drain_s = self._parts.registry.active, self._parts.settings.drain_s
        log.info("%s: draining %d streams for at most %g s", name, active, drain_s)
        self._stop_admitting(Unavailable("the service is draining", retry_after_s=RETRY_S))

    def _fail(self, failure: BaseException) -> None:
        """Ends every stream at once, whether serving or draining: the engine will not step again."""
        self._failure = self._failure or failure
        refusal = Unavailable("the engine has stopped; the service is restarting", retry_after_s=RETRY_S)
        self._stop_admitting(refusal)
        self._parts.registry.fail_all(refusal)

    async def _watch_steps(self) -> None:
        self._fail(await watch_steps(self._parts.engine, self._parts.settings.watchdog_s))

    def _on_watcher_end(self, watcher: asyncio.Task[None]) -> None:
        """Lets streams finish and the process end when a background task has failed."""
        if not watcher.cancelled() and (bug := watcher.exception()) is not None:
            log.critical("a background task has failed: draining", exc_info=bug)
            self._unwatched = True
            self._stop_admitting(Unavailable("the service is restarting", retry_after_s=RETRY_S))

    def _stop_admitting(self, refusal: Unavailable) -> None:
        self._parts.health.set(serving=False)
        self._parts.admission.refusal = refusal
        self._over.set()


def _certificate_used(metrics: Metrics, identity: tls.Identity) -> None:
    """Tells when the certificate that was taken into use expires; from any thread."""
    if identity.not_after is None:
        log.warning("no client will take the certificate: it has expired or is not valid yet")
    else:
        metrics.certificate_expires(identity.not_after.timestamp())


def _tls_kind(identity: tls.FollowedIdentity | None) -> str:
    if identity is None:
        return "none"
    return "mutual" if identity.identity.client_ca else "server"
