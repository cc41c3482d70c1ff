"""Which instruction sets a run of the tests has seen: compiled code is made for the processor it runs on."""

from __future__ import annotations

from pathlib import Path

NO_TILES = "this CPU has no bfloat16 tiles: emulated only"
"""Why tests on the processor's tiles are skipped."""
_SETS = {"avx2": "avx2", "avx512": "avx512f", "amx": "amx_bf16"}


def instruction_sets(skipped: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """One line for the end of a run, in which so many tests were skipped because of `NO_TILES`."""
    try:
        flags = set(cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return "instruction sets: unknown, no /proc/cpuinfo"
    there = ", ".join(f"{name} {'yes' if flag in flags else 'no'}" for name, flag in _SETS.items())
    if skipped:
        there += f" ({skipped} tests skipped, their like ran on emulated tiles)"
    return f"instruction sets: {there}"
