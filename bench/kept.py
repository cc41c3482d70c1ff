"""Files that take long to make, kept between runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """The file at `path`, made by `make` if it is not there.

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
