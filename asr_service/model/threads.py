"""Says how many threads a step takes, and which parts of it take them.

A team of threads is worth its waits for an encoder's large products. The operations of features and decoder on few
frames take microseconds: divided between threads they are hardly shorter, and where another program has taken a core
away, each of them waits for it. So these run in the thread that calls them, with more threads the more frames there
are.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from asr_service.core.cpus import usable_cpus

FRAMES = 16
"""Encoder frames of a batch, of all rows together, for which features and decoder take one thread more."""


def step_threads(wanted: int | None = None) -> int:
    """Returns how many threads a step on a CPU takes: as many as wanted, else one for each CPU that may be used.

    Of these, torch leaves out a core's second hardware thread, and what `OMP_NUM_THREADS` does not allow.
    """
    return wanted or min(torch.get_num_threads(), usable_cpus().threads)


def set_team_size(threads: int) -> None:
    """Sets how many threads torch's operations run on from now on, in this thread, as `torch.set_num_threads` does.

    That would also throw away the products that oneDNN has laid out: making them again costs milliseconds a step. So
    where torch's OpenMP is found, it is told, and MKL, which keeps a number of its own.
    """
    set_openmp = _openmp_set_num_threads()
    if set_openmp is None:
        torch.set_num_threads(threads)
        return
    set_openmp(threads)
    if set_mkl := _mkl_set_num_threads():
        set_mkl(threads)


@cache
def _openmp_set_num_threads() -> Callable[[int], object] | None:
    """Returns `omp_set_num_threads` of the one OpenMP in this process.

    None where there is none, or several, or where torch has an MKL that cannot be told its number.
    """
    with suppress(OSError, AttributeError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        paths = {line.split(maxsplit=5)[5] for line in lines if re.search(r"/lib[gi]?omp\d?[-.][^/]*$", line)}
        if len(paths) == 1 and (_mkl_set_num_threads() or not torch._C.has_mkl):
            function = ctypes.CDLL(paths.pop()).omp_set_num_threads
            function.argtypes, function.restype = (ctypes.c_int,), None
            before = torch.get_num_threads()
            function(before + 1)
            is_torchs = torch.get_num_threads() == before + 1
            function(before)
            return function if is_torchs else None
    return None


@cache
def _mkl_set_num_threads() -> Callable[[int], object] | None:
    """Returns what sets the calling thread's number in the MKL that torch brings; None where there is none."""
    with suppress(OSError, AttributeError):
        function = ctypes.CDLL(
            str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")
        ).MKL_Set_Num_Threads_Local
        function.argtypes, function.restype = (ctypes.c_int,), ctypes.c_int
        return function
    return None


class Team:
    """Divides a step between a team of threads, as large as torch's number when the step began, and few of them."""

    def __init__(self) -> None:
        self._size = self._few = 1

    @contextmanager
    def apart(self, frames: int) -> Iterator[None]:
        """Within this, torch's operations run in the thread that calls them, or on few: a step of so many frames."""
        self._size = torch.get_num_threads()
        self._few = min(self._size, max(1, frames // FRAMES))
        set_team_size(self._few)
        try:
            yield
        finally:
            set_team_size(self._size)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within this, which is within `apart`, they run on the team."""
        set_team_size(self._size)
        try:
            yield
        finally:
            set_team_size(self._few)
