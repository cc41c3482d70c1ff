"""Checks what lies between the service and its clients: ports, certificates, API keys."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from asr_service.access import tls
from asr_service.access.api_keys import KeyRing
from asr_service.config import Settings
from asr_service.core.errors import SettingsError
from asr_service.doctor.findings import Finding, Verdict

SOON = timedelta(days=14)
"""A certificate that expires sooner is reported."""


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Checks that the ports are free."""
    for variable, host, port in (
        ("ASR_GRPC_PORT", settings.host, settings.grpc_port),
        ("ASR_METRICS_PORT", settings.metrics_host, settings.metrics_port),
    ):
        if not port:
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                advice = f"stop what has it (ss -ltnp), or set {variable}"
                yield Finding("port", Verdict.WRONG, f"{host}:{port}: {error.strerror}", advice)
            else:
                yield Finding("port", Verdict.OK, f"{host}:{port} is free")


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """Checks the certificate, its key and how long it is valid."""
    try:
        files = tls.files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        if files is None:
            outside = settings.host not in ("127.0.0.1", "::1", "localhost")
            advice = "set ASR_TLS_CERT and ASR_TLS_KEY unless a proxy before it speaks TLS" if outside else ""
            yield Finding("TLS", Verdict.NOTE if outside else Verdict.OK, "none", advice)
            return
        identity = files.read()
    except SettingsError as error:
        yield Finding("TLS", Verdict.WRONG, error.message, "see docs/security.md")
        return
    kind = "clients need a certificate" if identity.client_ca else "clients need none"
    until = identity.not_after
    if until is None:
        yield Finding("TLS", Verdict.WRONG, "the certificate has expired or is not valid yet", "renew it")
    elif until - datetime.now(UTC) < SOON:
        yield Finding("TLS", Verdict.NOTE, f"valid until {until:%Y-%m-%d %H:%M} UTC, {kind}", "renew it soon")
    else:
        yield Finding("TLS", Verdict.OK, f"valid until {until:%Y-%m-%d}, {kind}")
    if settings.tls_key is not None and settings.tls_key.stat().st_mode & 0o077:
        yield Finding("TLS", Verdict.NOTE, f"{settings.tls_key} can be read by others", "chmod 600 it")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """Checks the file of API keys."""
    if settings.api_keys_file is None:
        yield Finding("API keys", Verdict.OK, "none: whoever reaches the port may call")
        return
    try:
        count = len(KeyRing(settings.api_keys_file))
    except SettingsError as error:
        yield Finding("API keys", Verdict.WRONG, error.message, "see docs/security.md")
        return
    if count:
        yield Finding("API keys", Verdict.OK, f"{count} in {settings.api_keys_file}")
    else:
        yield Finding(
            "API keys", Verdict.NOTE, f"none in {settings.api_keys_file}", "nobody can call: add one"
        )
