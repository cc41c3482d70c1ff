from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asr_service.core.cpus import Cpus, cpu_quota, usable_cores, usable_cpus
from tests.support.control_groups import ControlGroups, write


@pytest.fixture
def machine(tmp_path: Path) -> ControlGroups:
    return ControlGroups(tmp_path)


@pytest.mark.parametrize(
    ("content", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("4000 8000", 0.5), ("", None)]
)
def test_a_quota_of_version_2(machine: ControlGroups, content: str, quota: float | None) -> None:
    write(machine.mount_v2("/"), cpu_max=content)
    assert cpu_quota(machine.process) == quota


@pytest.mark.parametrize(("allowed", "quota"), [(300_000, 3.0), (-1, None), (0, None)])
def test_a_quota_of_version_1(machine: ControlGroups, allowed: int, quota: float | None) -> None:
    group = machine.mount_v1("cpu,cpuacct", "/docker/1f", root="/docker/1f")
    write(group, cpu_cfs_quota_us=allowed, cpu_cfs_period_us=100_000)
    assert cpu_quota(machine.process) == quota


def test_the_least_quota_of_all_groups_counts(machine: ControlGroups) -> None:
    """The file of the topmost group is not there: the kernel makes none for it."""
    place = machine.mount_v2("/pods/pod/container")
    write(place / "pods/pod/container", cpu_max="max 100000")
    write(place / "pods/pod", cpu_max="200000 100000")
    write(place / "pods", cpu_max="800000 100000")
    assert cpu_quota(machine.process) == 2.0
    write(place / "pods/pod/container", cpu_max="50000 100000")
    assert cpu_quota(machine.process) == 0.5


def test_without_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [(8, None, 8), (8, 1.0, 1), (8, 1.5, 1), (8, 2.9, 2), (8, 0.3, 1), (2, 16.0, 2), (1, None, 1)],
)
def test_threads_are_the_whole_cpus_of_the_quota_within_the_cores(
    cores: int, quota: float | None, threads: int
) -> None:
    assert Cpus(cores, quota).threads == threads


def test_it_says_what_there_is() -> None:
    assert str(Cpus(1, None)) == "1 core"
    assert str(Cpus(8, 1.5)) == "8 cores, a quota of 1.5 CPUs"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_cores_are_those_that_the_process_may_run_on(machine: ControlGroups) -> None:
    """In a process of its own, which keeps itself to one core."""
    program = (
        "import os, pathlib, sys\n"
        "from asr_service.core.cpus import usable_cpus\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(usable_cpus(pathlib.Path(sys.argv[1])), 'torch' in sys.modules)\n"
    )
    argv = [sys.executable, "-c", program, str(machine.process)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "1 core False\n"


def describe(devices: Path, *, socket: int, siblings: str) -> None:
    """Describes the CPUs of a core, written as Linux does: "0,4" or "0-1"."""
    for cpu in siblings.replace("-", ",").split(","):
        topology = devices / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings}\n")
        (topology / "physical_package_id").write_text(f"{socket}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
@pytest.mark.parametrize(
    ("described", "allowed", "cores"),
    [
        # Numbered core by core; all first threads before all second ones; in turns over two sockets; not described.
        ([(0, "0-1"), (0, "2-3")], {0, 1, 2, 3}, ((0, 1), (2, 3))),
        ([(0, "0,2"), (0, "1,3")], {0, 1, 2, 3}, ((0, 2), (1, 3))),
        ([(0, "0,4"), (1, "1,5"), (0, "2,6"), (1, "3,7")], set(range(8)), ((0, 4), (2, 6), (1, 5), (3, 7))),
        ([], {0, 1, 5}, ((0,), (1,), (5,))),
        # Some belong to others.
        ([(0, "0,2"), (0, "1,3")], {1, 2, 3}, ((2,), (1, 3))),
    ],
)
def test_cores_are_told_in_the_order_in_which_they_lie(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    described: list[tuple[int, str]],
    allowed: set[int],
    cores: tuple[tuple[int, ...], ...],
) -> None:
    for socket, siblings in described:
        describe(tmp_path, socket=socket, siblings=siblings)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: allowed)
    assert usable_cores(tmp_path) == cores


def test_this_machine_can_be_asked() -> None:
    assert usable_cpus().threads >= 1
    cpus = sorted(cpu for core in usable_cores() for cpu in core)
    assert sys.platform != "linux" or len(cpus) == usable_cpus().cores
