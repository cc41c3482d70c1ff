"""Compiles the kernels' functions at their first call, or ahead of it, and keeps their machine code on disk.

Where it lies, and which code is looked at, is `machine_code.py`'s to say. Processes that compile at the same time do
not compile the same function twice: the second waits for the first and reads its code.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.compiler_lock import global_compiler_lock

from asr_service.model.cpu_encoder.machine_code import clean_once, code_folder, locked, source_key, target
from asr_service.model.cpu_encoder.one_pass import loops_in_one_pass

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger(__name__)

if (_kind := target().kind) is not None:
    # Read when the first function is compiled or looked for. Numba's variables, where they are set, say the same.
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = _kind.cpu, _kind.features  # type: ignore[attr-defined]

Array = np.ndarray[Any, Any]
"""What compiled functions take. uint16 holds bfloat16 numbers; arithmetic is float32 throughout."""

Int = int | np.signedinteger[Any]
Float = float | np.floating[Any]
"""Numbers that compiled functions take: int64 and float32 unless they say otherwise."""

LOOSE = frozenset({"reassoc", "contract", "nsz", "arcp"})
"""Sums may be reordered and products fused, but NaN and infinity keep their meaning."""


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
        compile_usually, compile_for_call = made.compile, made._compile_for_args

        def compile_in_turn(signature: Any) -> Any:
            with global_compiler_lock, loops_in_one_pass(), _turn(made, tuple(signature)):
                return compile_usually(signature)

        def compile_or_note(*arguments: Any) -> Any:
            if _noted is None:
                return compile_for_call(*arguments)
            _noted.append(Call(made, tuple(made.typeof_pyval(one) for one in arguments)))
            return _do_nothing

        made.compile, made._compile_for_args = compile_in_turn, compile_or_note
        return made

    return decorate if function is None else decorate(function)


class Call(NamedTuple):
    """A compiled function, and the types of the arguments that it is called with.

    Attributes:
        function: what `compiled` returned.
        types: Numba's.
    """

    function: Any
    types: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Of the function."""
        return str(self.function.py_func.__name__)

    def is_compiled(self) -> bool:
        """Returns whether there is machine code for these types, in memory or on disk."""
        return self.types in self.function.overloads or self.is_kept()

    def is_kept(self) -> bool:
        """Returns whether machine code for these types lies on disk."""
        return _is_kept(self.function, self.types)

    def compile(self, *, wait: bool = True) -> bool:
        """Compiles the function, or reads its code.

        Args:
            wait: for another process that compiles it at this moment; else nothing is done then.

        Returns:
            Whether it was done.
        """
        folder = code_folder()
        if wait or folder is None or self.is_compiled():
            self.function.compile(self.types)
            return True
        with contextlib.suppress(OSError), locked(folder, _lock_name(*self), wait=False) as is_free:
            if not is_free:
                return False
        self.function.compile(self.types)
        return True


# Calls that are noted and not made, None while calls are made.
_noted: list[Call] | None = None


@contextlib.contextmanager
def noting_calls() -> Iterator[list[Call]]:
    """Notes the calls of functions that this process has not compiled yet and does nothing in their place.

    What they should have written is left as it was: of use is only which functions are called with what. For a process
    in which no other thread calls them.
    """
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


def _do_nothing(*arguments: Any) -> None:
    """Stands for a function whose call was noted; all of those return nothing."""


def _is_kept(function: Any, types: tuple[Any, ...]) -> bool:
    """Whether machine code for these types lies on disk."""
    cache = function._cache
    if not isinstance(cache, _SharedCache):
        return False
    # Broken files are met with when they are read.
    with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
        key = cache._index_key(types, function.targetctx.codegen())
        files = cache._cache_file
        # The index is written first: on a full disk it may name a file that never came.
        name = files._load_index().get(key)
        return name is not None and Path(files._data_path(name)).exists()
    return False


def _lock_name(function: Any, types: tuple[Any, ...]) -> str:
    """Names the lock of a function for these types."""
    named = f"{function.py_func.__module__}.{function.py_func.__qualname__} {types}"
    return f"{function.py_func.__name__}-{hashlib.sha256(named.encode()).hexdigest()[:16]}.lock"


@contextlib.contextmanager
def _turn(function: Any, types: tuple[Any, ...]) -> Iterator[None]:
    """Waits until no other process compiles the function for these types, and keeps others waiting meanwhile.

    Functions wait for those that they call, never the other way round, so that nobody waits in a circle.
    """
    folder = code_folder()
    with contextlib.ExitStack() as held:
        if folder is not None and types not in function.overloads and not _is_kept(function, types):
            # Nothing can be written there: then nobody can be waited for.
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder, _lock_name(function, types)))
        yield


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
            with contextlib.suppress(OSError), locked(Path(self.cache_path)):
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
            with locked(folder):
                super().save_overload(sig, data)
            clean_once(folder.parent)
        except OSError as error:
            _log.warning("machine code is not kept in %s: %s", folder, error)
