"""Threads that go through a list of phases together, for loops compiled by Numba.

A phase is a number of items that may be done in any order by any thread; no thread goes on to the next phase before
all items are done. Threads claim items from a counter, so a thread that the operating system takes away for a while,
or that never comes, only leaves more items to the others: nothing waits for a thread that has claimed nothing.
"""

from __future__ import annotations

import numpy as np

from asr_service.model.cpu_encoder.compiling import Array, Int, compiled
from asr_service.model.cpu_encoder.isa.memory import CACHE_LINE, atomic_add, atomic_load, yield_processor

# int64 values in a cache line: counters lie a line apart.
_LINE = CACHE_LINE // 8
# Looks at a counter before the thread offers its core to others.
_PATIENCE = 2000


def counters(phases: int) -> Array:
    """Two counters for each phase, int64 [2, phases, 8]: claimed and done. Zero before each run."""
    return np.zeros((2, phases, _LINE), dtype=np.int64)


@compiled
def claim(counts: Array, phase: Int) -> int:
    """The next item of a phase; as many as there are, or more, when none is left."""
    item: int = atomic_add(counts.reshape(-1), np.int64(phase * _LINE), np.int64(1))
    return item


@compiled
def done(counts: Array, phase: Int, items: Int) -> None:
    """Says that so many items of a phase are done."""
    atomic_add(counts.reshape(-1), np.int64((counts.shape[1] + phase) * _LINE), np.int64(items))


@compiled
def wait(counts: Array, phase: Int, items: Int) -> None:
    """Returns when all items of a phase are done."""
    flat, place = counts.reshape(-1), np.int64((counts.shape[1] + phase) * _LINE)
    looks = 0
    while atomic_load(flat, place) < items:
        looks += 1
        if looks > _PATIENCE:
            yield_processor()
            looks = 0
