"""Writes requirements.lock and requirements-dev.lock: every package that `make setup` installs, pinned.

    make lock                     keeps the pins there are and adds what pyproject.toml newly asks for
    make lock ARGS=--upgrade      takes the newest releases that fit, except of torch
    make lock ARGS="--torch 2.14.1"

pip itself resolves (`pip install --dry-run --report`), so what is written is what it would install. Three things are
left out on purpose. Hashes: the builds of torch for CPUs and GPUs share a version and differ in bytes. The nvidia-*
packages and triton: only torch's GPU builds need them, and those pin them exactly themselves. Index addresses: they
belong to the machine.

requirements-riva.lock holds the extra `riva` alone: the package is wanted for its message classes, and what else it
asks for (an old release of websockets) is not, so that it is resolved and installed without its dependencies.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "requirements.lock"
DEV = ROOT / "requirements-dev.lock"
APART = ROOT / "requirements-riva.lock"
GPU_ONLY = re.compile(r"nvidia-(?!riva-).*|triton")
HEADER = """\
# Made by `make lock` from pyproject.toml for Python {python}; do not edit. {what}
"""


@dataclass(frozen=True)
class Pin:
    """One package of a resolution: what it needs always, and what only some of its extras need."""

    name: str
    version: str
    needs: frozenset[str]
    extras_need: frozenset[str]


def canonical(name: str) -> str:
    """Name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """The package that a requirement such as `nemo_toolkit[asr]>=3; extra == "x"` names."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return canonical(match.group())


def resolve(requirements: list[str], constraints: list[str], *options: str) -> dict[str, Pin]:
    """What pip would install into an empty environment, by canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, pinned, report = (Path(folder, name) for name in ("wanted.txt", "pinned.txt", "report.json"))
        wanted.write_text("\n".join(requirements) + "\n")
        pinned.write_text("\n".join(constraints) + "\n")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        command += [
            "--report",
            str(report),
            "--requirement",
            str(wanted),
            "--constraint",
            str(pinned),
            *options,
        ]
        subprocess.run(command, check=True)
        installs = json.loads(report.read_text())["install"]
    pins = {}
    for item in installs:
        data = item["metadata"]
        name = canonical(data["name"])
        # "2.13.0+cpu" names one machine's build; the public version is what is pinned.
        version = data["version"].partition("+")[0]
        requires = data.get("requires_dist", [])
        always = frozenset(requirement_name(r) for r in requires if "extra ==" not in r)
        extras = frozenset(requirement_name(r) for r in requires if "extra ==" in r)
        pins[name] = Pin(name, version, always, extras - always)
    return pins


def constraints_of(path: Path) -> list[str]:
    """The pins a lock file holds, without comments."""
    if not path.exists():
        return []
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def render(pins: dict[str, Pin], direct: list[str], known: dict[str, Pin], header: str) -> str:
    """Text of a lock file: a line for each pin, with the packages that ask for it."""
    asked = {requirement_name(r) for r in direct}
    markers = {requirement_name(r): r.partition(";")[2].strip() for r in direct}
    lines = [header]
    for name, pin in sorted(pins.items()):
        if GPU_ONLY.fullmatch(name):
            continue
        sources = ["pyproject.toml"] if name in asked else []
        sources += sorted(other.name for other in known.values() if name in other.needs)
        if not sources:
            sources = sorted(other.name for other in known.values() if name in other.extras_need)
        marker = f" ; {markers[name]}" if markers.get(name) else ""
        lines.append(f"{f'{name}=={pin.version}{marker}':<48} # {', '.join(sources)}\n")
    return "".join(lines)


def check(requirements: list[str], pins: list[str]) -> int:
    """1 and a line for each requirement that no pin answers, else 0."""
    # Not needed to write the locks, and there only once they are installed.
    from packaging.requirements import Requirement

    versions = {requirement_name(pin): pin.partition("==")[2].partition(" ")[0] for pin in pins}
    failed = 0
    for text in requirements:
        requirement = Requirement(text)
        version = versions.get(canonical(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            print(f"pyproject.toml asks for {text!r}, the lock has {version}: run make lock")
            failed = 1
    return failed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="do not keep the present pins")
    parser.add_argument("--torch", metavar="VERSION", help="the release of torch to pin")
    parser.add_argument(
        "--check", action="store_true", help="only say whether the pins answer pyproject.toml; offline"
    )
    options = parser.parse_args()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    runtime = [*project["project"]["dependencies"], *extras["model"], *extras["otel"]]
    dev = project["dependency-groups"]["dev"]
    apart = extras["riva"]
    if options.check:
        return max(
            check(runtime, constraints_of(RUNTIME)),
            check(dev, constraints_of(DEV) + constraints_of(RUNTIME)),
            check(apart, constraints_of(APART)),
        )

    pins = constraints_of(RUNTIME) + constraints_of(DEV)
    torch = f"torch=={options.torch}" if options.torch else next(p for p in pins if p.startswith("torch=="))
    kept = [torch] if options.upgrade else [torch, *(p for p in pins if not p.startswith("torch=="))]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"

    print(f"resolving the service ({len(runtime)} requirements)", flush=True)
    service = resolve(runtime, kept)
    print(f"resolving with the development tools ({len(dev)} more)", flush=True)
    everything = resolve([*runtime, *dev], [*kept, *(f"{p.name}=={p.version}" for p in service.values())])
    tools = {name: pin for name, pin in everything.items() if name not in service}

    header = HEADER.format(python=python, what="Install torch first.")
    RUNTIME.write_text(render(service, runtime, service, header))
    header = HEADER.format(python=python, what="Tests and checks; on top of requirements.lock.")
    DEV.write_text(render(tools, dev, everything, header))
    alone = resolve(apart, [] if options.upgrade else constraints_of(APART), "--no-deps")
    header = HEADER.format(python=python, what="Install without dependencies.")
    APART.write_text(render(alone, apart, alone, header))
    print(f"{RUNTIME.name}: {len(service)} packages; {DEV.name}: {len(tools)} more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
