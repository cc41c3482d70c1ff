"""The two pipes between a front end and an engine's process, and the messages in them.

A message is its length, four bytes, and what `marshal` makes of tuples, numbers, strings and bytes: both ends are the
same program, and a packet costs a fraction of what pickling it would. What is rare is pickled,
as a config or an error is.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import pickle
import select
import struct
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from queue import Empty
from typing import Any

from asr_service.core.commands import Audio, Cancel, Command, Consumed, Event, TimedCommand
from asr_service.core.values import FinalReason, Result, Word

Packed = tuple[Any, ...]
"""A command or an event as plain values, of which messages are made."""


class MessageKind(IntEnum):
    """The first value of each message from the engine's process."""

    # The engine has come into another state.
    STATE = 0
    # A step begins, at a time; or None: a probe's step has ended.
    STEP_BEGINS = 1
    # A turn's events, with its steps, load and counts.
    TURN = 2
    # Load, counts, readings and capacity, a few times a second.
    REPORT = 3


PIPE_BYTES = 1 << 20
"""Room in a pipe where the system allows it: a quarter of a second of a hundred streams' audio. What does not fit waits
in the sender's memory."""
_READ_BYTES = 1 << 18
_LENGTH = struct.Struct("<I")
_AUDIO, _CANCEL, _CONSUMED, _RESULT, _PICKLED = range(5)
_REASONS = tuple(FinalReason)


def pack_command(now: float, command: Command | None) -> Packed:
    """Makes plain values of a command and its time, monotonic seconds."""
    if type(command) is Audio:
        return (_AUDIO, now, command.stream, command.data)
    if type(command) is Cancel:
        return (_CANCEL, now, command.stream)
    return (_PICKLED, now, pickle.dumps(command))


def unpack_command(packed: Packed) -> TimedCommand:
    """Makes the command and its time again that `pack_command` packed."""
    kind, now = packed[:2]
    if kind == _AUDIO:
        return now, Audio(packed[2], packed[3])
    if kind == _CANCEL:
        return now, Cancel(packed[2])
    return now, pickle.loads(packed[2])


def pack_event(event: Event) -> Packed:
    """Makes plain values of an event."""
    if type(event) is Consumed:
        return (_CONSUMED, event.stream, event.audio_bytes, event.next_chunk_end, event.chunk_bytes)
    if type(event) is Result:
        e = event
        reason = None if e.reason is None else _REASONS.index(e.reason)
        words = tuple([(word.text, word.start_ms, word.end_ms, word.confidence) for word in e.words])
        return (
            _RESULT, e.stream, e.text, reason, e.utterance, words, e.confidence, e.audio_ms, e.tag, e.made_unix_ms,
            e.stability, e.language,
        )  # fmt: skip
    return (_PICKLED, pickle.dumps(event))


def unpack_event(packed: Packed) -> Event:
    """Makes the event again that `pack_event` packed."""
    kind = packed[0]
    if kind == _CONSUMED:
        return Consumed(*packed[1:])
    if kind == _RESULT:
        _, stream, text, reason, utterance, words, *rest = packed
        why = None if reason is None else _REASONS[reason]
        return Result(stream, text, why, utterance, tuple([Word(*word) for word in words]), *rest)
    event: Event = pickle.loads(packed[1])
    return event


def pack_message(value: Any) -> bytes:
    """Makes a message of a value: tuples, lists, numbers, strings, bytes and None."""
    body = marshal.dumps(value)
    return _LENGTH.pack(len(body)) + body


class MessageReader:
    """Cuts what was read from a pipe into messages."""

    def __init__(self) -> None:
        # The beginning of a message whose end has not come.
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Takes bytes and returns the values of the messages that they complete."""
        rest = self._rest
        rest += data
        values = []
        at = 0
        with memoryview(rest) as view:
            while len(view) - at >= _LENGTH.size:
                begin = at + _LENGTH.size
                end = begin + _LENGTH.unpack_from(view, at)[0]
                if end > len(view):
                    break
                values.append(marshal.loads(view[begin:end]))
                at = end
        del rest[:at]
        return values


class CommandPipe:
    """Reads commands from a pipe, for the engine's thread: the `Inbox` of an engine with a process of its own.

    Args:
        pipe: descriptor to read from.
        on_close: called when the front end is gone; should not return.
    """

    def __init__(self, pipe: int, on_close: Callable[[], None]) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._on_close = on_close
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._messages = MessageReader()
        self._commands: deque[Packed] = deque()

    def qsize(self) -> int:
        """Returns the number of commands that are there, after reading what has come through the pipe."""
        self._read()
        return len(self._commands)

    def get_nowait(self) -> TimedCommand:
        """Takes the next command that is there."""
        return unpack_command(self._commands.popleft())

    def get(self, *, timeout: float) -> TimedCommand:
        """Waits for the next command. Raises queue.Empty if there is none for so many seconds."""
        until = time.monotonic() + timeout
        while not self._commands:
            if not self._poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
                raise Empty
            self._read()
        return self.get_nowait()

    def _read(self) -> None:
        """Reads all commands that have come through the pipe."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self._pipe, _READ_BYTES)
                if not data:
                    self._on_close()
                    return
                for batch in self._messages.feed(data):
                    self._commands.extend(batch)
                if len(data) < _READ_BYTES // 4:
                    return


def write_all(pipe: int, data: bytes) -> None:
    """Writes all bytes, waiting while the pipe is full. Raises OSError if nobody reads any more."""
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


def read_some(pipe: int) -> bytes:
    """Reads bytes that are there; b"" if nobody writes any more. Raises BlockingIOError if there are none now."""
    return os.read(pipe, _READ_BYTES)


def new_pipe() -> tuple[int, int]:
    """Makes a pipe; returns the descriptors to read from and to write to."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # Fails when this user's share of pipe memory is used up: a small pipe works too.
        with contextlib.suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing
