"""Helm's engine and Kubernetes' schemas, in an environment of their own: build/chart from requirements-chart.lock.

    python -m tests.chart.environment        makes it unless it is there

They are packages of 0.35 GB that nothing else needs. Their own dependencies are the development environment's, or not
needed for what is asked of them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.support.process import ROOT

BUILT = ROOT / "build" / "chart"
LOCK = ROOT / "requirements-chart.lock"
PYTHON = BUILT / "bin" / "python"
KUBERNETES = "1.37.0"
"""Whose schemas manifests are held to."""


class NotBuilt(Exception):
    """The environment could not be made; the message is the last line of uv."""


def is_built() -> bool:
    """Whether the environment is there and is what the lock file says."""
    stamp = BUILT / "installed"
    return stamp.exists() and stamp.read_text() == _digest()


def build() -> None:
    """Makes the environment unless it is there.

    Raises:
        NotBuilt: uv could not fetch or install what it needs.
    """
    if is_built():
        return
    print(f"making {BUILT.relative_to(ROOT)}", flush=True)
    _uv("venv", "--clear", str(BUILT))
    _uv("pip", "install", "--no-deps", "--python", str(PYTHON), "--requirement", str(LOCK))
    (BUILT / "installed").write_text(_digest())


def schemas() -> Path:
    """The folder of Kubernetes' schemas, which refuse fields that there are not."""
    (packages,) = BUILT.glob("lib/python3*/site-packages")
    return packages / "kubernetes_validate/kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"


def _digest() -> str:
    return hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()


def _uv(*arguments: str) -> None:
    command = [sys.executable, "tools/run_uv.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotBuilt((done.stderr.strip().splitlines() or ["uv said nothing"])[-1])


if __name__ == "__main__":
    try:
        build()
    except NotBuilt as why:
        sys.exit(f"build/chart could not be made: {why}")
