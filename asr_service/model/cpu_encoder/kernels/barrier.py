"""Threads that go through a list of phases together, for loops compiled by Numba.

A phase is a number of items that may be done in any order by any thread; no thread goes on to the next phase before
all items are done. Threads claim items from a counter, so a thread that the operating system takes away for a while,
or that never comes, only leaves more items to the others: nothing waits for a thread that has claimed nothing.

A wait is short where every thread has a core: the rest of one item. Then the thread looks on without a pause, since
sleep and wake-up take longer. Where a wait lasts, a thread in the middle of an item has lost its core to another
program. Then the waiting thread sleeps until it is woken: its core is free for that thread, and a quota is not spent
on looking.
"""

from __future__ import annotations

import numpy as np

from asr_service.model.cpu_encoder.compiling import Array, Int, compiled
from asr_service.model.cpu_encoder.isa.memory import CACHE_LINE, atomic_add, atomic_load, sleep_while, wake

# int64 values in a cache line: counters lie a line apart.
_LINE = CACHE_LINE // 8
# Looks at a counter before the thread sleeps: some 0.1 ms, longer than most items.
_PATIENCE = 50_000


def counters(phases: int) -> Array:
    """Three counters for each phase, int64 [3, phases, 8]: claimed, done and sleeping. Zero before each run."""
    return np.zeros((3, phases, _LINE), dtype=np.int64)


@compiled
def claim(counts: Array, phase: Int) -> int:
    """The next item of a phase; as many as there are, or more, when none is left."""
    item: int = atomic_add(counts.reshape(-1), np.int64(phase * _LINE), np.int64(1))
    return item


@compiled
def done(counts: Array, phase: Int, mine: Int, items: Int) -> None:
    """Says that `mine` more of the `items` of a phase are done; wakes who sleeps until all are."""
    flat, place = counts.reshape(-1), np.int64((counts.shape[1] + phase) * _LINE)
    sleeping = np.int64((2 * counts.shape[1] + phase) * _LINE)
    before: int = atomic_add(flat, place, np.int64(mine))
    # A thread counts itself among the sleeping before its last look at what is done, and here it is the other way
    # round: one of the two sees the other.
    if before + mine == items and atomic_add(flat, sleeping, np.int64(0)) > 0:
        wake(flat, place)


@compiled
def wait(counts: Array, phase: Int, items: Int) -> None:
    """Returns when all items of a phase are done."""
    flat, place = counts.reshape(-1), np.int64((counts.shape[1] + phase) * _LINE)
    for _ in range(_PATIENCE):
        if atomic_load(flat, place) >= items:
            return
    atomic_add(flat, np.int64((2 * counts.shape[1] + phase) * _LINE), np.int64(1))
    # An atomic addition is in one order with those of `done`.
    finished = atomic_add(flat, place, np.int64(0))
    while finished < items:
        sleep_while(flat, place, finished)
        finished = atomic_load(flat, place)
