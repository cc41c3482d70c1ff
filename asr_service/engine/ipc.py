"""The two pipes between a front end and an engine's process: frames of plain values.

A frame is a length, four bytes, and what `marshal` makes of tuples, numbers, strings and bytes: both ends are the same
program, and a packet costs a fraction of what pickling it would. What is rare, as a config or an error, is pickled.
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


class Message(IntEnum):
    """What the engine's process tells: the first value of each of its frames."""

    STATE = 0  # the engine came into another state
    BEGUN = 1  # a step begins
    TURN = 2  # a turn's events, with its steps, load and books
    REPORT = 3  # load, books and readings, a few times a second


PIPE_BYTES = 1 << 20
"""Room in a pipe where the system allows it: a quarter of a second of a hundred streams' audio. What does not fit waits
in the sender's memory."""
_READ_BYTES = 1 << 18
_LENGTH = struct.Struct("<I")
_AUDIO, _CANCEL, _CONSUMED, _RESULT, _PICKLED = range(5)
_REASONS = tuple(FinalReason)


def pack_command(now: float, command: Command | None) -> Packed:
    """A command and its time, monotonic seconds, as plain values."""
    if type(command) is Audio:
        return (_AUDIO, now, command.stream, command.data)
    if type(command) is Cancel:
        return (_CANCEL, now, command.stream)
    return (_PICKLED, now, pickle.dumps(command))


def unpack_command(packed: Packed) -> TimedCommand:
    """What `pack_command` packed."""
    kind, now = packed[:2]
    if kind == _AUDIO:
        return now, Audio(packed[2], packed[3])
    if kind == _CANCEL:
        return now, Cancel(packed[2])
    return now, pickle.loads(packed[2])


def pack_event(event: Event) -> Packed:
    """An event as plain values."""
    if type(event) is Consumed:
        return (_CONSUMED, event.stream, event.audio_bytes, event.next_chunk_end, event.chunk_bytes)
    if type(event) is Result:
        e = event
        reason = None if e.reason is None else _REASONS.index(e.reason)
        words = tuple([(word.text, word.start_ms, word.end_ms, word.confidence) for word in e.words])
        return (
            _RESULT, e.stream, e.text, reason, e.utterance, words, e.confidence, e.audio_ms, e.tag, e.made_unix_ms,
            e.stability,
        )  # fmt: skip
    return (_PICKLED, pickle.dumps(event))


def unpack_event(packed: Packed) -> Event:
    """What `pack_event` packed."""
    kind = packed[0]
    if kind == _CONSUMED:
        return Consumed(*packed[1:])
    if kind == _RESULT:
        _, stream, text, reason, utterance, words, *rest = packed
        why = None if reason is None else _REASONS[reason]
        return Result(stream, text, why, utterance, tuple([Word(*word) for word in words]), *rest)
    event: Event = pickle.loads(packed[1])
    return event


def frame(value: Any) -> bytes:
    """A value as it goes through a pipe: tuples, lists, numbers, strings, bytes and None."""
    body = marshal.dumps(value)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what was read from a pipe into values."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The values that are complete with this."""
        held = self._held
        held += data
        values = []
        at = 0
        with memoryview(held) as view:
            while len(view) - at >= _LENGTH.size:
                begin = at + _LENGTH.size
                end = begin + _LENGTH.unpack_from(view, at)[0]
                if end > len(view):
                    break
                values.append(marshal.loads(view[begin:end]))
                at = end
        del held[:at]
        return values


class CommandPipe:
    """The engine's end of the command pipe: for its thread, what a queue in the same process would be.

    Args:
        pipe: descriptor to read from.
        lost: called when the front end is gone; should not return.
    """

    def __init__(self, pipe: int, lost: Callable[[], None]) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._lost = lost
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._frames = Frames()
        self._there: deque[Packed] = deque()

    def qsize(self) -> int:
        """Commands that are there; what has come through the pipe is taken in first."""
        self._take_in()
        return len(self._there)

    def get_nowait(self) -> TimedCommand:
        """The next command that is there."""
        return unpack_command(self._there.popleft())

    def get(self, *, timeout: float) -> TimedCommand:
        """The next command. Raises queue.Empty if there is none for so many seconds."""
        until = time.monotonic() + timeout
        while not self._there:
            if not self._poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
                raise Empty
            self._take_in()
        return self.get_nowait()

    def _take_in(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self._pipe, _READ_BYTES)
                if not data:
                    self._lost()
                    return
                for batch in self._frames.feed(data):
                    self._there.extend(batch)
                if len(data) < _READ_BYTES // 4:
                    return


def write_all(pipe: int, data: bytes) -> None:
    """Writes it all, waiting where the pipe is full. Raises OSError if nobody reads any more."""
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


def read_some(pipe: int) -> bytes:
    """What is there; b"" if nobody writes any more. Raises BlockingIOError if nothing is there now."""
    return os.read(pipe, _READ_BYTES)


def new_pipe() -> tuple[int, int]:
    """The ends to read from and to write to."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(
            OSError
        ):  # this user's share of pipe memory is used up: a small one works too
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing
