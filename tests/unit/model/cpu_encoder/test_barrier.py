"""Threads that go through phases together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit, prange

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa.memory import atomic_load
from asr_service.model.cpu_encoder.kernels.barrier import claim, counters, done, wait


@njit(parallel=True)
def _count(threads: int, counts: Array, items: int, seen: Array) -> None:
    for _ in prange(threads):
        for phase in range(counts.shape[1]):
            item = claim(counts, phase)
            while item < items:
                # Everything of the phase before is done when an item of this one is.
                if phase and seen[phase - 1].sum() != items:
                    seen[phase, item] += 100
                seen[phase, item] += 1
                done(counts, phase, 1, items)
                item = claim(counts, phase)
            wait(counts, phase, items)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_item_is_done_once_and_phases_in_order(threads: int) -> None:
    """Also when there are more parts than threads: parts that come late find nothing to do."""
    seen = np.zeros((50, 13), dtype=np.int64)
    _count(threads, counters(50), 13, seen)
    assert (seen == 1).all()


@njit(nogil=True)
def _take_part(counts: Array, items: int, held: int, seen: Array) -> int:
    """What a thread does, but for the item `held`: who claims that keeps it until another thread sleeps for it."""
    mine = 0
    for phase in range(counts.shape[1]):
        sleeping = np.int64((2 * counts.shape[1] + phase) * counts.shape[2])
        item = claim(counts, phase)
        while item < items:
            if item == held:
                while atomic_load(counts.reshape(-1), sleeping) == 0:
                    pass
            seen[phase, item] += 1
            mine += 1
            done(counts, phase, 1, items)
            item = claim(counts, phase)
        wait(counts, phase, items)
    return mine


@pytest.mark.parametrize("held", [0, 12])
def test_who_waits_for_a_thread_that_is_away_sleeps_and_is_woken(held: int) -> None:
    """The last item that is done wakes, whichever it is; the others are done by whoever is there meanwhile."""
    counts, seen = counters(20), np.zeros((20, 13), dtype=np.int64)
    with ThreadPoolExecutor(2) as threads:
        parts = [threads.submit(_take_part, counts, 13, held, seen) for _ in range(2)]
        assert sum(part.result() for part in parts) == 20 * 13
    assert (seen == 1).all()
    assert (counts[2, :, 0] > 0).all()
