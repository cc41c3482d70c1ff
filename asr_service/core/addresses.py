"""Writes addresses of this machine, and the error of one that cannot be listened on."""

from __future__ import annotations

from asr_service.core.errors import SettingsError


def address(host: str, port: int) -> str:
    """Returns `host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def grpc_port_taken(host: str, port: int) -> SettingsError:
    """Makes the error that the gRPC port cannot be listened on."""
    return SettingsError(
        f"ASR_GRPC_PORT={port}: cannot listen on {address(host, port)}: the port is taken or the address is not this "
        "machine's; choose another, or 0 for a free one",
        field="grpc_port",
    )


def metrics_port_taken(host: str, port: int, error: OSError) -> SettingsError:
    """Makes the error that the metrics port cannot be listened on."""
    return SettingsError(
        f"ASR_METRICS_PORT={port}: cannot listen on {address(host, port)} ({error.strerror}); choose a free port, or 0 "
        "for no metrics",
        field="metrics_port",
    )
