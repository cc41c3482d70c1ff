"""Wiring and life of the service: engine, sessions, gRPC server, health, reflection, signals, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from dataclasses import asdict
from functools import partial

import grpc.aio
import uvloop
from asr.v1 import asr_pb2, asr_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from asr_common.cpu_priority import do_not_displace
from asr_common.ready_file import write_ready_file
from asr_service import __version__
from asr_service.access import tls
from asr_service.access.api_keys import KeyRing
from asr_service.api import riva
from asr_service.api.health import Health
from asr_service.api.key_check import KeyCheck
from asr_service.api.speech import SpeechServicer
from asr_service.config import Settings
from asr_service.core.errors import SettingsError, Unavailable
from asr_service.core.values import StreamConfig
from asr_service.engine.client import EngineProcess
from asr_service.engine.engine import EngineState
from asr_service.model import make_model
from asr_service.model.slot_budget import MOST_SLOTS
from asr_service.observability import metrics_http as scrape
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Tracing
from asr_service.sessions.admission import Door
from asr_service.sessions.multichannel import sample_bytes
from asr_service.sessions.session import Sessions

log = logging.getLogger(__name__)

SERVICE = asr_pb2.DESCRIPTOR.services_by_name["SpeechService"].full_name
KEEPALIVE_MS = 30_000
"""A connection that is silent for so long is pinged ..."""
KEEPALIVE_TIMEOUT_MS = 10_000
"""... and taken for dead when the answer does not come in this time: a vanished peer is found within 40 s."""
MAX_CALLS = 1000  # of one connection; more wait on the client's side
STREAM_WINDOW_BYTES = 65_536
"""What a client may send ahead of our reading; two seconds of audio, 20 times real time at 100 ms round trip."""
CLIENT_PING_MS = 1_000
"""Pings of a client, with or without open streams, may come this close; gRPC closes the connection at the third that
comes sooner. Well below the 10 s that clients take as their interval, since those come some ms early or late."""
RETRY_S = 5.0
"""After which a client refused by a draining or failed process should find another."""
LAST_CALLS_S = 0.2
"""How long calls are still refused before the server stops taking any: those that gRPC has received and not yet handed
to us would be cancelled without a reason."""
LAST_WORDS_S = 1.0
"""Time for the last statuses to reach their clients before connections close."""
ENGINE_STOP_S = 2.0
LAG_PERIOD_S = 0.1
FAILED, REFUSED = 1, 2
"""Exit codes: the engine or what watches it failed; the settings cannot be served."""


def serve(settings: Settings) -> int:
    """Serves until told to stop; returns the process's exit code. Forks, so that no other thread should run yet."""
    server = None
    try:
        server = _Server(settings)
        do_not_displace()  # after the fork: the engine's process does
        return uvloop.run(server.run())
    except SettingsError as error:
        for line in error.message.splitlines():
            log.error("%s", line)
        return REFUSED
    finally:
        if server is not None:
            server.close()


class _Server:
    """All of the service but its engine's process. Everything runs on the event loop unless it says otherwise."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine = EngineProcess(
            partial(make_model, settings.model_settings),
            max_batch=settings.max_batch,
            tick_s=settings.step_ms / 1000,
            deliver=lambda events: self.sessions.deliver(events),
            metrics=self.metrics,
            probe=settings.max_streams is None,
            finalize_silence_ms=settings.finalize_silence_ms,
        )
        self.sessions = Sessions(
            self.engine.submit,
            max_streams=settings.max_streams or MOST_SLOTS,  # what the probe finds, before anybody is let in
            inbox_bytes=self._inbox_bytes,
            max_unread=settings.max_unread,
            load=lambda: self.engine.load,
            max_load=settings.max_load,
        )
        self.metrics.watch(
            active=lambda: self.sessions.active,
            limit=lambda: self.sessions.max_streams,
            slots=lambda: asdict(self.engine.books),
            batch_limit=lambda: self.engine.books.max_batch,
            load=lambda: self.engine.load,
            readings=lambda: self.engine.readings,
            engine_pid=self.engine.pid,
        )
        self.tracing = (
            Tracing(settings.otlp_endpoint, version=__version__, model=settings.model)
            if settings.otlp_endpoint
            else None
        )
        self.door = Door(
            self.sessions,
            self.metrics,
            idle_timeout_s=settings.idle_timeout_s,
            max_stream_s=settings.max_stream_s,
            tracing=self.tracing,
        )
        self.health = Health([SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name])
        self.failure: BaseException | None = None
        self.unwatched = False  # a watcher has failed
        self.over = asyncio.Event()

    async def run(self) -> int:
        """Listens, loads the model, serves, drains; returns the exit code."""
        settings = self.settings
        self.loop = asyncio.get_running_loop()
        certificate = tls.files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        identity = tls.Watched(certificate, self._certificate_is) if certificate else None
        keys = KeyRing(settings.api_keys_file) if settings.api_keys_file else None
        server = self._server(keys)
        port = _listen(server, settings.host, settings.grpc_port, identity)
        if settings.metrics_port:
            scrape.listen(
                settings.metrics_host,
                settings.metrics_port,
                render=self.metrics.render,
                serving=lambda: self.health.serving,
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._told_to_stop, number)
        await server.start()
        log.info(
            "loading %s; streams are refused until it is ready",
            settings.model,
            extra={"fields": {"tls": _tls_kind(identity), "keys": "none" if keys is None else len(keys)}},
        )
        self.engine.on_state(lambda state: self._engine_is(state, port))
        self.engine.start()
        watchers = [self.loop.create_task(work) for work in (self._watch_engine(), self._measure_lag())]
        for watcher in watchers:
            watcher.add_done_callback(self._watcher_ended)
        try:
            await self.over.wait()
            if self.failure is None:
                await self._drain()
            self.sessions.fail_all(Unavailable("the service has stopped", retry_after_s=RETRY_S))
            await asyncio.sleep(LAST_CALLS_S)
            await server.stop(LAST_WORDS_S)
        finally:
            for watcher in watchers:
                watcher.cancel()
        if isinstance(self.failure, SettingsError):
            raise self.failure
        return FAILED if self.failure is not None or self.unwatched else 0

    def close(self) -> None:
        """Ends the engine's process and what else is left, once the event loop is over."""
        self.engine.stop(ENGINE_STOP_S if self.failure is None else 0)
        if self.tracing is not None:
            self.tracing.close()

    def _server(self, keys: KeyRing | None) -> grpc.aio.Server:
        limit = self.settings.max_message_bytes
        server = grpc.aio.server(
            interceptors=[KeyCheck(keys, self.metrics)] if keys is not None else [],
            options=[
                ("grpc.max_allowed_incoming_connections", self.settings.max_connections),
                ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
                ("grpc.max_receive_message_length", limit),
                # No final is lost, and one of hours of speech is long.
                ("grpc.max_send_message_length", -1),
                # Calls hold no permit before their config; this bounds them where one client opens too many.
                ("grpc.max_concurrent_streams", max(MAX_CALLS, 2 * (self.settings.max_streams or 0))),
                # Back-pressure that is felt: else HTTP/2's window grows to megabytes, minutes of audio in our memory.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                (
                    "grpc.http2.ping_timeout_ms",
                    KEEPALIVE_TIMEOUT_MS,
                ),  # a minute unless set, which would go first
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
            ],
        )
        speech = SpeechServicer(self.door, max_message_bytes=limit)
        asr_pb2_grpc.add_SpeechServiceServicer_to_server(speech, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if name := riva.register(server, self.door):
            self.health.add(name)
        named = filter(None, self.health.services)  # "" is the server as a whole
        reflection.enable_server_reflection([*named, reflection.SERVICE_NAME], server)
        return server

    def _certificate_is(self, identity: tls.Identity) -> None:
        """A certificate was taken into use; from any thread."""
        if identity.not_after is None:
            log.warning("no client will take the certificate: it has expired or is not valid yet")
        else:
            self.metrics.certificate_expires(identity.not_after.timestamp())

    def _inbox_bytes(self, config: StreamConfig) -> int:
        """Bytes of a stream's audio that may wait: two chunks at least, since fewer than one would wait for ever."""
        chunk_s = self.engine.info.chunk_ms / 1000 if self.engine.info else 0.0
        seconds = max(self.settings.inbox_s, 2 * chunk_s)
        return int(seconds * config.sample_rate) * sample_bytes(config.encoding)

    def _engine_is(self, state: EngineState, port: int) -> None:
        """The engine came into another state."""
        if state is EngineState.RUNNING and not self.over.is_set():
            self._measured()
            self.door.info = self.engine.info
            self.door.refusal = None
            self.health.set(serving=True)
            if self.settings.ready_file is not None:
                where = {
                    "host": self.settings.host,
                    "grpc_port": port,
                    "metrics_port": self.settings.metrics_port,
                }
                write_ready_file(self.settings.ready_file, where)
            log.info("serving grpc on %s:%d", self.settings.host, port)
        elif state is EngineState.FAILED:
            self._engine_failed(self.engine.failure or RuntimeError("the engine stopped"))

    def _measured(self) -> None:
        """The probe's result, if there was one, is what is admitted from now on."""
        found = self.engine.measured
        if found is None:
            return
        self.sessions.max_streams = self.door.measured_streams = found.streams
        steps = ", ".join(f"{rows}: {1000 * took:.1f} ms" for rows, took in found.timings)
        log.info("measured: this machine sustains %d live streams (steps of %s)", found.streams, steps)
        if not found.enough:
            log.warning(
                "one stream alone takes longer than its audio: words will come late; use a faster device, a longer "
                "look-ahead (ASR_ATT_CTX) or ASR_DECODER=ctc"
            )

    def _told_to_stop(self, number: int) -> None:
        """SIGTERM or SIGINT: the first drains, the second ends the process."""
        name = signal.Signals(number).name
        if self.over.is_set():
            log.warning("%s again: ending at once", name)
            os._exit(128 + number)
        log.info(
            "%s: draining %d streams for at most %g s", name, self.sessions.active, self.settings.drain_s
        )
        self._close(Unavailable("the service is draining", retry_after_s=RETRY_S))

    def _engine_failed(self, failure: BaseException) -> None:
        """The engine will not step again: every stream is told at once, whether serving or draining."""
        self.failure = self.failure or failure
        refusal = Unavailable("the engine has stopped; the service is restarting", retry_after_s=RETRY_S)
        self._close(refusal)
        self.sessions.fail_all(refusal)

    def _watcher_ended(self, watcher: asyncio.Task[None]) -> None:
        """Without its watchers the service is not what it promises to be: streams finish, and the process ends."""
        if not watcher.cancelled() and (bug := watcher.exception()) is not None:
            log.critical("a background task has failed: draining", exc_info=bug)
            self.unwatched = True
            self._close(Unavailable("the service is restarting", retry_after_s=RETRY_S))

    def _close(self, refusal: Unavailable) -> None:
        """No more new streams."""
        self.health.set(serving=False)
        self.door.refusal = refusal
        self.over.set()

    async def _drain(self) -> None:
        """Waits until no stream is left or the time is over."""
        try:
            async with asyncio.timeout(self.settings.drain_s):
                await self.door.drained()
        except TimeoutError:
            log.warning("%d streams did not end in time and are ended now", self.sessions.active)

    async def _watch_engine(self) -> None:
        """Finds a model step that never ends."""
        limit = self.settings.watchdog_s
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            since = self.engine.busy_since
            if since is not None and time.monotonic() - since > limit:
                log.critical(
                    "a step has lasted longer than ASR_WATCHDOG_S=%g s; the engine's threads:", limit
                )
                self.engine.show_stacks()
                self._engine_failed(TimeoutError("a model step hangs"))
                return

    async def _measure_lag(self) -> None:
        """Measures how late the event loop wakes up."""
        while True:
            due = time.monotonic() + LAG_PERIOD_S  # the loop's own clock counts whole milliseconds
            await asyncio.sleep(LAG_PERIOD_S)
            self.metrics.loop_lag(max(0.0, time.monotonic() - due))


def _tls_kind(identity: tls.Watched | None) -> str:
    if identity is None:
        return "none"
    return "mutual" if identity.identity.client_ca else "server"


def _credentials(identity: tls.Watched) -> grpc.ServerCredentials:
    """Credentials that follow their files: gRPC asks at each handshake."""

    def pack(now: tls.Identity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], now.client_ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        newer = identity.newer()
        return pack(newer) if newer else None

    return grpc.dynamic_ssl_server_credentials(
        pack(identity.identity),
        fetch,  # type: ignore[arg-type]  # None means unchanged, which its types forgot
        require_client_authentication=identity.identity.client_ca is not None,
    )


def _listen(server: grpc.aio.Server, host: str, port: int, identity: tls.Watched | None) -> int:
    """Listens, with TLS if there is an identity; returns the port, which is a free one for 0.

    Raises:
        SettingsError: somebody else has the port, or the host is not ours.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if identity is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, _credentials(identity))
    except RuntimeError:
        bound = 0
    if not bound:
        raise SettingsError(
            f"ASR_GRPC_PORT={port}: cannot listen on {address}: the port is taken or the address is not this "
            "machine's; choose another, or 0 for a free one",
            field="grpc_port",
        )
    return bound
