"""A WebSocket connection that notes when its peer was last heard, and tells at once when the peer has gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode
from websockets.protocol import State

from ws_bridge.dialect import GuestDialect

_TCP_ESTABLISHED = 1


class Connection(ServerConnection):
    """The library's connection, which also tells whether its peer is alive.

    The library's own ping timeout takes a client for dead that sends audio and does not read (its pongs wait behind
    unread results), and one whose packets we do not read because the service is behind. So pings are only sent, and
    any byte received counts as an answer.

    Attributes:
        heard_at: when the last bytes came, on the event loop's clock.
        on_gone: called when the peer has gone, or has violated WebSocket and listens no more.
        dialect: what its client speaks, None for the bridge's own protocol.
        too_large: gives the text messages that tell of a message that was too large; they go before the close frame.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard_at = asyncio.get_running_loop().time()
        self.on_gone: Callable[[], None] = lambda: None
        self.dialect: GuestDialect | None = None
        self.too_large: Callable[[], Iterable[str]] | None = None
        self._fail = self.protocol.fail
        # The library has no other place for words before the close frame of a connection that it fails.
        self.protocol.fail = self._fail_with_words  # type: ignore[method-assign]

    def _fail_with_words(self, code: CloseCode | int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG and self.too_large is not None and self.state is State.OPEN:
            for text in self.too_large():
                self.protocol.send_text(text.encode())
        self._fail(code, reason)

    def data_received(self, data: bytes) -> None:
        """Notes the time; a close frame, and a violation of WebSocket, mean that nobody listens any more."""
        self.heard_at = self.loop.time()
        super().data_received(data)
        if self.request is not None and self.state in (State.CLOSING, State.CLOSED):
            self.on_gone()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells that the TCP connection has ended, whatever the reason."""
        super().connection_lost(exc)
        self.on_gone()

    def is_dead(self, silence_s: float) -> bool:
        """Whether the peer has left without a word, or nothing has been heard of it for `silence_s`."""
        transport: asyncio.Transport = self.transport
        if transport.is_reading():
            return self.loop.time() - self.heard_at > silence_s
        # The service is behind and reading is paused: silence means nothing, and asyncio does not see the end of the
        # connection; the kernel does. Behind a full window even the peer's FIN has to wait, but a peer that is gone
        # answers what we send with a reset: so send something that needs no answer.
        if _tcp_ended(transport):
            return True
        if self.state is State.OPEN and not self.paused:
            self.protocol.send_pong(b"")
            self.send_data()
        return False

    def abort(self) -> None:
        """Drops the TCP connection without a word."""
        self.transport.abort()


def _tcp_ended(transport: asyncio.Transport) -> bool:
    peer = transport.get_extra_info("socket")
    try:
        state = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except (AttributeError, OSError, ValueError):
        # Not Linux, or just closed, which `connection_lost` tells; of a closed one, uvloop says ValueError.
        return False
    return bool(state[0] != _TCP_ESTABLISHED)
