"""How much memory slots may take, from the files in which Linux tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_service.model.slot_budget import free_memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with 8 GiB available, and a container without a limit."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    limited(tmp_path, "max", 5 * GIB, 0)
    return tmp_path


def limited(machine: Path, limit: object, used: int, cached: int) -> None:
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.current").write_text(f"{used}\n")
    (machine / "memory.stat").write_text(
        f"anon 1\nfile 2\nactive_anon 7\ninactive_file {cached}\nactive_file 9\n"
    )


def found(machine: Path) -> int | None:
    return free_memory(machine / "meminfo", machine)


def test_without_a_limit_it_is_what_the_machine_has_available(machine: Path) -> None:
    assert found(machine) == 8 * GIB


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
    machine: Path, limit: int, used: int, cached: int, free: int
) -> None:
    limited(machine, limit, used, cached)
    assert found(machine) == free


def test_what_cannot_be_read_bounds_nothing(machine: Path) -> None:
    (machine / "memory.max").unlink()
    assert found(machine) == 8 * GIB
    (machine / "meminfo").unlink()
    assert found(machine) is None
    limited(machine, 4 * GIB, GIB, 0)
    assert found(machine) == 3 * GIB
    (machine / "memory.stat").unlink()
    assert found(machine) is None
