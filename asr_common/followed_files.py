"""A value that is made of files, and made again when they change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")

_Signature = tuple[tuple[int, int, int], ...]


class FollowedFiles(Generic[Value]):
    """A value that follows its files: keys, a certificate. Any thread.

    Nobody is told of a change; whoever uses the value asks for it, as often as `look_s` allows.

    Args:
        paths: the files.
        read: makes the value of what they hold now. Whatever it raises for files that cannot be used is raised here,
            too.
        look_s: least time between two looks at the files, in seconds.

    Attributes:
        value: the latest that could be made.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Value], *, look_s: float = 0.0) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._look_s = look_s
        self._lock = threading.Lock()
        self._taken = self._signature()
        self.value = read()
        self._looked_at = time.monotonic()

    def newer(self) -> Value | None:
        """The value if its files have changed since the last call, None if they have not.

        Raises:
            Exception: what `read` raises for files that cannot be used: once for each change of them. The value stays.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at < self._look_s:
                return None
            self._looked_at = now
            signature = self._signature()
            if signature == self._taken:
                return None
            try:
                value = self._read()
            except Exception:
                self._taken = signature
                raise
            if self._signature() != signature:
                # They are still being written: the next call looks again.
                return None
            self._taken = signature
            self.value = value
            return value

    def _signature(self) -> _Signature | None:
        """What changes with the files; None while one is not there."""
        try:
            stats = [path.stat() for path in self._paths]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
