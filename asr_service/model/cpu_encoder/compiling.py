"""Compiles the kernels' functions and keeps their machine code in a folder that is named by all of their sources.

Numba's own cache asks only whether the file that a function stands in has changed. A kernel's machine code holds the
functions that it calls as well, from other files, and constants of yet others: after a change there Numba would go on
running the old code. Here the folder's name is a hash of every source of this package and of the versions of what
compiles it, so code from other sources is never even looked at.

The folder lies in NUMBA_CACHE_DIR if that is set, else beside the sources, else in the user's cache folder: the first
that can be written to. Where none can, functions are compiled at each start.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import pickle
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, overload

import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.misc.appdirs import AppDirs

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
"""What compiled functions take. uint16 holds bfloat16 numbers; arithmetic is float32 throughout."""

Int = int | np.signedinteger[Any]
Float = float | np.floating[Any]
"""Numbers that compiled functions take: int64 and float32 unless they say otherwise."""

LOOSE = frozenset({"reassoc", "contract", "nsz", "arcp"})
"""Sums may be reordered and products fused, but NaN and infinity keep their meaning."""

SOURCES = Path(__file__).parent
FOLDER_PREFIX = "asr-kernels-"
UNUSED_DAYS = 30
"""A folder that no process has opened for so long is removed by the next one that compiles something."""


@overload
def compiled(function: F, /) -> F: ...


@overload
def compiled(*, parallel: bool = ..., fastmath: frozenset[str] = ...) -> Callable[[F], F]: ...


def compiled(
    function: Callable[..., Any] | None = None,
    /,
    *,
    parallel: bool = False,
    fastmath: frozenset[str] = LOOSE,
) -> Any:
    """Compiles a function at its first call, without the interpreter lock, and keeps the machine code on disk.

    Args:
        function: given when the decorator stands without brackets.
        parallel: whether its `prange` loops run on Numba's threads.
        fastmath: what LLVM may do to floating point arithmetic.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        made: Any = numba.njit(nogil=True, parallel=parallel, fastmath=set(fastmath))(function)
        if code_folder() is not None:
            # What `cache=True` does, with a cache that lies elsewhere and that processes share.
            made._cache = _SharedCache(function)
        return made

    return decorate if function is None else decorate(function)


@cache
def source_key() -> str:
    """A hash of the sources of all kernels and of what turns them into machine code."""
    digest = hashlib.sha256()
    versions = (numba.__version__, version("llvmlite"), np.__version__, sys.version, platform.machine())
    digest.update(repr(versions).encode())
    for source in sorted(SOURCES.rglob("*.py")):
        digest.update(repr(source.relative_to(SOURCES).parts).encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:20]


@cache
def code_folder() -> Path | None:
    """This process's folder for machine code, made if it is not there; None if nothing can be written."""
    parents = [SOURCES / "__pycache__", Path(AppDirs("asr-service", appauthor=False).user_cache_dir)]
    if numba.config.CACHE_DIR:  # type: ignore[attr-defined]
        parents.insert(0, Path(numba.config.CACHE_DIR))  # type: ignore[attr-defined]
    for parent in parents:
        folder = parent / (FOLDER_PREFIX + source_key())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Its date says when it was last used.
            os.utime(folder)
            with _locked(folder):
                pass
        except OSError as error:
            _log.info("machine code is not kept in %s: %s", parent, error)
            continue
        return folder
    _log.warning(
        "no folder for machine code can be written to (NUMBA_CACHE_DIR sets one): each start compiles anew"
    )
    return None


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


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which processes take to write."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _clean_once(parent: Path) -> None:
    for folder in remove_unused_folders(parent, time.time()):
        _log.info("removed machine code that was not used for %d days: %s", UNUSED_DAYS, folder)


class _Place(_CacheLocator):
    """Tells Numba where a function's machine code lies."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._module = function.__module__
        # Numba names it in warnings.
        self._py_file = function.__code__.co_filename

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Place:
        return cls(py_func)

    def get_cache_path(self) -> str:
        return str(code_folder())

    def get_source_stamp(self) -> str:
        return source_key()

    def get_disambiguator(self) -> str:
        return self._module


class _Files(CompileResultCacheImpl):
    # Numba declares it as a list of its own classes.
    _locator_classes: Any = [_Place]  # noqa: RUF012


class _SharedCache(FunctionCache):
    """Numba's cache of a function, for processes that compile at the same time and for disks that are full."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code of one signature, None if it is not there."""
        try:
            return super().load_overload(sig, target_context)
        except OSError as error:
            _log.warning("machine code cannot be read from %s: %s", self.cache_path, error)
        except (EOFError, pickle.UnpicklingError) as error:
            # Cut short by a crash of the machine, say. It is compiled and written anew.
            _log.warning("machine code in %s is broken: %s", self.cache_path, error)
            with contextlib.suppress(OSError), _locked(Path(self.cache_path)):
                self.flush()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps the machine code of one signature.

        Numba reads the index, picks a file name that is not in it, and writes both: two processes that compile the
        same function for different arguments could pick the same name and later load each other's code. So they take
        turns.
        """
        folder = Path(self.cache_path)
        try:
            # It may have been removed since this process started.
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                super().save_overload(sig, data)
            _clean_once(folder.parent)
        except OSError as error:
            _log.warning("machine code is not kept in %s: %s", folder, error)
