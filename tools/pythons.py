"""Runs a part of the tests with each Python that the service is for: `make test-pythons`.

    .venv/bin/python tools/pythons.py [VERSION ...] [-- ARGUMENT OF PYTEST ...]

The oldest release that pyproject.toml asks for, and one of each minor version that it names, the newest that is found:
on the PATH, in pyenv's folder, or among uv's own, which fetches what is missing where it can reach the releases. An
environment of each, with all pins, lies in build/pythons and is kept. What was not found is told, and is no failure:
that nothing was found is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "pythons"
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-dev.lock")
UV = (sys.executable, str(ROOT / "tools" / "run_uv.py"))
PART = (
    *("tests/unit/asr_common", "tests/unit/core", "tests/unit/api", "tests/unit/app", "tests/unit/engine"),
    *("tests/unit/sessions", "tests/unit/recognition", "tests/unit/ws_bridge", "tests/unit/clients"),
    *("tests/unit/model", "tests/model/test_golden.py", "tests/model/test_random_file.py"),
    *("tests/e2e/test_grpc_streams.py", "tests/e2e/test_grpc_life.py", "tests/e2e/test_bridge_exchange.py"),
    *("tests/e2e/test_compressed.py", "tests/e2e/test_demo_model.py", "tests/e2e/test_installed.py"),
)
"""What runs unless arguments say otherwise: values and parsers, the compiled step, NeMo's reference, real servers."""
ASKED = "import json, sys; print(json.dumps([list(sys.version_info[:3]), sys.implementation.name]))"
FETCH_S = 600.0
"""Longest time for uv to fetch an interpreter."""


@dataclass(frozen=True, order=True)
class Interpreter:
    """A Python that is there."""

    version: tuple[int, int, int]
    path: Path

    @property
    def name(self) -> str:
        """Gives its version as text."""
        return ".".join(map(str, self.version))


def wanted() -> tuple[str, list[str]]:
    """Gives what pyproject.toml says: the oldest release, and the minor versions."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    least = re.search(r'^requires-python = ">=([0-9.]+)"', text, re.MULTILINE)
    assert least is not None
    return least.group(1), re.findall(r'"Programming Language :: Python :: (3\.[0-9]+)"', text)


def look(candidates: Iterable[Path]) -> list[Interpreter]:
    """Asks programs which Python they are; leaves out what is none, or no CPython."""
    found: dict[tuple[int, int, int], Interpreter] = {}
    for path in candidates:
        try:
            done = subprocess.run([path, "-c", ASKED], capture_output=True, text=True, timeout=60, check=True)
            version, implementation = json.loads(done.stdout)
        # pyenv's programs are there for versions that are not chosen, and say so.
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        if implementation == "cpython":
            found.setdefault(tuple(version), Interpreter(tuple(version), path))
    return sorted(found.values())


def candidates(minors: Sequence[str]) -> list[Path]:
    """Lists programs that may be a Python of these minor versions."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += sorted(pyenv.glob("versions/*/bin"))
    folders += sorted(BUILT.glob("uv/*/bin"))
    own = (Path(sys.prefix) / "bin").resolve()
    return [
        folder / f"python{minor}"
        for folder in folders
        for minor in minors
        if folder.resolve() != own and (folder / f"python{minor}").exists()
    ]


def choose(
    found: Sequence[Interpreter], oldest: str, minors: Sequence[str]
) -> tuple[list[Interpreter], list[str]]:
    """Chooses the oldest release and the newest of each minor version.

    Returns:
        Those chosen, and which of them were not found, as text.
    """
    chosen, missing = [], []
    for minor in minors:
        of_minor = [one for one in found if one.name.startswith(f"{minor}.")]
        if oldest.startswith(f"{minor}."):
            exact = [one for one in of_minor if one.name == oldest]
            chosen += exact
            missing += [] if exact else [oldest]
            of_minor = [one for one in of_minor if one not in exact and one.version > _numbers(oldest)]
            if exact and not of_minor:
                continue
        chosen += of_minor[-1:]
        missing += [] if of_minor else [minor]
    return sorted(set(chosen)), missing


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def fetch(version: str) -> None:
    """Has uv fetch an interpreter; says so if it cannot."""
    print(f"Python {version} is not here: asking uv for it", flush=True)
    command = [*UV, "python", "install", "--install-dir", str(BUILT / "uv"), version]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=FETCH_S, check=False)
        problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"no answer in {FETCH_S:g} s"
    if problem:
        print(f"  uv cannot have it: {problem.strip()}", flush=True)


def environment(interpreter: Interpreter) -> Path:
    """Makes the environment of a Python unless it is there; returns its interpreter.

    Raises:
        SystemExit: something could not be installed.
    """
    folder = BUILT / interpreter.name
    python, stamp = folder / "bin" / "python", folder / "installed"
    pins = b"".join(path.read_bytes() for path in (*LOCKS, ROOT / "pyproject.toml"))
    state = hashlib.sha256(pins + str(interpreter).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return python
    print(f"making {folder.relative_to(ROOT)}", flush=True)
    requirements = [part for path in LOCKS for part in ("--requirement", str(path))]
    for arguments in (
        ("venv", "--clear", "--python", str(interpreter.path), str(folder)),
        ("pip", "install", "--python", str(python), *requirements),
        ("pip", "install", "--python", str(python), "--no-deps", "--no-build-isolation", "--editable", "."),
    ):
        command = [*UV, *arguments, "--quiet"]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            sys.exit(f"{folder} could not be made: {' '.join(command)}")
    stamp.write_text(state)
    return python


def run_tests(python: Path, arguments: Sequence[str]) -> int:
    """Runs pytest; returns its exit code."""
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or PART)]
    without = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(command, cwd=ROOT, env={**without, "PATH": path}, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0 if the tests passed with every Python that was found, and one was."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    versions, arguments = given[:end], given[end + 1 :]
    oldest, minors = wanted()
    _, missing = choose(look(candidates(minors)), oldest, minors)
    for version in missing:
        if not versions or version in versions:
            fetch(version)
    chosen, missing = choose(look(candidates(minors)), oldest, minors)
    outcome = dict.fromkeys(missing, "not found")
    for interpreter in chosen:
        if versions and not any(f"{interpreter.name}.".startswith(f"{version}.") for version in versions):
            outcome[interpreter.name] = "not asked for"
            continue
        print(f"--- Python {interpreter.name} ({interpreter.path})", flush=True)
        code = run_tests(environment(interpreter), arguments)
        outcome[interpreter.name] = "passed" if code == 0 else f"FAILED ({code})"
    print("---")
    for version in sorted(outcome, key=_numbers):
        print(f"Python {version:8} {outcome[version]}")
    tried = [said for said in outcome.values() if said == "passed" or said.startswith("FAILED")]
    if not tried:
        print("no test ran", file=sys.stderr)
    return 0 if tried and all(said == "passed" for said in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
