"""How many slots of state to make where nobody says how many streams to hold: as many as the probe may find, as far as
memory goes."""

from __future__ import annotations

import re
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
    return slots_in(_free_memory(), HOST_SHARE)


def _free_memory() -> int | None:
    """Bytes of memory this process may still take: what the machine has available, within the container's limit."""
    found = []
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        found.append(1024 * int(available[1]) if available else 0)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # another system, or no limit
    return min((amount for amount in found if amount > 0), default=None)
