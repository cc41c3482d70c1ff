"""Calls Numba's intrinsics, which only compiled code can."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from asr_service.model.cpu_encoder.compiling import Array


@cache
def compiled_call(intrinsic: Any, arguments: int) -> Callable[..., Any]:
    """A function of so many arguments that does nothing but call the intrinsic."""
    names = ", ".join(f"a{n}" for n in range(arguments))
    scope = {"intrinsic": intrinsic}
    exec(f"def call({names}):\n    return intrinsic({names})", scope)  # Numba takes no *arguments here
    return njit(scope["call"])  # type: ignore[no-any-return, call-overload]


def call(intrinsic: Any, *arguments: Any) -> Any:
    """Calls an intrinsic; arrays become their addresses."""
    plain = [np.int64(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    return compiled_call(intrinsic, len(plain))(*plain)


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that begin at a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, dtype=np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(dtype).reshape(shape)


def to_bfloat16(x: Array) -> Array:
    """float32 to bfloat16 in uint16, to nearest even: the definition, in 64 bits."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(x: Array) -> Array:
    """uint16 to the float32 of which it is the upper half."""
    return (np.ascontiguousarray(x).astype(np.uint32) << 16).view(np.float32)


def many_magnitudes(*shape: int) -> Array:
    """float32 numbers of both signs from 1e-6 to 1e3."""
    rng = np.random.default_rng(11)
    return (rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 3, shape)).astype(np.float32)
