"""Says how many threads a step takes, and which parts of it take them.

A team of threads is worth its waits for an encoder's large products. The operations of features and decoder on few
frames take microseconds: divided between threads they are hardly shorter, and where another program has taken a core
away, each of them waits for it. So these run in the thread that calls them, with more threads the more frames there
are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from asr_service.core.cpus import usable_cpus

FRAMES = 64
"""Encoder frames of a batch, of all rows together, for which features and decoder take one thread more."""


def step_threads(wanted: int | None = None) -> int:
    """Returns how many threads a step on a CPU takes: as many as wanted, else one for each CPU that may be used.

    Of these, torch leaves out a core's second hardware thread, and what `OMP_NUM_THREADS` does not allow.
    """
    return wanted or min(torch.get_num_threads(), usable_cpus().threads)


class Team:
    """Divides a step between a team of threads, as large as torch's number when the step began, and few of them."""

    def __init__(self) -> None:
        self._size = self._few = 1

    @contextmanager
    def apart(self, frames: int) -> Iterator[None]:
        """Within this, torch's operations run in the thread that calls them, or on few: a step of so many frames."""
        self._size = torch.get_num_threads()
        self._few = min(self._size, max(1, frames // FRAMES))
        torch.set_num_threads(self._few)
        try:
            yield
        finally:
            torch.set_num_threads(self._size)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within this, which is within `apart`, they run on the team."""
        torch.set_num_threads(self._size)
        try:
            yield
        finally:
            torch.set_num_threads(self._few)
