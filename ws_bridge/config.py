"""Settings of the bridge: read once, validated once, frozen. The only reader of the environment.

Each setting is a field; its description states what is traded, and `python -m ws_bridge --help` is made from them.
Names that say `bridge` are the bridge's own; the others mean the same to the service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from asr_common import settings

IMPLIED = "bridge_"
"""The start of names that options leave out, as it goes without saying on the bridge's command line."""


class Settings(BaseSettings):
    """The bridge's settings, from `ASR_*` variables unless given by name."""

    model_config = settings.CONFIG

    host: str = Field("0.0.0.0", description="Address to listen on. 127.0.0.1 admits this machine only.")
    port: int = Field(
        8080,
        ge=0,
        le=65535,
        description="Port for WebSocket, the page, /info, /healthz and /readyz; 0 takes a free one.",
    )
    grpc_target: str = Field(
        "localhost:50051",
        min_length=1,
        description="The speech service, host:port or any gRPC target. It need not be up when the bridge starts.",
    )
    grpc_ca: Path | None = Field(
        None,
        description="PEM file of the authorities that vouch for the service's certificate. Set, the bridge speaks TLS "
        "with the service. Read again when it changes, with the two below: new streams then take new connections.",
    )
    grpc_cert: Path | None = Field(
        None, description="PEM file of the certificate that a service with mutual TLS is shown."
    )
    grpc_key: Path | None = Field(None, description="PEM file of that certificate's private key.")
    bridge_tls_cert: Path | None = Field(
        None,
        description="PEM file of the WebSocket port's certificate, with its chain. Set with ASR_BRIDGE_TLS_KEY, the "
        "port speaks TLS only (wss and https). Read again when it changes.",
    )
    bridge_tls_key: Path | None = Field(
        None, description="PEM file of that certificate's private key, without a password."
    )
    bridge_workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that share the port (Linux). A core is full with the packets of some hundred clients: "
        "take one for each core that can be spared. More than one take a further process that watches them, and each "
        "has channels of its own.",
    )
    bridge_channels: int = Field(
        4,
        ge=1,
        le=256,
        description="HTTP/2 connections of a worker to the service, shared by its clients. Proxies commonly allow 100 "
        "streams on one: take a quarter of that as comfortable. More cost a socket each, and spread over more "
        "backends.",
    )
    bridge_max_connections: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="WebSocket connections open at the same time; more are answered with HTTP 503. Higher than the "
        "service's streams lets clients learn from the service when to come back; each costs some memory.",
    )
    bridge_max_message_bytes: int = Field(
        4 * 1024 * 1024,
        ge=4096,
        le=1 << 30,
        description="Largest WebSocket message; a larger one closes its connection with 1009. Larger ones upload "
        "files in fewer messages and let one client claim a few times as much memory.",
    )
    bridge_max_upload_bytes: int = Field(
        256 * 1024 * 1024,
        ge=4096,
        le=1 << 34,
        description="Largest recording that is sent by POST; a larger one is answered with HTTP 413. One that has to "
        "be decoded first (MP3, 24-bit WAV, ...), or that comes in a form, lies in the temporary folder meanwhile: "
        "larger ones let one client fill it.",
    )
    bridge_max_header_bytes: int = Field(
        16 * 1024,
        ge=1024,
        le=1 << 20,
        description="Longest line of the WebSocket handshake: a header with its name, such as all cookies of a page. A "
        "longer one is answered with HTTP 431. Longer ones let whoever connects claim as much memory, 128 lines of "
        "it at most, for ASR_BRIDGE_OPEN_S.",
    )
    bridge_max_unread: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Finals that may wait for a client that does not read, as far as they take no more than 16 MiB of "
        "memory; one more ends its stream. Interims never queue: a slow reader gets the latest. More forgives longer "
        "pauses and costs memory.",
    )
    bridge_origins: str = Field(
        "",
        description="Web pages that may connect: origins with commas between, such as https://app.example.com. Empty "
        "admits every page that a browser behind your firewall shows; clients that are no browsers send no origin and "
        "are always admitted.",
    )
    bridge_page: bool = Field(
        True,
        description="Whether a browser that opens the port is shown a page to speak into. Where ASR_BRIDGE_ORIGINS is "
        "set, it has to name the bridge's own origin too, or the page may not connect.",
    )
    bridge_twilio_webhook: str = Field(
        "",
        description="URL that the results of calls, which Twilio streams to /twilio, are posted to as JSON; put a "
        "secret into its path or query. Empty: no calls are taken. Messages of a call come in order, one at a time: a "
        "slow receiver delays its own calls only.",
    )
    bridge_ping_s: float = Field(
        20.0,
        ge=0.1,
        le=3600,
        description="Seconds between WebSocket pings; a client from which nothing at all arrives for three of them is "
        "taken for dead. Shorter frees its stream sooner; longer forgives longer outages. Below 60 keeps common "
        "proxies from cutting quiet connections.",
    )
    bridge_open_s: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="Seconds a client has for each of: the WebSocket handshake, and init after it; and the service "
        "for admitting a stream. Shorter ends idle connections sooner; longer suits slow links.",
    )
    bridge_close_s: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="Seconds a client has for taking what is left for it when its stream has ended. Longer waits for "
        "slow readers; shorter gives sockets back sooner. The stream's slot is free before that.",
    )
    bridge_compression: bool = Field(
        False,
        description="Whether permessage-deflate is offered. Audio hardly shrinks; it costs CPU time for each message "
        "and about 64 KB of memory a client.",
    )
    bridge_metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of the bridge's own Prometheus metrics; 0 turns them off."
    )
    bridge_metrics_host: str = Field(
        "127.0.0.1",
        description="Address the metrics listen on. They tell how busy the bridge is: keep them inside.",
    )
    drain_s: float = Field(
        30.0,
        ge=0,
        le=86400,
        description="After SIGTERM, how long streams may go on before they are ended. Keep it below the grace period "
        "of whatever stops the process, and not below the service's.",
    )
    watchdog_s: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="The event loop (with several ASR_BRIDGE_WORKERS the process that watches them), giving no sign of "
        "life for so long, is taken for hung: GET /livez of the metrics port then says 503, for whatever starts the "
        "bridge again. One of several workers that hangs shows its threads in the log, is killed and started again.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged. Neither audio nor text is ever logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text for people, json (one object a line) for collectors."
    )
    bridge_ready_file: Path | None = Field(
        None,
        description="File that is written once the port is open: JSON with pid, host and port. For scripts that take "
        "a free port.",
    )

    @field_validator("bridge_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in _split(value):
            if origin != "null" and ("://" not in origin or origin.endswith("/")):
                raise ValueError(f"{origin} should be an origin, scheme://host[:port] without a path")
        return value

    @field_validator("bridge_twilio_webhook")
    @classmethod
    def _webhook(cls, value: str) -> str:
        if problem := _webhook_problem(value) if value else "":
            raise ValueError(problem)
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins that are admitted; empty for all."""
        return tuple(_split(self.bridge_origins))


def _split(value: str) -> Iterator[str]:
    return (part.strip() for part in value.split(",") if part.strip())


def _webhook_problem(url: str) -> str:
    """Why nothing can be posted to this URL, as a sentence that does not repeat it; "" if it can."""
    if not re.match(r"https?://[^/?#\s]+[^\s]*$", url):
        return "should be a URL, http:// or https://"
    if not (url.isascii() and url.isprintable()):
        return "should be of printable ASCII: a name as xn--..., other characters of path and query as %XX"
    try:
        where = urlsplit(url)
        host, port = where.hostname, where.port
        # What the system's resolver does with it, which fails for labels that are empty or too long.
        (host or "").encode("idna")
    except ValueError as error:
        return f"should be a URL: {error}"
    if not host:
        return "should name a host"
    if port == 0:
        return "should have a port from 1 to 65535, or none"
    if "@" in where.netloc:
        return "should have no user and password, which are not sent: put a secret into its path or query"
    return ""


def read_settings(options: Mapping[str, str]) -> Settings:
    """Settings from the environment; `options` (by field name) go before it.

    Raises:
        BadSettings: with a line for each value that cannot be, naming it and what would be right.
    """
    return settings.read_settings(Settings, options, IMPLIED)


def limit_headers(settings: Settings) -> None:
    """Tells websockets, which must not be imported yet, how long a line of the handshake may be."""
    os.environ["WEBSOCKETS_MAX_LINE_LENGTH"] = str(settings.bridge_max_header_bytes)
