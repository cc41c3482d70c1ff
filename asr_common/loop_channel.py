"""A control channel in a process with an event loop: messages come in a callback, what is sent goes out by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from asr_common.control_channel import ControlChannel, Message, Received


class LoopChannel:
    """Connects a channel to the event loop that runs, for its thread.

    Args:
        channel: to the process that forked this one.
        on_message: takes each message that comes.
    """

    def __init__(self, channel: ControlChannel, on_message: Callable[[Received], None]) -> None:
        self._channel = channel
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._is_writing = False
        self._loop.add_reader(channel.fileno(), self._read)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Sends a message; see `ControlChannel.send`."""
        self._channel.send(message, descriptors)
        self._watch_unsent()

    def close(self) -> None:
        """Takes no more messages and sends no more; the channel itself stays as it is."""
        self._loop.remove_reader(self._channel.fileno())
        if self._is_writing:
            self._loop.remove_writer(self._channel.fileno())
            self._is_writing = False

    def _read(self) -> None:
        for received in self._channel.read():
            self._on_message(received)
        if not self._channel.is_open:
            # The other process is gone, and its end is about to end this one.
            self.close()

    def _send_rest(self) -> None:
        self._channel.send_rest()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        if self._channel.has_unsent is not self._is_writing:
            self._is_writing = self._channel.has_unsent
            if self._is_writing:
                self._loop.add_writer(self._channel.fileno(), self._send_rest)
            else:
                self._loop.remove_writer(self._channel.fileno())
