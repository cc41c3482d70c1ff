from __future__ import annotations

from pathlib import Path

import pytest

from asr_service.core.cgroups import Group, groups
from tests.support.control_groups import ControlGroups


@pytest.fixture
def machine(tmp_path: Path) -> ControlGroups:
    """Its folder has a space in its name, which the kernel writes in another way."""
    folder = tmp_path / "a machine"
    folder.mkdir()
    return ControlGroups(folder)


def test_a_process_is_in_its_group_and_in_those_above(machine: ControlGroups) -> None:
    place = machine.mount_v2("/system.slice/asr.service")
    assert groups("cpu", machine.process) == [
        Group(2, place / "system.slice/asr.service"),
        Group(2, place / "system.slice"),
        Group(2, place),
    ]


@pytest.mark.parametrize("path", ["/", "/docker/1f", "/../1f"])
def test_a_container_sees_its_group_as_the_mount(machine: ControlGroups, path: str) -> None:
    """Docker's three ways: a namespace of its own, the host's paths, and a process that came from outside."""
    place = machine.mount_v1("cpu,cpuacct", path, root="/docker/1f" if path == "/docker/1f" else "/..")
    assert groups("cpu", machine.process) == [Group(1, place)]


def test_controllers_of_version_1_have_groups_of_their_own(machine: ControlGroups) -> None:
    cpu = machine.mount_v1("cpu,cpuacct", "/busy")
    memory = machine.mount_v1("memory", "/large")
    # A machine of both versions.
    both = machine.mount_v2("/")
    assert groups("cpu", machine.process) == [Group(1, cpu / "busy"), Group(1, cpu), Group(2, both)]
    assert groups("memory", machine.process) == [Group(1, memory / "large"), Group(1, memory), Group(2, both)]
    assert groups("cpuset", machine.process) == [Group(2, both)]


@pytest.mark.parametrize("name", [b"caf\xe9", "a\u2028b".encode(), b"a\x0bb"])
def test_other_mounts_may_have_any_name(machine: ControlGroups, name: bytes) -> None:
    with (machine.process / "mountinfo").open("ab") as file:
        file.write(b"40 23 0:40 / /mnt/" + name + b" rw - ext4 /dev/sda rw\n")
    place = machine.mount_v2("/")
    assert groups("cpu", machine.process) == [Group(2, place)]


def test_another_system_has_none(tmp_path: Path) -> None:
    assert groups("cpu", tmp_path / "self") == []


def test_a_process_without_groups_has_none(machine: ControlGroups) -> None:
    (machine.process / "cgroup").write_text("")
    assert groups("cpu", machine.process) == []
