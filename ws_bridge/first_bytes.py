"""Tells by a connection's first bytes who takes it: websockets, or what takes requests with a body.

websockets refuses requests with a body. So each connection is looked at first: POST goes to an exchange of HTTP, and
everything else, whatever it is, to websockets, as if nobody had looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

_POST = b"POST "


class FirstBytes(asyncio.Protocol):
    """Waits for what tells; then it is out of the way.

    Args:
        websocket: takes the connection unless it is a POST.
        post: makes what takes a POST.
        patience_s: how long a client may take for its first bytes.
    """

    def __init__(
        self, websocket: asyncio.Protocol, post: Callable[[], asyncio.Protocol], patience_s: float
    ) -> None:
        self._websocket = websocket
        self._post = post
        self._patience_s = patience_s
        self._start = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts to wait."""
        # uvloop's are none by type.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._late = asyncio.get_running_loop().call_later(self._patience_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Looks at the bytes so far; hands the connection on once they tell."""
        self._start += data
        if len(self._start) < len(_POST) and _POST.startswith(self._start):
            return
        self._late.cancel()
        taker = self._post() if self._start.startswith(_POST) else self._websocket
        self._transport.set_protocol(taker)
        taker.connection_made(self._transport)
        taker.data_received(self._start)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops to wait for a client that has gone."""
        self._late.cancel()
