"""Folders that look like Linux's control groups to a process in a container."""

from __future__ import annotations

from pathlib import Path


class ControlGroups:
    """Writes what a process reads about its control groups.

    Attributes:
        process: stands for /proc/self.
        mounts: stands for /sys/fs/cgroup.
    """

    def __init__(self, folder: Path) -> None:
        self.process, self.mounts = folder / "self", folder / "groups"
        self.process.mkdir()
        self.mounts.mkdir()
        self._add("mountinfo", "22 27 0:21 / /proc rw,relatime - proc proc rw")

    def mount_v2(self, path: str, root: str = "/") -> Path:
        """Lets the process be in the group `path` of version 2, group `root` lying at the mount; returns the mount."""
        self._add("cgroup", f"0::{path}")
        return self._mount("unified", root, "cgroup2 cgroup2 rw,nsdelegate")

    def mount_v1(self, controllers: str, path: str, root: str = "/") -> Path:
        """The same in version 1, with the controllers of one mount, such as `cpu,cpuacct`."""
        self._add("cgroup", f"{len(controllers)}:{controllers}:{path}")
        return self._mount(controllers, root, f"cgroup cgroup rw,{controllers}")

    def _mount(self, name: str, root: str, system: str) -> Path:
        place = self.mounts / name
        place.mkdir()
        self._add("mountinfo", f"31 23 0:28 {root} {_escaped(place)} rw,relatime shared:9 - {system}")
        return place

    def _add(self, name: str, line: str) -> None:
        with (self.process / name).open("a") as file:
            file.write(f"{line}\n")


def write(group: Path, **files: object) -> None:
    """Writes files of a group, made if it is not there; `cpu_max="..."` is the file `cpu.max`."""
    group.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (group / name.replace("_", ".", 1)).write_text(f"{content}\n")


def _escaped(path: Path) -> str:
    return str(path).replace(" ", r"\040")
