"""Chooses the folder that kernels' machine code is kept in, which is named by all of their sources.

Numba's own cache compiles a function again only when the function's own file changes. The machine code of a kernel
also contains functions and constants from other files, so after a change in one of those Numba would still run the old
code. Here the folder's name is a hash of every source of this package and of the versions of what compiles it, so code
made from other sources is never found.

The folder lies in NUMBA_CACHE_DIR if that is set. Else it lies beside the sources or in the user's cache folder: where
everything has been compiled already (`prepare.py`) for this processor, or for its kind (`processors.py`), if only to be
read, else the first that can be written to. Where none can, functions are compiled at each start.

What is compiled for a kind is used by the processors of that kind and by no more able ones, and only where all of it is
there: a process that has to compile does so for its own processor.

Standard library only: whether anything has to be compiled is answered without importing a compiler.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from asr_service.model.cpu_encoder.processors import CPU_INFO, KINDS, Kind, kind_of_processor

_log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FOLDER_PREFIX = "asr-kernels-"
UNUSED_DAYS = 30
"""A folder that no process has opened for so long is removed by the next one that compiles something."""
# As x86 and Arm name what LLVM goes by.
_CPU_INFO_LINES = (
    "vendor_id", "cpu family", "model", "model name", "flags",
    "CPU implementer", "CPU part", "CPU variant", "Features",
)  # fmt: skip
# What tells Numba to make code for another processor than this one.
_NUMBA_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")


@cache
def source_key() -> str:
    """Returns a hash of the sources of all kernels and of what turns them into machine code."""
    digest = hashlib.sha256()
    versions = (version("numba"), version("llvmlite"), version("numpy"), sys.version, platform.machine())
    digest.update(repr(versions).encode())
    for source in sorted(SOURCES.rglob("*.py")):
        digest.update(repr(source.relative_to(SOURCES).parts).encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:20]


class Target(NamedTuple):
    """What this process's machine code is made for.

    Attributes:
        key: of the file that says that all of it is there.
        kind: of processors; None for this very one, or for what Numba's variables say.
        may_have_tiles: whether code may use a unit for products on tiles where the processor has one.
    """

    key: str
    kind: Kind | None
    may_have_tiles: bool


@cache
def target() -> Target:
    """Returns what this process's machine code is made for: the same from its first call on.

    That is what Numba's variables name, if they name anything. Else it is this very processor, unless all is there for
    its kind and not for itself.
    """
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    for kind in KINDS:
        if (name, features) == (kind.cpu, kind.features):
            return _for_kind(kind)
    told = [os.environ.get(name, "") for name in _NUMBA_VARIABLES]
    own = Target(_processor_key(told), None, features is None or "+amx-bf16" in features)
    if not any(told) and (own_kind := kind_of_processor()) is not None:
        for_kind = _for_kind(own_kind)
        if _prepared_folder(own) is None and _prepared_folder(for_kind) is not None:
            return for_kind
    return own


def _for_kind(kind: Kind) -> Target:
    return Target(kind.name, kind, kind.has_tiles)


def _processor_key(told: list[str]) -> str:
    """Returns a hash of this processor, and of what Numba is told to take in its place."""
    described = [platform.machine(), *told]
    try:
        # Up to an empty line is the first processor; those of a machine are taken to be alike.
        lines = CPU_INFO.read_text().partition("\n\n")[0].splitlines()
        described += [line for line in lines if line.partition(":")[0].strip() in _CPU_INFO_LINES]
    except OSError:
        described.append(platform.processor())
    return hashlib.sha256(repr(described).encode()).hexdigest()[:20]


@cache
def code_folder() -> Path | None:
    """Returns this process's folder for machine code, made if it is not there; None if nothing can be written."""
    if (prepared := _prepared_folder(target())) is not None:
        return prepared
    for parent in _parents():
        folder = parent / (FOLDER_PREFIX + source_key())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Its date says when it was last used.
            os.utime(folder)
            with locked(folder):
                pass
        except OSError as error:
            _log.info("machine code is not kept in %s: %s", parent, error)
            continue
        return folder
    _log.warning(
        "no folder for machine code can be written to (NUMBA_CACHE_DIR sets one): each start compiles anew"
    )
    return None


def _prepared_folder(wanted: Target) -> Path | None:
    """Finds the folder in which all is compiled for a target."""
    for parent in _parents()[: 1 if os.environ.get("NUMBA_CACHE_DIR") else None]:
        folder = parent / (FOLDER_PREFIX + source_key())
        # A folder that this user may not enter has none of use to it.
        with contextlib.suppress(OSError):
            if _stamp(folder, wanted).exists():
                return folder
    return None


def _parents() -> list[Path]:
    """Where folders for machine code may lie, the first choice first."""
    told = os.environ.get("NUMBA_CACHE_DIR")
    parents = [Path(told)] if told else []
    parents.append(SOURCES / "__pycache__")
    # A user whom the machine does not know has no home.
    with contextlib.suppress(RuntimeError):
        parents.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr-service")
    return parents


def is_prepared() -> bool:
    """Returns whether `mark_prepared` was called for these sources and this process's target."""
    return _prepared_folder(target()) is not None


def mark_prepared() -> None:
    """Notes that all is compiled for this process's target. Does nothing without a folder that can be written to."""
    folder = code_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            _stamp(folder, target()).touch()


@contextlib.contextmanager
def locked(folder: Path, what: str = "lock", *, wait: bool = True) -> Iterator[bool]:
    """Holds one of the folder's locks, which processes take to write and to compile.

    Args:
        folder: of machine code.
        what: name of the lock.
        wait: whether to wait for another process that holds it.

    Yields:
        Whether it is held; always true with `wait`.

    Raises:
        OSError: the folder cannot be written to.
    """
    with (folder / what).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def remove_unused_folders(parent: Path, now: float) -> list[Path]:
    """Removes the folders of other sources in `parent` that were not opened in the last `UNUSED_DAYS`.

    A running process has its code in memory and makes its folder again when it needs it, so removing one is safe.

    Args:
        parent: of the folders.
        now: Unix time.

    Returns:
        The removed folders.
    """
    removed = []
    for folder in parent.glob(FOLDER_PREFIX + "*"):
        # Another process may remove it first.
        with contextlib.suppress(OSError):
            if (
                folder.name != FOLDER_PREFIX + source_key()
                and folder.stat().st_mtime < now - UNUSED_DAYS * 86_400
            ):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


@cache
def clean_once(parent: Path) -> None:
    """Removes unused folders in `parent`, the first time it is called for that."""
    for folder in remove_unused_folders(parent, time.time()):
        _log.info("removed machine code that was not used for %d days: %s", UNUSED_DAYS, folder)


def _stamp(folder: Path, wanted: Target) -> Path:
    return folder / f"prepared-{wanted.key}"
