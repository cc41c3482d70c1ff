"""Finds the control groups of this process, in which Linux keeps the limits of a container, in both of their versions.

A process is bound by its own group and by each group above that. Which file holds a limit depends on the version: the
kernel's documentation, admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")
"""Where Linux tells a process about itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group.

    Attributes:
        version: of its files, 1 or 2.
        folder: where these lie.
    """

    version: int
    folder: Path


def groups(controller: str, process: Path = PROCESS) -> list[Group]:
    """Returns the groups that may limit a resource for this process: its own, and those above as far as they are seen.

    Args:
        controller: "cpu" or "memory", say.
        process: a folder with the files `cgroup` and `mountinfo`, as proc(5) and cgroups(7) describe them.

    Returns:
        None, one, or many of either version. Not each has a limit, or files that say so; none on other systems.
    """
    found = []
    with suppress(OSError):
        paths = _paths(controller, _read_lines(process / "cgroup"))
        for version, root, place in _mounts(controller, _read_lines(process / "mountinfo")):
            if version not in paths:
                continue
            own = place / _inside(paths[version], root)
            above = [folder for folder in own.parents if folder.is_relative_to(place)]
            found += [Group(version, folder) for folder in (own, *above)]
    return found


def _read_lines(file: Path) -> list[str]:
    """Reads lines with names of files, which may hold any byte but zero."""
    return [line for line in os.fsdecode(file.read_bytes()).split("\n") if line]


def _paths(controller: str, lines: Sequence[str]) -> dict[int, PurePosixPath]:
    """Reads the path of the process's group by version, from lines such as `4:cpu,cpuacct:/docker/1f` and `0::/`."""
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths[2] = PurePosixPath(path)
        elif controller in controllers.split(","):
            paths[1] = PurePosixPath(path)
    return paths


def _mounts(controller: str, lines: Sequence[str]) -> list[tuple[int, PurePosixPath, Path]]:
    """Reads where groups can be seen: the version, which group lies at the place, and the place."""
    found = []
    for line in lines:
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        root, place = (re.sub(r"\\(\d{3})", _character, field) for field in mount.split(" ")[3:5])
        if kind == "cgroup2":
            found.append((2, PurePosixPath(root), Path(place)))
        elif kind == "cgroup" and controller in options.split(","):
            found.append((1, PurePosixPath(root), Path(place)))
    return found


def _character(escape: re.Match[str]) -> str:
    """Returns the character that `mountinfo` writes as a backslash and an octal number: a space is one."""
    return chr(int(escape[1], 8))


def _inside(path: PurePosixPath, root: PurePosixPath) -> PurePosixPath:
    """Returns the place of a group within a mount whose root is another; the mount itself where it is not below that.

    A container sees its own group as the mount, while its path may be told as the host sees it, or with dots.
    """
    if ".." in path.parts or not path.is_relative_to(root):
        return PurePosixPath()
    return path.relative_to(root)
