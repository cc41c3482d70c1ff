"""Makes the parts of the service from its settings and ties them together, around the engine that runs by then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from asr_service import __version__
from asr_service.access import tls
from asr_service.access.api_keys import KeyRing
from asr_service.api.health import Health
from asr_service.api.listen import make_health
from asr_service.config import Settings
from asr_service.core.errors import SettingsError
from asr_service.core.values import StreamConfig
from asr_service.engine.client import EngineClient
from asr_service.model.slot_budget import MOST_SLOTS
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Tracing
from asr_service.sessions.admission import Admission
from asr_service.sessions.multichannel import sample_bytes
from asr_service.sessions.registry import SessionRegistry


@dataclass(frozen=True, slots=True)
class Parts:
    """The service's parts. All but the engine's process live on the event loop."""

    settings: Settings
    metrics: Metrics
    engine: EngineClient
    registry: SessionRegistry
    admission: Admission
    health: Health
    identity: tls.FollowedIdentity | None


def wire(
    settings: Settings, engine: EngineClient, certificate_used: Callable[[Metrics, tls.Identity], None]
) -> Parts:
    """Makes the parts around an engine.

    Args:
        settings: of the service.
        engine: that was started with them; stopped if a part cannot be made.
        certificate_used: called with each certificate that is taken into use, from any thread.

    Raises:
        SettingsError: a certificate, a key file or a trace exporter cannot be used.
    """
    metrics = Metrics()
    registry = SessionRegistry(
        engine.submit,
        # What is measured takes the place of the latter before the first stream is admitted.
        max_streams=settings.max_streams or MOST_SLOTS,
        inbox_bytes=partial(_inbox_bytes, settings, engine),
        max_unread=settings.max_unread,
        load=lambda: engine.load,
        max_load=settings.max_load,
    )
    engine.connect(registry.deliver, metrics)
    metrics.watch(
        active=lambda: registry.active,
        limit=lambda: registry.max_streams,
        slots=lambda: asdict(engine.slot_counts),
        batch_limit=lambda: engine.slot_counts.max_batch,
        load=lambda: engine.load,
        readings=lambda: engine.readings,
        engine_pid=engine.pid,
    )
    try:
        admission = Admission(
            registry,
            metrics,
            idle_timeout_s=settings.idle_timeout_s,
            max_stream_s=settings.max_stream_s,
            tracing=_tracing(settings),
            keys=KeyRing(settings.api_keys_file) if settings.api_keys_file else None,
        )
        files = tls.files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        identity = tls.FollowedIdentity(files, partial(certificate_used, metrics)) if files else None
    except SettingsError:
        engine.stop(0)
        raise
    return Parts(settings, metrics, engine, registry, admission, make_health(), identity)


def _tracing(settings: Settings) -> Tracing | None:
    if not settings.otlp_endpoint:
        return None
    return Tracing(settings.otlp_endpoint, version=__version__, model=settings.model)


def _inbox_bytes(settings: Settings, engine: EngineClient, config: StreamConfig) -> int:
    """Bytes of a stream's audio that may wait: two chunks at least, since fewer than one would wait for ever."""
    chunk_s = engine.info.chunk_ms / 1000 if engine.info else 0.0
    seconds = max(settings.inbox_s, 2 * chunk_s)
    return int(seconds * config.sample_rate) * sample_bytes(config.encoding)
