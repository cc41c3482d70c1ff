"""Kinds of processors that machine code can be made for ahead of time, and which of them a processor is.

Code for the very processor that it is made on is the rule. An image cannot know where it will run: it has code for each
of these kinds, and a process takes that of the most able one whose every instruction its processor has.

Standard library only: a start asks before a compiler is imported.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

CPU_INFO = Path("/proc/cpuinfo")
# arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) of Linux on x86-64.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_TILES = frozenset({"amx_tile", "amx_bf16"})


class Kind(NamedTuple):
    """Processors with the same instructions.

    Attributes:
        name: in options, in logs, and of the files that say that its code is complete.
        cpu: what LLVM calls it.
        features: instructions that LLVM is to use beyond those, as LLVM writes them.
        flags: what Linux lists of a processor that has all of its instructions.
    """

    name: str
    cpu: str
    features: str
    flags: frozenset[str]

    @property
    def has_tiles(self) -> bool:
        """Whether it has a unit for products on tiles."""
        return self.flags >= _TILES

    @property
    def has_bf16(self) -> bool:
        """Whether a library's products in bfloat16 run on it."""
        return self.flags >= _V4


# What the levels of the x86-64 ABI consist of, by Linux's names: abm is LZCNT, pni is SSE3.
_V2 = frozenset("cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3".split())
_V3 = _V2 | frozenset("abm avx avx2 bmi1 bmi2 f16c fma movbe xsave".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
KINDS = (
    Kind("x86-64-v4-amx", "x86-64-v4", "+amx-tile,+amx-bf16", _V4 | _TILES),
    Kind("x86-64-v4", "x86-64-v4", "", _V4),
    Kind("x86-64-v3", "x86-64-v3", "", _V3),
)
"""The most able one first."""


def kind_of_processor() -> Kind | None:
    """Returns the most able kind that the processor of this process is of; None if it is of none of them."""
    if platform.machine() != "x86_64":
        return None
    flags = processor_flags()
    for kind in KINDS:
        if kind.flags <= flags and (has_tiles() or not kind.has_tiles):
            return kind
    return None


@cache
def processor_flags() -> frozenset[str]:
    """Returns what Linux lists of the first processor; those of a machine are taken to be alike."""
    try:
        return frozenset(CPU_INFO.read_text().partition("\nflags")[2].partition("\n")[0].split())
    except OSError:
        return frozenset()


@cache
def has_tiles() -> bool:
    """Whether this process may use bfloat16 tiles; asks the kernel for the permission (Linux 5.16)."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    if not (_TILES | {"avx512f"}) <= processor_flags():
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0
