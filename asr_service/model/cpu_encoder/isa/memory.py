"""Memory as compiled loops see it: numbers at addresses, prefetches, counters that threads share.

The functions are Numba intrinsics: they check nothing.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

CACHE_LINE = 64
"""Bytes."""
BYTE_POINTER = ir.IntType(8).as_pointer()
_HALF_WORD, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_COUNT_BYTES = 8
# Linux's number of the system call futex(2), by processor.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
# Its operations between threads of one process.
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129
_ALL_WAITERS = 2**31 - 1
# Arguments of LLVM's prefetch: read access; into all cache levels but the first; data.
_READ, _SECOND_LEVEL, _DATA = 0, 2, 1


def emit_prefetch(builder: Any, pointer: Any) -> None:
    """Asks for the cache line at a pointer, for reading, into all cache levels but the first."""
    kind = ir.FunctionType(ir.VoidType(), [BYTE_POINTER, _WORD, _WORD, _WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _WORD(_READ), _WORD(_SECOND_LEVEL), _WORD(_DATA)])


def _element(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to array[index]."""
    memory = context.make_array(array_type)(context, builder, array)
    return builder.gep(memory.data, [index])


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Asks for the cache line at an address, int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit_prefetch(builder, builder.inttoptr(arguments[0], BYTE_POINTER))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def prefetch_element(typing_context: Any, array: Any, index: Any) -> Any:
    """Asks for the cache line that holds array[index], array being one-dimensional and contiguous."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], *arguments)
        emit_prefetch(builder, builder.bitcast(pointer, BYTE_POINTER))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def bfloat16_at(typing_context: Any, address: Any) -> Any:
    """The bfloat16 number at an address as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        half = builder.load(builder.inttoptr(arguments[0], _HALF_WORD.as_pointer()), align=2)
        return builder.bitcast(builder.shl(builder.zext(half, _WORD), _WORD(16)), _FLOAT)

    return types.float32(types.int64), generate


@intrinsic
def float32_at(typing_context: Any, address: Any) -> Any:
    """The float32 number at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _FLOAT.as_pointer()), align=4)

    return types.float32(types.int64), generate


@intrinsic
def set_float32(typing_context: Any, address: Any, value: Any) -> Any:
    """Writes a float32 number to an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], _FLOAT.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def atomic_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value as one atomic operation; the value before. The array is one-dimensional, int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        pointer = _element(context, builder, signature.args[0], array, index)
        return builder.atomic_rmw("add", pointer, value, "seq_cst")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def atomic_load(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index], read so that what other threads wrote before it is seen too."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "acquire", _COUNT_BYTES)

    return types.int64(array, types.int64), generate


@intrinsic
def sleep_while(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Gives the core away until `wake` is called for array[index], or at once if that is not `value`, int64, any more.

    It may return earlier: the caller looks again. Where the system has no such wait, the core is offered once.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        pointer = _element(context, builder, signature.args[0], array, index)
        _emit_futex(builder, pointer, _FUTEX_WAIT, builder.trunc(value, _WORD))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def wake(typing_context: Any, array: Any, index: Any) -> Any:
    """Wakes all threads that sleep until array[index] changes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _element(context, builder, signature.args[0], *arguments)
        _emit_futex(builder, pointer, _FUTEX_WAKE, _WORD(_ALL_WAITERS))
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def _emit_futex(builder: Any, pointer: Any, operation: int, value: Any) -> None:
    """Calls futex(2), with no time limit, on the lower half of the int64 at a pointer: the first on both processors."""
    if _FUTEX is None:
        offer = ir.FunctionType(_WORD, [])
        builder.call(cgutils.get_or_insert_function(builder.module, offer, "sched_yield"), [])
        return
    kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)], var_arg=True)
    function = cgutils.get_or_insert_function(builder.module, kind, "syscall")
    none = ir.Constant(BYTE_POINTER, None)
    builder.call(function, [ir.IntType(64)(_FUTEX), pointer, _WORD(operation), value, none])
