"""Everything that is checked without running the service; what `make check` and CI run.

Every check runs, whatever the others found, and the table at the end says which failed. Names on the command line
choose some: `make check ARGS="ruff mypy"`.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def _run(*command: str) -> bool:
    return subprocess.run(command, cwd=ROOT).returncode == 0


def _git(*arguments: str) -> str | None:
    """What git answers, None if it cannot."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _base() -> str | None:
    """The commit whose clients must still be served: the last release, else main, else the commit before this one."""
    if tag := _git("describe", "--tags", "--abbrev=0", "--match", "v*"):
        return tag
    head = _git("rev-parse", "HEAD")
    for name in ("origin/main", "main", "HEAD~1"):
        commit = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if (
            commit not in (None, head)
            and _git("cat-file", "-e", f"{commit}:proto/asr/v1/asr.proto") is not None
        ):
            return commit
    return None


def breaking() -> bool:
    """Whether clients built from the base's protocol still understand this one."""
    base = _base()
    if base is None:
        print("no release and no earlier commit to compare with")
        return True
    print(f"compared with {base}")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "base.tar")
        subprocess.run(
            ["git", "archive", "--output", str(archive), base, "buf.yaml", "proto"], cwd=ROOT, check=True
        )
        return _run("buf", "breaking", "--against", str(archive))


def stubs() -> bool:
    """Whether the committed stubs are what `make proto` makes."""
    with tempfile.TemporaryDirectory() as folder:
        if not _run("buf", "generate", "--output", folder):
            return False
        made = sorted(path.relative_to(folder) for path in Path(folder).rglob("*.py*"))
        stale = [
            path
            for path in made
            if not (ROOT / path).exists() or not filecmp.cmp(Path(folder, path), ROOT / path, shallow=False)
        ]
    for path in stale:
        print(f"{path} is not what proto/asr/v1 says: run make proto")
    if not made:
        print("buf generate made no files")
    return bool(made) and not stale


def imports() -> bool:
    """Whether imports point the way of [tool.importlinter]; its banner is shown only with a broken contract."""
    done = subprocess.run(["lint-imports"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr)
    return done.returncode == 0


def locks() -> bool:
    """Whether the lock files still answer every requirement of pyproject.toml."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"]
    groups = pyproject["dependency-groups"]
    chosen = (extras["model"], extras["compressed"], extras["otel"], groups["riva"])
    runtime = [*pyproject["project"]["dependencies"], *(one for extra in chosen for one in extra)]
    return answered(runtime, ROOT / "requirements.lock") & answered(
        groups["dev"], ROOT / "requirements-dev.lock"
    )


def answered(requirements: Iterable[str], lock: Path) -> bool:
    """Whether each requirement has a pin in the lock file, of a release that it allows; says which have not."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    passed = True
    for text in requirements:
        requirement = Requirement(text)
        version = versions.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            print(f"pyproject.toml asks for {text!r}, {lock.name} has {version}: run make lock")
            passed = False
    return passed


def chart() -> bool:
    """Whether files of the chart that docker has too are the same: Helm reads none from outside of a chart."""
    stale = [
        copy
        for copy in sorted((ROOT / "deploy/helm/asr/files").iterdir())
        for original in (ROOT / "docker").rglob(copy.name)
        if not filecmp.cmp(copy, original, shallow=False)
    ]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what docker has: run make chart-files")
    return not stale


CHECKS: dict[str, Callable[[], bool]] = {
    "ruff": lambda: _run("ruff", "check", "."),
    "format": lambda: _run("ruff", "format", "--check", "."),
    "mypy": lambda: _run(sys.executable, "-m", "mypy"),
    "imports": imports,
    "buf": lambda: _run("buf", "lint"),
    "breaking": breaking,
    "stubs": stubs,
    "locks": locks,
    "chart": chart,
}


def main() -> int:
    """Command line; 1 if a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="some of: " + ", ".join(CHECKS))
    chosen = parser.parse_args().checks or list(CHECKS)
    if unknown := [name for name in chosen if name not in CHECKS]:
        parser.error(f"there is no check {unknown[0]!r}")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    rows = []
    for name in chosen:
        print(f"--- {name}", flush=True)
        started = time.monotonic()
        passed = CHECKS[name]()
        rows.append((name, passed, time.monotonic() - started))
    print("---")
    for name, passed, seconds in rows:
        print(f"{name:<10} {'ok' if passed else 'FAILED':<7} {seconds:5.1f} s")
    return 0 if all(passed for _, passed, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
