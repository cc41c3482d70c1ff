"""How many slots of state to make where nobody says how many streams to hold: as many as the probe may find, as far as
memory goes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

MOST_SLOTS = 512
SLOT_BYTES = 8 * 2**20
"""Bound on a slot's state: the default model takes 6.2 MB in fp32 (docs/performance.md)."""
HOST_SHARE = 0.25
"""Of the host's free memory that slots may take: others live there too."""
DEVICE_SHARE = 0.5
"""Of a GPU's, which is the model's alone; the rest is for steps."""


def slots_in(free: int | None, share: float) -> int:
    """Slots that take at most this share of so many free bytes, from 1 to `MOST_SLOTS`; those if nobody knows."""
    return MOST_SLOTS if free is None else max(1, min(MOST_SLOTS, int(free * share / SLOT_BYTES)))


def host_slots() -> int:
    """Slots for a model on the CPU."""
    return slots_in(free_memory(), HOST_SHARE)


def free_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory this process may still take: what the machine has available, within the container's limit.

    Of what a container has taken, the kernel gives up files that were read and are not in use (`inactive_file`), such
    as a model's, before it refuses memory.

    Args:
        meminfo: of the machine, as proc(5) describes it.
        group: of the container, as the kernel's documentation of control groups v2 describes it.

    Returns:
        None on another system.
    """
    found = []
    with suppress(OSError, ValueError):
        found.append(1024 * _line("MemAvailable:", meminfo))
    with suppress(OSError, ValueError):  # there is no limit
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text()) - _line("inactive_file", group / "memory.stat")
        found.append(max(0, limit - used))
    return min(found, default=None)


def _line(name: str, file: Path) -> int:
    """The number after this name. Raises ValueError if there is none."""
    for line in file.read_text().splitlines():
        if line.startswith(name + " "):
            return int(line.split()[1])
    raise ValueError(f"{file} has no {name}")
