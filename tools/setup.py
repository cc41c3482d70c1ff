"""Makes .venv with everything the lock files pin, or does nothing if it is already there.

    python3.11 tools/setup.py

An interrupted run is taken up by the next one, and of two at once the second waits for the first.
`TORCH_INDEX` may name one more package index for torch alone, such as PyTorch's own index of CPU builds: PyPI's build
for Linux on x86-64 carries the CUDA libraries, about 3 GB that a machine without a GPU has no use for.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
RUNTIME = ROOT / "requirements.lock"
DEV = ROOT / "requirements-dev.lock"
APART = ROOT / "requirements-riva.lock"
INPUTS = (
    RUNTIME,
    DEV,
    APART,
    ROOT / "pyproject.toml",
    ROOT / "proto" / "python" / "pyproject.toml",
    Path(__file__),
)
STEPS = 6
REPORT_EVERY_S = 10.0


def wanted_state() -> str:
    """A digest of everything that decides what is installed."""
    digest = hashlib.sha256(f"{ROOT} {sys.version}".encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def say(step: int, text: str) -> None:
    """One line of progress."""
    print(f"[{step}/{STEPS}] {text}", flush=True)


class Progress:
    """Shows how far one run of pip is: on a terminal in place, elsewhere as a line every ten seconds."""

    def __init__(self, step: int, total: int) -> None:
        self._step = step
        self._total = total
        self._collected = 0
        self._before = self._on_disk()
        self._started = time.monotonic()
        self._reported = self._started
        self._text = "starting"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _on_disk(self) -> int:
        return sum(1 for _ in VENV.glob("lib/python*/site-packages/*.dist-info"))

    def line(self, line: str) -> None:
        """Takes one line of pip's output."""
        if match := re.match(r"(?:Collecting|Requirement already satisfied:|Obtaining) (\S+)", line):
            self._collected += 1
            self._text = f"fetching {match.group(1).partition('=')[0]} ({self._collected} of {self._total})"
        elif match := re.match(r"\s*Downloading (\S+?)-\S+ \((.*B)\)", line):
            self._text = f"fetching {match.group(1)}, {match.group(2)} ({self._collected} of {self._total})"
        elif line.startswith("Installing collected packages"):
            self._text = "installing"

    def _run(self) -> None:
        terminal = sys.stdout.isatty()
        while not self._done.wait(0.25 if terminal else 1.0):
            text = self._text
            if text == "installing":
                text = f"unpacked {self._on_disk() - self._before} packages"
            seconds = time.monotonic() - self._started
            if terminal:
                width = shutil.get_terminal_size().columns
                print(
                    f"\r\x1b[K[{self._step}/{STEPS}]   {seconds:4.0f} s  {text}"[: width + 4],
                    end="",
                    flush=True,
                )
            elif time.monotonic() - self._reported >= REPORT_EVERY_S:
                self._reported = time.monotonic()
                say(self._step, f"  {seconds:.0f} s: {text}")
        if terminal:
            print("\r\x1b[K", end="", flush=True)

    def stop(self) -> float:
        """Ends the display and gives the seconds taken."""
        self._done.set()
        self._thread.join()
        return time.monotonic() - self._started


def pip(step: int, total: int, *arguments: str) -> None:
    """Runs `pip install` with progress; shows all that pip said if it fails."""
    # Byte code is made at the end, by all cores at once.
    command = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-compile",
        "--progress-bar",
        "off",
        *arguments,
    ]
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    progress = Progress(step, total)
    output = []
    try:
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                progress.line(line)
    finally:
        seconds = progress.stop()
    if process.returncode != 0:
        sys.stdout.writelines(output)
        sys.exit(
            f"pip failed in step {step} of {STEPS}; what it said stands above. Run the same command to go on."
        )
    say(step, f"  done in {seconds:.0f} s")


def drop_half_installed() -> None:
    """Removes records of packages that an interrupted pip left without a list of files, so that pip unpacks them again.

    pip writes RECORD last; a folder of metadata without one looks installed to it and is not.
    """
    for folder in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(folder)


def pins(path: Path) -> list[str]:
    """The lines of a lock file that name packages."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def install() -> None:
    """Every step from nothing to a working environment."""
    started = time.monotonic()
    works = (
        PYTHON.exists()
        and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0
    )
    if works:
        say(1, f"using {VENV.name}")
        drop_half_installed()
    else:
        say(1, f"making {VENV.name} with Python {sys.version.split()[0]}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)

    # First and pinned: asked for by another package, an open range of it takes the newest and largest build.
    torch = next(pin.split()[0] for pin in pins(RUNTIME) if pin.startswith("torch=="))
    index = os.environ.get("TORCH_INDEX")
    say(2, f"{torch}{' from TORCH_INDEX' if index else ''}")
    source = ["--extra-index-url", index] if index else []
    pip(2, 15, *source, torch, "--constraint", str(RUNTIME))

    # The lock is complete, so pip has nothing to resolve.
    count = len(pins(RUNTIME)) + len(pins(APART))
    say(3, f"the service: {count} packages of {RUNTIME.name} and {APART.name}")
    pip(3, count, "--no-deps", "--requirement", str(RUNTIME), "--requirement", str(APART))
    say(4, f"tests and checks: {len(pins(DEV))} packages of {DEV.name}")
    pip(4, len(pins(DEV)), "--no-deps", "--requirement", str(DEV))
    say(5, "this project")
    pip(5, 2, "--no-deps", "--no-build-isolation", "--editable", "proto/python", "--editable", ".")
    # Here, with all cores, rather than at the first start, with one: the model's libraries are thousands of modules.
    say(6, "byte code")
    command = [str(PYTHON), "-m", "compileall", "-q", "-q", "-j", "0", str(VENV / "lib")]
    began = time.monotonic()
    # Some packages ship templates that are no Python; they stay as they are.
    subprocess.run(command, check=False)
    say(6, f"  done in {time.monotonic() - began:.0f} s")
    print(f"{VENV.name} is ready after {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Command line; takes no arguments."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the program that tells people so
        sys.exit(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..."
        )
    # The lock file doubles as the mutex: no file of its own, and the kernel lets go of it whatever happens.
    with RUNTIME.open() as mutex:
        try:
            fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another set-up is running; waiting for it", flush=True)
            fcntl.flock(mutex, fcntl.LOCK_EX)
        state = wanted_state()
        if STAMP.exists() and STAMP.read_text() == state:
            return 0
        STAMP.unlink(missing_ok=True)
        install()
        STAMP.write_text(state)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run the same command to go on")
