"""Messages and open descriptors between a process and one that it has forked, over a connected pair of sockets.

A message is a tuple of plain values: numbers, text, bytes, None, tuples and lists of such. Neither end waits for the
other: what the socket does not take goes out later.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

# Bytes of the message that follows, and descriptors that come with it.
_HEAD = struct.Struct("=IB")
_READ_BYTES = 1 << 18
_MOST_DESCRIPTORS = 8

Message = tuple[Any, ...]


class Received(NamedTuple):
    """A message that has come, and the descriptors with it, which now belong to the receiver."""

    message: Message
    descriptors: tuple[int, ...]


class ControlChannel:
    """One end of a channel.

    Args:
        end: a connected socket of the system's own kind (AF_UNIX), which the channel closes.

    Attributes:
        is_open: whether the other end is there, as far as is known.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._unsent: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._data = bytearray()
        self._descriptors: deque[int] = deque()
        self.is_open = True

    @classmethod
    def pair(cls) -> tuple[ControlChannel, ControlChannel]:
        """Makes both ends of a channel."""
        ends = socket.socketpair(socket.AF_UNIX)
        return cls(ends[0]), cls(ends[1])

    def fileno(self) -> int:
        """Returns the descriptor to wait at."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits until the socket takes more; `send_rest` is to be called then."""
        return bool(self._unsent)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Sends a message; never waits. Ignored once the other end is gone.

        Args:
            message: of plain values.
            descriptors: that go with it. They stay open here, and may be closed after this.
        """
        if not self.is_open:
            return
        body = marshal.dumps(message)
        # The caller may close its own before they have gone out.
        kept = tuple(map(os.dup, descriptors))
        self._unsent.append((memoryview(_HEAD.pack(len(body), len(kept)) + body), kept))
        if len(self._unsent) == 1:
            self.send_rest()

    def send_rest(self) -> None:
        """Sends what the socket takes now of what waits."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                if descriptors:
                    sent = socket.send_fds(self._socket, [data], descriptors)
                else:
                    sent = self._socket.send(data)
            except BlockingIOError:
                return
            except OSError:
                self._drop_unsent()
                return
            for descriptor in descriptors:
                os.close(descriptor)
            if sent < len(data):
                self._unsent[0] = data[sent:], ()
            else:
                self._unsent.popleft()

    def read(self) -> list[Received]:
        """Returns the messages that have come; `is_open` turns false when no more can come."""
        while self.is_open:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, _MOST_DESCRIPTORS)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            self._data += data
            self._descriptors += descriptors
            if not data:
                self._drop_unsent()
        received = []
        while len(self._data) >= _HEAD.size:
            length, count = _HEAD.unpack_from(self._data)
            end = _HEAD.size + length
            if len(self._data) < end:
                break
            message = marshal.loads(self._data[_HEAD.size : end])
            received.append(Received(message, tuple(self._descriptors.popleft() for _ in range(count))))
            del self._data[:end]
        return received

    def _drop_unsent(self) -> None:
        """Notes that the other end is gone."""
        self.is_open = False
        for _, descriptors in self._unsent:
            for descriptor in descriptors:
                os.close(descriptor)
        self._unsent.clear()

    def close(self) -> None:
        """Closes this end, and the descriptors that nobody has taken."""
        self._drop_unsent()
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())
