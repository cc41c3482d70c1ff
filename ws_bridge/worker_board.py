"""What the processes of one bridge see of each other at any time: memory that they share, being forked from one."""

from __future__ import annotations

import ctypes
import mmap

WATCHER = -1
"""The number of the process that watches the workers, where a beat is asked for."""


class WorkerBoard:
    """Connections and signs of life of every worker.

    Args:
        workers: how many there are; they have the numbers from 0 on.
    """

    def __init__(self, workers: int) -> None:
        counts, beats = ctypes.c_uint32 * workers, ctypes.c_double * (workers + 1)
        self._connections = counts.from_buffer(mmap.mmap(-1, ctypes.sizeof(counts)))
        self._beats = beats.from_buffer(mmap.mmap(-1, ctypes.sizeof(beats)))

    def set_connections(self, worker: int, count: int) -> None:
        """Sets how many connections a worker has open."""
        self._connections[worker] = count

    @property
    def connections(self) -> int:
        """How many connections are open, of all workers."""
        return sum(self._connections)

    def set_beat(self, process: int, now: float) -> None:
        """Takes that a worker, or the `WATCHER`, gives a sign of life now."""
        self._beats[process] = now

    def beat(self, process: int) -> float:
        """Returns when a worker, or the `WATCHER`, last gave a sign of life; 0.0 for never."""
        return self._beats[process]
