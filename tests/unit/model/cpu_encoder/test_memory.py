"""Every intrinsic that reads, writes, prefetches or counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit, prange

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa import memory
from tests.unit.model.cpu_encoder.intrinsics import call, compiled_call, from_bfloat16


def test_numbers_at_addresses() -> None:
    halves = np.array([0x3F80, 0xC049, 0x7F80], np.uint16)
    floats = np.array([1.5, -2.25, 1e-40], np.float32)
    for n in range(3):
        assert call(memory.bfloat16_at, halves[n:]) == from_bfloat16(halves)[n]
        assert call(memory.float32_at, floats[n:]) == floats[n]
    call(memory.set_float32, floats[1:], np.float32(7.5))
    assert floats.tolist() == [1.5, 7.5, floats[2]]


def test_prefetches_change_nothing_and_never_fault() -> None:
    numbers = np.arange(64, dtype=np.float32)
    call(memory.prefetch, numbers)
    call(memory.prefetch, np.int64(0))  # no memory at all
    compiled_call(memory.prefetch_element, 2)(numbers, 63)
    assert (numbers == np.arange(64)).all()


@njit(parallel=True)
def _count(counts: Array, seen: Array, turns: int) -> None:
    for _ in prange(8):
        for _turn in range(turns):
            seen[memory.atomic_add(counts, np.int64(1), np.int64(1))] += 1


def test_atomic_add_gives_each_number_to_one_thread() -> None:
    turns = 10_000
    counts, seen = np.zeros(3, np.int64), np.zeros(8 * turns, np.int64)
    _count(counts, seen, turns)
    assert counts.tolist() == [0, 8 * turns, 0]
    assert (seen == 1).all()


def test_atomic_load_reads() -> None:
    counts = np.array([3, 5], np.int64)
    load = compiled_call(memory.atomic_load, 2)
    assert [load(counts, 0), load(counts, 1)] == [3, 5]


@njit(nogil=True)
def _sleep_until_changed(counts: Array) -> int:
    """Sleeps on counts[1] until it is no longer 5; says so in counts[0] before."""
    memory.atomic_add(counts, np.int64(0), np.int64(1))
    turns = 0
    while memory.atomic_load(counts, np.int64(1)) == 5:
        memory.sleep_while(counts, np.int64(1), np.int64(5))
        turns += 1
    return turns


def test_who_sleeps_is_woken() -> None:
    """Whether it slept already when the number changed, or was about to."""
    add, wake = compiled_call(memory.atomic_add, 3), compiled_call(memory.wake, 2)
    _sleep_until_changed(np.zeros(2, np.int64))
    with ThreadPoolExecutor(1) as thread:
        for _ in range(200):
            counts = np.array([0, 5], np.int64)
            sleeper = thread.submit(_sleep_until_changed, counts)
            while counts[0] == 0:
                pass
            add(counts, np.int64(1), np.int64(1))
            wake(counts, np.int64(1))
            assert sleeper.result() >= 0


def test_nobody_sleeps_on_a_number_that_has_changed() -> None:
    counts = np.array([0, 6 + 2**32], np.int64)
    compiled_call(memory.sleep_while, 3)(counts, np.int64(1), np.int64(5))
    compiled_call(memory.wake, 2)(counts, np.int64(0))
