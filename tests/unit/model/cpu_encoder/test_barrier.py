"""Threads that go through phases together."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit, prange

from asr_service.model.cpu_encoder.compiling import Array
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
                done(counts, phase, 1)
                item = claim(counts, phase)
            wait(counts, phase, items)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_item_is_done_once_and_phases_in_order(threads: int) -> None:
    """Also when there are more parts than threads: parts that come late find nothing to do."""
    seen = np.zeros((50, 13), dtype=np.int64)
    _count(threads, counters(50), 13, seen)
    assert (seen == 1).all()
