"""The gRPC server: its options, its services, and the port that it listens on."""

from __future__ import annotations

import grpc.aio
from asr.v1 import asr_pb2, asr_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from asr_service.access import tls
from asr_service.api import riva
from asr_service.api.health import Health
from asr_service.api.key_check import KeyCheck
from asr_service.api.speech import SpeechServicer
from asr_service.config import Settings
from asr_service.core.addresses import address, grpc_port_taken
from asr_service.sessions.admission import Admission

KEEPALIVE_MS = 30_000
"""A connection that is silent for so long is pinged ..."""
KEEPALIVE_TIMEOUT_MS = 10_000
"""... and taken for dead when the answer does not come in this time: a vanished peer is found within 40 s."""
MAX_CALLS = 1000
"""Calls of one connection at the same time; more wait on the client's side."""
STREAM_WINDOW_BYTES = 65_536
"""What a client may send ahead of our reading; two seconds of audio, 20 times real time at 100 ms round trip."""
CLIENT_PING_MS = 1_000
"""Pings of a client, with or without open streams, may come this close; gRPC closes the connection at the third that
comes sooner. Well below the 10 s that clients take as their interval, since those come some ms early or late."""

_SPEECH = asr_pb2.DESCRIPTOR.services_by_name["SpeechService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def make_health() -> Health:
    """Makes the health of the services that are always there."""
    return Health([_SPEECH, _HEALTH])


def make_server(
    settings: Settings, admission: Admission, health: Health, *, engines: int, shares_port: bool
) -> grpc.aio.Server:
    """Makes the server with all its services; it listens nowhere yet.

    Args:
        settings: of the service.
        admission: admits the calls; its keys are those that callers have to show.
        health: of the services; the optional ones that are there are added.
        engines: how many there are, whose streams may all come over one connection.
        shares_port: whether other processes listen on its port too, which somebody keeps for them.
    """
    keys, limit = admission.keys, settings.max_message_bytes
    server = grpc.aio.server(
        interceptors=[KeyCheck(keys, admission.metrics)] if keys is not None else [],
        options=[
            ("grpc.max_allowed_incoming_connections", settings.max_connections),
            # Where it is not meant, a second server on the same port is an error, not a lottery.
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.max_receive_message_length", limit),
            # No final is lost, and one of hours of speech is long.
            ("grpc.max_send_message_length", -1),
            # Calls hold no permit before their config; this bounds them where one client opens too many.
            ("grpc.max_concurrent_streams", max(MAX_CALLS, 2 * engines * (settings.max_streams or 0))),
            # Back-pressure that is felt: else HTTP/2's window grows to megabytes, minutes of audio in our memory.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # A minute unless set, which would go first.
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
        ],
    )
    speech = SpeechServicer(admission, max_message_bytes=limit)
    asr_pb2_grpc.add_SpeechServiceServicer_to_server(speech, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if name := riva.register(server, admission):
        health.add(name)
    # "" is the server as a whole.
    named = filter(None, health.services)
    reflection.enable_server_reflection([*named, reflection.SERVICE_NAME], server)
    return server


def listen(server: grpc.aio.Server, host: str, port: int, identity: tls.FollowedIdentity | None) -> int:
    """Listens, with TLS if there is an identity; returns the port, which is a free one for 0.

    Raises:
        SettingsError: somebody else has the port, or the host is not ours.
    """
    where = address(host, port)
    try:
        if identity is None:
            bound = server.add_insecure_port(where)
        else:
            bound = server.add_secure_port(where, _credentials(identity))
    except RuntimeError:
        bound = 0
    if not bound:
        raise grpc_port_taken(host, port)
    return bound


def _credentials(identity: tls.FollowedIdentity) -> grpc.ServerCredentials:
    """Makes credentials that follow their files: gRPC asks for them at each handshake."""

    def pack(now: tls.Identity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], now.client_ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        newer = identity.newer()
        return pack(newer) if newer else None

    # None of `fetch` means unchanged, which its types forgot.
    return grpc.dynamic_ssl_server_credentials(
        pack(identity.identity),
        fetch,  # type: ignore[arg-type]
        require_client_authentication=identity.identity.client_ca is not None,
    )
