"""Keeps files between runs that take long to make."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from testbed.processes import ROOT, clean_environment

BUILD = ROOT / "build"


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Gives the file at `path`, made by `make` if it is not there.

    `make` is given another name of the same suffix and what it wrote is renamed: a run that is interrupted leaves no
    half file to the next one, nor do two runs at a time.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
        try:
            make(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def random_model(shape: str) -> Path:
    """Gives the .nemo file of a model with random weights, of a shape of `testbed.shapes`, made if it is not there.

    In a process of its own, so that nothing of it is left in one that measures.
    """

    def make(path: Path) -> None:
        print(f"making {shape}.nemo, random weights (once)", file=sys.stderr)
        argv = [sys.executable, "-m", "testbed.random_file", shape, str(path)]
        subprocess.run(argv, cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL, check=True)

    return made_once(BUILD / f"{shape}.nemo", make)
