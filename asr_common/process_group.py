"""Forks processes and watches them: for a parent that has one thread, and only waits.

Such a parent may fork at any time, since nothing else runs in it. Its children never outlive it
(`child_process.py`), take no signals from a terminal, and have none of the descriptors that belong to the parent and to
the others.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from asr_common.child_process import end_with_parent, name_process
from asr_common.control_channel import ControlChannel, Received

log = logging.getLogger(__name__)

_WATCHED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(eq=False, slots=True)
class Child:
    """A process that was forked.

    Attributes:
        name: of the process, as `ps` shows it too.
        pid: of the process.
        control: the channel to it.
        started_at: monotonic time of the fork.
        exit_code: that it has ended with, or minus the number of the signal that ended it; None while it runs.
    """

    name: str
    pid: int
    control: ControlChannel
    started_at: float = field(default_factory=time.monotonic)
    exit_code: int | None = None


@dataclass(slots=True)
class News:
    """What has happened since the last time.

    Attributes:
        signals: numbers of the signals that have come, SIGCHLD not among them.
        received: messages of children, each with its child.
        ended: children that have ended; all that they had sent is in `received`, now or before.
        readable: other descriptors at which there is something to read.
    """

    signals: list[int] = field(default_factory=list)
    received: list[tuple[Child, Received]] = field(default_factory=list)
    ended: list[Child] = field(default_factory=list)
    readable: list[int] = field(default_factory=list)


class ProcessGroup:
    """The children of this process. To be made and used by its only thread.

    It takes over SIGTERM, SIGINT and SIGCHLD until it is closed.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._private: set[int] = set()
        self._readable: set[int] = set()
        # Signals become bytes that can be waited for.
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
            self.keep_private(end.fileno())
        self._handlers = {number: signal.signal(number, _do_nothing) for number in _WATCHED_SIGNALS}
        self._old_waker = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def keep_private(self, descriptor: int) -> None:
        """Says that a descriptor is the parent's own: children that are forked from now on close it."""
        self._private.add(descriptor)

    def forget(self, descriptor: int) -> None:
        """Says that a descriptor was closed, or is no longer the parent's own or waited for."""
        self._private.discard(descriptor)
        self._readable.discard(descriptor)

    def watch(self, descriptor: int) -> None:
        """Makes `wait` tell when there is something to read from a descriptor, which is private too."""
        self.keep_private(descriptor)
        self._readable.add(descriptor)

    def fork(self, name: str, run: Callable[[ControlChannel], int]) -> Child:
        """Forks a process.

        Args:
            name: of the process.
            run: is called in it with its channel to the parent, and returns its exit code.

        Raises:
            OSError: the system has no room for one more process.
        """
        mine, its = ControlChannel.pair()
        # Both processes would write what is still in the buffers.
        for output in (sys.stdout, sys.stderr):
            output.flush()
        # What is there now stays; children that never look at it again share its memory with the parent.
        gc.freeze()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            mine.close()
            its.close()
            raise
        if pid == 0:
            self._run_child(name, run, its, parent, mine)
        its.close()
        child = Child(name, pid, mine)
        self.children.append(child)
        self.keep_private(mine.fileno())
        return child

    def _run_child(
        self,
        name: str,
        run: Callable[[ControlChannel], int],
        control: ControlChannel,
        parent: int,
        parents_end: ControlChannel,
    ) -> NoReturn:
        code = 1
        try:
            end_with_parent(parent)
            name_process(name)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (signal.SIGTERM, signal.SIGINT):
                # The parent says what a child is to do.
                signal.signal(number, signal.SIG_IGN)
            parents_end.close()
            for child in self.children:
                # With what others have not taken yet.
                child.control.close()
            for descriptor in self._private:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            code = run(control)
        except BaseException:
            log.critical("the process %s has failed", name, exc_info=True)
        finally:
            logging.shutdown()
            os._exit(code)

    def wait(self, timeout_s: float | None) -> News:
        """Waits until something has happened, or until so many seconds are over; None waits for as long as it takes."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        channels = {child.control.fileno(): child for child in self.children if child.control.is_open}
        for descriptor, child in channels.items():
            poll.register(descriptor, select.POLLIN | (select.POLLOUT if child.control.has_unsent else 0))
        for descriptor in self._readable:
            poll.register(descriptor, select.POLLIN)
        news = News()
        for descriptor, events in poll.poll(None if timeout_s is None else max(0.0, 1000 * timeout_s)):
            if descriptor in channels:
                child = channels[descriptor]
                if events & select.POLLOUT:
                    child.control.send_rest()
                if events & ~select.POLLOUT:
                    news.received += [(child, received) for received in child.control.read()]
            elif descriptor in self._readable:
                news.readable.append(descriptor)
            else:
                news.signals += [number for number in self._woken.recv(4096) if number != signal.SIGCHLD]
        self._reap(news)
        return news

    def _reap(self, news: News) -> None:
        """Finds the children that have ended, and reads what they had sent."""
        for child in list(self.children):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            child.exit_code = os.waitstatus_to_exitcode(status)
            news.received += [(child, received) for received in child.control.read()]
            news.ended.append(child)
            self.children.remove(child)
            self.forget(child.control.fileno())
            child.control.close()

    def kill(self, child: Child, number: int = signal.SIGKILL) -> None:
        """Sends a signal to a child; does nothing if that has ended."""
        if child.exit_code is None:
            os.kill(child.pid, number)

    def close(self) -> None:
        """Kills the children that are left and gives the signals back."""
        for child in self.children:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.control.close()
        self.children.clear()
        signal.set_wakeup_fd(self._old_waker)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._woken.close()
        self._waker.close()


def how_it_ended(code: int) -> str:
    """Says how a process has ended, by its exit code or minus the number of a signal: "by signal 9 (SIGKILL)"."""
    return f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handles a signal, which is noticed by its byte: without a handler there would be none."""
