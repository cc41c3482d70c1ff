"""The project as others install it: its wheels, made of the files in the repository, in environments of their own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.process import PATIENCE_S, clean_environment

UV = str(Path(sys.executable).with_name("uv"))


def build(source: Path, folder: Path) -> Path:
    """Makes a wheel as `python -m build` does, out of a source distribution, with the build tools that are here.

    Args:
        source: of the project.
        folder: for all that is made.

    Returns:
        The wheel.
    """
    copy, made = folder / "source", folder / "dist"
    # What is or would be committed: building leaves folders beside the sources.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).exists():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / name).read_bytes())
    _uv("build", "--no-build-isolation", "--out-dir", made, copy)
    (wheel,) = made.glob("*.whl")
    return wheel


class Environment:
    """An environment of a wheel and of what its metadata ask for: links to what this Python's own environment has."""

    def __init__(self, folder: Path, wheel: Path, *extras: str) -> None:
        """Makes it.

        Args:
            folder: for the environment.
            wheel: to install.
            extras: of the wheel.
        """
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self._variables = clean_environment()
        del self._variables["PYTHONPATH"]
        (site,) = folder.glob("lib/python3.*/site-packages")
        for entry in _entries(_needed(_metadata(wheel), set(extras))):
            (site / entry.name).symlink_to(entry)
        _uv("pip", "install", "--no-deps", "--link-mode", "copy", "--python", self.program("python"), wheel)

    def program(self, name: str) -> Path:
        """Gives the path of one of its programs."""
        return self.folder / "bin" / name

    def variables(self, **settings: object) -> dict[str, str]:
        """Gives the variables that its programs are started with: the settings, and nothing of the repository."""
        return self._variables | {name: str(value) for name, value in settings.items()}

    def run(self, name: str, *arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs to its end, in its folder."""
        return subprocess.run(
            [str(self.program(name)), *map(str, arguments)],
            cwd=self.folder,
            env=self.variables(**settings),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


def _uv(*arguments: object) -> None:
    command = [UV, arguments[0], "--quiet", "--offline", *arguments[1:]]
    if arguments[0] == "pip":
        command = [UV, "pip", arguments[1], "--quiet", "--offline", *arguments[2:]]
    environment = {**os.environ, "UV_PYTHON": sys.executable}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _metadata(wheel: Path) -> list[str]:
    """What a wheel asks for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def _needed(requirements: Iterable[str], extras: set[str]) -> dict[str, importlib.metadata.Distribution]:
    """Installed distributions by name: those that are asked for here, and what they ask for in turn."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()

    def add(wanted: Iterable[str], extras: frozenset[str]) -> None:
        for requirement in map(Requirement, wanted):
            marker = requirement.marker
            if marker is not None and not any(
                marker.evaluate({"extra": extra}) for extra in (extras or {""})
            ):
                continue
            name = canonicalize_name(requirement.name)
            step = (name, frozenset(requirement.extras))
            if step not in seen:
                seen.add(step)
                found[name] = importlib.metadata.distribution(name)
                add(found[name].requires or [], step[1])

    add(requirements, frozenset(extras))
    return found


def _entries(distributions: dict[str, importlib.metadata.Distribution]) -> set[Path]:
    """Files and folders of distributions at the top of the environment's packages."""
    entries = set()
    for distribution in distributions.values():
        top = Path(str(distribution.locate_file("")))
        names = {
            path.parts[0] for path in distribution.files or [] if path.parts[0] not in ("..", "__pycache__")
        }
        entries |= {top / name for name in names if not name.endswith(".pth")}
    return entries
