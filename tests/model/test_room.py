"""How much memory slots may take, from the files in which Linux tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_service.model.slot_budget import HOST_SHARE, MOST_SLOTS, SLOT_BYTES, free_memory, slots_in
from tests.support.control_groups import ControlGroups, write

GIB = 2**30
LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
"""By the version of control groups."""


class Machine:
    """A machine with 8 GiB available, and a container on it."""

    def __init__(self, folder: Path, version: int) -> None:
        self.meminfo = folder / "meminfo"
        self.meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
        self._control = ControlGroups(folder)
        self.version = version
        self.group = self._control.mount_v2("/") if version == 2 else self._control.mount_v1("memory", "/")
        self.limit("max" if version == 2 else 9223372036854771712, 5 * GIB, 0)

    def limit(self, limit: object, used: int, cached: int) -> None:
        """Sets the container's limit, what it uses of that, and how much of this are files not in use."""
        stat = f"anon 1\nfile 2\nactive_anon 7\ninactive_file {cached}\nactive_file 9"
        if self.version == 2:
            write(self.group, memory_max=limit, memory_current=used, memory_stat=stat)
        else:
            # `inactive_file` is of the group alone, without those below it.
            stat += f"\ntotal_inactive_file {cached}"
            stat = stat.replace(f"\ninactive_file {cached}", "\ninactive_file 0")
            write(self.group, memory_limit_in_bytes=limit, memory_usage_in_bytes=used, memory_stat=stat)

    def free(self) -> int | None:
        return free_memory(self.meminfo, self._control.process)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    return Machine(tmp_path, request.param)


def test_without_a_limit_it_is_what_the_machine_has_available(machine: Machine) -> None:
    assert machine.free() == 8 * GIB


@pytest.mark.parametrize(
    ("limit", "used", "cached", "free"),
    [
        (4 * GIB, GIB, 0, 3 * GIB),
        (4 * GIB, 4 * GIB, 3 * GIB, 3 * GIB),  # full of a file that was read once: the kernel gives it up
        (4 * GIB, 4 * GIB, 0, 0),
        (4 * GIB, 4 * GIB + 4096, 0, 0),
        (32 * GIB, GIB, 0, 8 * GIB),
    ],
)
def test_a_container_has_what_its_limit_leaves(
    machine: Machine, limit: int, used: int, cached: int, free: int
) -> None:
    machine.limit(limit, used, cached)
    assert machine.free() == free


def test_what_cannot_be_read_bounds_nothing(machine: Machine) -> None:
    (limit,) = machine.group.glob(
        "memory.*max" if (machine.group / "memory.max").exists() else "memory.limit*"
    )
    limit.unlink()
    assert machine.free() == 8 * GIB
    machine.meminfo.unlink()
    assert machine.free() is None
    machine.limit(4 * GIB, GIB, 0)
    assert machine.free() == 3 * GIB
    (machine.group / "memory.stat").unlink()
    assert machine.free() is None


@pytest.mark.parametrize("sharers", [1, 2, 3, 7, 64])
def test_engines_that_start_together_take_no_more_than_one_would(machine: Machine, sharers: int) -> None:
    """None of them sees yet what the others take."""
    each = slots_in(machine.free(), HOST_SHARE, SLOT_BYTES, MOST_SLOTS, sharers)
    alone = slots_in(machine.free(), HOST_SHARE, SLOT_BYTES, MOST_SLOTS)
    assert sharers * each <= alone < sharers * (each + 1)
