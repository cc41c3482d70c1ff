"""Threads that go through a list of phases together, for loops compiled by Numba.

A phase is a number of items that may be done in any order by any thread; no thread goes on to the next phase before
all items are done. Threads claim items from a counter, so a thread that the operating system takes away for a while,
or that never comes, only leaves more items to the others: nothing waits for a thread that has claimed nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from asr_service.model.cpu_encoder.kernels.rows import Array

LINE = 8
"""int64 values in a cache line: counters lie a line apart."""
_PATIENCE = 2000  # looks at a counter before the thread offers its core to others


def counters(phases: int) -> Array:
    """Two counters for each phase, int64 [2, phases, LINE]: claimed and done. Zero before each run."""
    return np.zeros((2, phases, LINE), dtype=np.int64)


@intrinsic
def _add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value as one atomic operation; the value before. The array is one-dimensional, int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", builder.gep(memory.data, [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def _look(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index], read so that what other threads wrote before it is seen too."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load_atomic(builder.gep(memory.data, [arguments[1]]), "acquire", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def _yield(typing_context: Any) -> Any:
    """sched_yield."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, cache=True)
def claim(counts, phase):  # type: ignore[no-untyped-def]
    """The next item of a phase; as many as there are, or more, when none is left."""
    return _add(counts.reshape(-1), np.int64(phase * LINE), np.int64(1))


@njit(nogil=True, cache=True)
def done(counts, phase, items):  # type: ignore[no-untyped-def]
    """Says that so many items of a phase are done."""
    _add(counts.reshape(-1), np.int64((counts.shape[1] + phase) * LINE), np.int64(items))


@njit(nogil=True, cache=True)
def wait(counts, phase, items):  # type: ignore[no-untyped-def]
    """Returns when all items of a phase are done."""
    flat, place = counts.reshape(-1), np.int64((counts.shape[1] + phase) * LINE)
    looks = 0
    while _look(flat, place) < items:
        looks += 1
        if looks > _PATIENCE:
            _yield()
            looks = 0
