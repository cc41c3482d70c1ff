"""Keeps a TCP port for several processes that listen on it together (Linux).

The port is bound alone at first, so that a second program on it is an error and no lottery. Then it may be shared by
sockets of the same user; this one never listens, so that no connection goes to it.
"""

from __future__ import annotations

import socket


class SharedPort:
    """A port that is kept until `close`.

    Args:
        host: address or name to listen on.
        port: 0 takes a free one.

    Attributes:
        number: of the port.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        self.number = port
        self._sockets: list[socket.socket] = []
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, protocol, _, address in addresses:
                self._keep(socket.socket(family, kind, protocol), address[0])
        except OSError:
            self.close()
            raise

    def _keep(self, keeper: socket.socket, host: str | int) -> None:
        self._sockets.append(keeper)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if keeper.family == socket.AF_INET6:
            # Its IPv4 side is a socket of its own where there is one.
            keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        keeper.bind((host, self.number))
        self.number = keeper.getsockname()[1]
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def filenos(self) -> list[int]:
        """Returns the descriptors that keep it."""
        return [keeper.fileno() for keeper in self._sockets]

    def close(self) -> None:
        """Gives the port up."""
        for keeper in self._sockets:
            keeper.close()
