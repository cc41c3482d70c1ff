"""Works out how many slots of state to make where `ASR_MAX_STREAMS` is not set.

The number is an upper bound, as far as memory goes: how many streams the machine sustains is measured while it serves.
Engines that share a memory each take their part of it, since they are made at the same time: what is free then is free
for all of them.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from asr_service.core.cgroups import PROCESS, groups

MOST_SLOTS = 512
"""Most slots on a host, whose cores step a few hundred streams at most."""
MOST_DEVICE_SLOTS = 8192
"""Most slots on a GPU."""
SLOT_BYTES = 8 * 2**20
"""Bound on a slot's state where no model says it: the default model takes 6.2 MB in fp32 (docs/performance.md)."""
HOST_SHARE = 0.25
"""Share of the host's free memory that slots may take: other programs need memory too."""
DEVICE_SHARE = 0.5
"""Share of a GPU's free memory that slots may take: the GPU is the service's alone, the rest is for steps, and for the
weights of engines that are still to come."""
# By the version of control groups: the files of the limit and of what is taken, and the line of `memory.stat` that says
# how much of that are files which are not in use, those of the groups below included.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def slots_in(
    free: int | None, share: float, slot_bytes: int = SLOT_BYTES, most: int = MOST_SLOTS, sharers: int = 1
) -> int:
    """Returns how many slots fit into an engine's share of the free memory.

    Args:
        free: bytes that are free, None if that is not known.
        share: of the free bytes that slots may take.
        slot_bytes: bytes of a slot's state.
        most: slots to make at most.
        sharers: engines that share these bytes.

    Returns:
        From 1 to `most`; `most` if the free memory is not known.
    """
    return most if free is None else max(1, min(most, int(free * share / sharers / slot_bytes)))


def host_slots(slot_bytes: int = SLOT_BYTES, sharers: int = 1) -> int:
    """Returns how many slots of so many bytes to make for a model on the CPU, as one of so many engines there."""
    return slots_in(free_memory(), HOST_SHARE, slot_bytes, sharers=sharers)


def free_memory(meminfo: Path = Path("/proc/meminfo"), process: Path = PROCESS) -> int | None:
    """Returns how many bytes of memory this process may still take: those of the machine, within its container's limit.

    Of the memory that a container has taken, the kernel gives up files that were read and are not in use
    (`inactive_file`), such as a model's, before it refuses memory.

    Args:
        meminfo: of the machine, as proc(5) describes it.
        process: see `cgroups.groups`.

    Returns:
        The bytes; None on another system.
    """
    bounds = []
    with suppress(OSError, ValueError):
        bounds.append(1024 * _read_number("MemAvailable:", meminfo))
    for group in groups("memory", process):
        # Without a limit these are no numbers, or more bytes than there are, or there are no such files.
        with suppress(OSError, ValueError):
            limit, used, unused_files = _FILES[group.version]
            taken = int((group.folder / used).read_text())
            taken -= _read_number(unused_files, group.folder / "memory.stat")
            bounds.append(max(0, int((group.folder / limit).read_text()) - taken))
    return min(bounds, default=None)


def _read_number(name: str, file: Path) -> int:
    """Reads the number that stands after a name in a file. Raises ValueError if there is none."""
    for line in file.read_text().splitlines():
        if line.startswith(name + " "):
            return int(line.split()[1])
    raise ValueError(f"{file} has no {name}")
