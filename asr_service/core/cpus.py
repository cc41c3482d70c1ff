"""Says which CPUs this process may use: those it may run on, within the quota of its container."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asr_service.core.cgroups import PROCESS, groups

_DEVICES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Cpus:
    """What a process may use of a machine's processors.

    Attributes:
        cores: processors that it may run on.
        quota: CPU seconds a second that its container may take; None for any number.
    """

    cores: int
    quota: float | None

    @property
    def threads(self) -> int:
        """How many threads can run at the same time, on and on; at least 1.

        A fraction of a CPU is left to the packets. A thread more would take the quota before its period (0.1 s) is
        over, and for the rest of that the kernel stops the whole container.
        """
        whole = self.cores if self.quota is None else int(self.quota)
        return max(1, min(self.cores, whole))

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        return cores if self.quota is None else f"{cores}, a quota of {self.quota:g} CPUs"


def usable_cpus(process: Path = PROCESS) -> Cpus:
    """Returns what this process may use; see `cgroups.groups` for `process`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cpus(cores, cpu_quota(process))


def usable_cores(devices: Path = _DEVICES) -> tuple[tuple[int, ...], ...]:
    """Returns the numbers of the CPUs that this process may run on, those of a core together.

    A core with two hardware threads is two CPUs, whose numbers may lie far apart. Cores come in the order in which they
    lie in the machine: those of a socket one after another.

    Args:
        devices: the folder that describes the machine's CPUs.

    Returns:
        A core's CPUs, for each core; empty on a system that binds no process to CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_core_of(devices / f"cpu{cpu}" / "topology", cpu), []).append(cpu)
    return tuple(tuple(cores[core]) for core in sorted(cores))


def _core_of(topology: Path, cpu: int) -> tuple[int, int]:
    """Returns a CPU's socket and the first CPU of its core; a CPU that nothing is known of is a core by itself."""
    try:
        siblings = (topology / "thread_siblings_list").read_text()
        return int((topology / "physical_package_id").read_text()), int(re.split("[,-]", siblings)[0])
    except (OSError, ValueError):
        return 0, cpu


def cpu_quota(process: Path = PROCESS) -> float | None:
    """Returns how many CPU seconds a second this process's control groups allow it: the least of them.

    Args:
        process: see `cgroups.groups`.

    Returns:
        The quota; None without one, and on other systems.
    """
    quotas = []
    for group in groups("cpu", process):
        # Without a quota these are no numbers or negative ones, or there are no such files.
        with suppress(OSError, ValueError):
            if group.version == 2:
                allowed, period = map(int, (group.folder / "cpu.max").read_text().split())
            else:
                allowed = int((group.folder / "cpu.cfs_quota_us").read_text())
                period = int((group.folder / "cpu.cfs_period_us").read_text())
            if allowed > 0 and period > 0:
                quotas.append(allowed / period)
    return min(quotas, default=None)
