"""Makes .venv with everything the lock files pin, and compiles the encoder step for this processor, so that a start
finds both; or does nothing if they are already there.

    python3.11 tools/setup.py

uv does the work, in the release that requirements-dev.lock pins. An interrupted run is taken up by the next one, out of
uv's cache, and of two at once the second waits for the first. `TORCH_INDEX` may name one more package index, such as
PyTorch's own of CPU builds: PyPI's build of torch for Linux on x86-64 carries the CUDA libraries, about 3 GB that a
machine without a GPU has no use for.

Standard library only, and no syntax that an older Python cannot read: it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:
    # Windows: `refuse_system` tells.
    pass

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
RUNTIME = ROOT / "requirements.lock"
DEV = ROOT / "requirements-dev.lock"
RUN_UV = ROOT / "tools" / "run_uv.py"
KERNELS = ROOT / "asr_service" / "model" / "cpu_encoder"
PREPARE = "asr_service.model.cpu_encoder.prepare"
# What the programs of `make demo` and `make serve` import, but for what PREPARE imports.
FIRST_IMPORTS = (
    "asr_service.app.service, asr_service.app.front_end, asr_service.app.engine_process, asr_service.model.loading, "
    "ws_bridge.server, clients.demo.__main__"
)
PROJECT = ROOT / "pyproject.toml"
INPUTS = (RUNTIME, DEV, PROJECT, RUN_UV, Path(__file__))
SYSTEMS = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}
"""Those that all of the pins have packages for, as `platform` names them."""


def wanted() -> list[str]:
    """Digests: of what an environment cannot change later (its place, its Python), of what is installed in it, and of
    what is compiled."""
    place = hashlib.sha256(f"{ROOT} {sys.version}".encode())
    content = hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS))
    compiled = hashlib.sha256()
    for path in sorted(KERNELS.rglob("*.py")):
        compiled.update(str(path.relative_to(KERNELS)).encode() + path.read_bytes())
    return [place.hexdigest(), content.hexdigest(), compiled.hexdigest()]


def run(text: str, *command: object) -> None:
    """Says what is done and runs a command from the project's root.

    Raises:
        SystemExit: The command failed.
    """
    print(text, flush=True)
    if subprocess.run([str(part) for part in command], cwd=ROOT).returncode != 0:
        sys.exit(f"set-up failed: {text}. Run the same command to go on.")


def install(*, anew: bool) -> None:
    """Every step to a working environment.

    Args:
        anew: Makes the environment from nothing. An interrupted one can hold half a package that looks whole to uv.
    """
    began = time.monotonic()
    if anew:
        venv = (sys.executable, "-m", "venv", "--clear", VENV)
        run(f"making {VENV.name} with Python {sys.version.split()[0]}", *venv)
    uv = re.search(r"^uv==\S+", DEV.read_text(), re.MULTILINE)
    assert uv is not None
    pip = (PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    run(f"installing {uv[0]}", *pip, uv[0])
    # Not `uv pip sync`, which installs the lines of the files and nothing else: torch's GPU builds need packages that
    # are not in them, and it would take those away. This resolves, so that it adds what the build of torch asks for.
    # Byte code is left to the imports in `prepare`: a start reads a few thousand of the 20,000 modules, so that making
    # all of it would take longer than it saves.
    locks = ("--requirement", RUNTIME, "--requirement", DEV)
    run(f"installing what {RUNTIME.name} and {DEV.name} pin", PYTHON, RUN_UV, "pip", "install", *locks)
    # Without dependencies: pyproject.toml may be ahead of the locks, and `make lock` needs an environment.
    project = ("--no-build-isolation", "--no-deps", "--editable", ".")
    run("installing this project", PYTHON, RUN_UV, "pip", "install", *project)
    print(f"{VENV.name} is ready after {time.monotonic() - began:.0f} s", flush=True)


def prepare() -> None:
    """Compiles what a start needs: the encoder step for this processor, and byte code. A start without them does it."""
    began = time.monotonic()
    imports = subprocess.Popen(
        [PYTHON, "-c", f"import {FIRST_IMPORTS}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    compiled = subprocess.run([PYTHON, "-m", PREPARE], cwd=ROOT).returncode == 0
    if imports.wait() == 0 and compiled:
        print(f"prepared for a quick start after {time.monotonic() - began:.0f} s", flush=True)
    else:
        print("not all could be prepared; the first start takes the longer", flush=True)


def refuse_python() -> None:
    """Ends the program where its Python is older than what pyproject.toml asks for; says so where it is newer than what
    is tested."""
    text = PROJECT.read_text(encoding="utf-8")
    least = re.search(r'^requires-python = ">=([0-9.]+)"', text, re.MULTILINE)
    assert least is not None
    tested = re.findall(r'"Programming Language :: Python :: (3\.[0-9]+)"', text)
    this = sys.version.split()[0]
    if sys.version_info[:3] < tuple(int(part) for part in least.group(1).split(".")):
        sys.exit(f"Python {least.group(1)} or newer is needed, this is {this}: make PYTHON=python3.12 ...")
    if tested and sys.version_info[:2] > tuple(int(part) for part in tested[-1].split(".")):
        print(f"Python {this} is newer than the newest that is tested, {tested[-1]}", flush=True)


def refuse_system() -> None:
    """Ends the program on a system for which there are no packages."""
    system = (platform.system(), platform.machine())
    if system[0] == "Windows":
        sys.exit(
            "The service runs on Linux and macOS. On Windows, clients and stubs do: pip install . brings what they need"
        )
    if system not in SYSTEMS:
        sys.exit(
            f"There are packages for Linux on x86-64 and arm64 and for macOS on arm64; this is {' on '.join(system)}"
        )


def main() -> None:
    """Command line; takes no arguments."""
    refuse_python()
    refuse_system()
    # The lock file doubles as the mutex: no file of its own, and the kernel lets go of it whatever happens.
    with RUNTIME.open() as mutex:
        try:
            fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another set-up is running; waiting for it", flush=True)
            fcntl.flock(mutex, fcntl.LOCK_EX)
        state = wanted()
        there = STAMP.read_text().split() if STAMP.exists() else [""]
        if there != state:
            STAMP.unlink(missing_ok=True)
            if there[:2] != state[:2]:
                install(anew=there[0] != state[0])
                # An interrupted preparation does not cost the environment.
                STAMP.write_text("\n".join(state[:2]) + "\n")
            prepare()
            STAMP.write_text("\n".join(state) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run the same command to go on")
