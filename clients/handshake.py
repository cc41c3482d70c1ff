"""Connects to the bridge, or says in one line why there is no connection."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import websockets

CONNECT_S = 10.0


class NoConnection(Exception):
    """There is no connection; the message is one line.

    Attributes:
        code: "HTTP 503" or another status that the handshake was answered with, "UNREACHABLE" without an answer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def connect(
    url: str,
    tls: ssl.SSLContext | None,
    headers: Mapping[str, str],
    *,
    timeout_s: float = CONNECT_S,
    **options: Any,
) -> websockets.ClientConnection:
    """Opens a WebSocket connection without compression, which audio only pays for; a context manager that closes it.

    Args:
        url: such as ws://localhost:8080.
        tls: for wss.
        headers: for the handshake.
        timeout_s: for the handshake.
        options: what else `websockets.connect` takes.

    Raises:
        NoConnection: the server refused it, or there is none.
    """
    try:
        return await websockets.connect(
            url,
            compression=None,
            open_timeout=timeout_s,
            ssl=tls,
            additional_headers=headers,
            **options,
        )
    except websockets.InvalidStatus as refused:
        body = " ".join(bytes(refused.response.body or b"").decode(errors="replace").split())
        code = f"HTTP {refused.response.status_code}"
        raise NoConnection(code, f"{code} {body}".rstrip()) from None
    except (OSError, TimeoutError, websockets.WebSocketException) as failed:
        raise NoConnection("UNREACHABLE", f"cannot connect: {str(failed) or 'no answer'}") from None
