"""Has LLVM go over a compiled function's parallel loops once, which takes a third off the time to compile them.

Numba makes three libraries of code of each `prange` loop (its body, and two functions that call it by a thread's share)
and links them into the function that the loop stands in. Each of the four is optimised and turned into machine code,
though the code of the last alone, which has the others inlined, is ever run or kept. Here the first three are left as
they come, so that all is optimised where it is used.

It replaces parts that are private to Numba, while functions of this package are compiled and at no other time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.registry import cpu_target

# What Numba calls the three libraries. The second is named by the object that makes it.
_PARTS_OF_LOOPS = (
    "__numba_parfor_gufunc_",
    "<numba.np.ufunc.wrappers._GufuncWrapper object",
    "parallelgufuncwrapper",
)


class _Library(JITCodeLibrary):
    """Code of one function, or of one part of a loop."""

    def finalize(self) -> None:
        """Links what the code needs, optimises it and makes machine code; a part of a loop is linked only."""
        if not self.name.startswith(_PARTS_OF_LOOPS):
            super().finalize()
            return
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@contextmanager
def loops_in_one_pass() -> Iterator[None]:
    """Has LLVM go over the loops of functions that are compiled within the block once.

    The caller holds Numba's compiler lock, which keeps the other threads of this process from compiling meanwhile.
    """
    codegen: Any = cpu_target.target_context.codegen()
    if codegen._library_class is _Library:
        yield
        return
    usual, usual_set_env = codegen._library_class, codegen.set_env
    # The place of a loop's environment, the constants of Python that it may raise, comes with the function's code.
    placeless: list[tuple[str, Any]] = []

    def set_env(name: str, environment: Any) -> None:
        if codegen._engine.get_global_value_address(name):
            usual_set_env(name, environment)
        else:
            placeless.append((name, environment))

    codegen._library_class, codegen.set_env = _Library, set_env
    try:
        yield
    finally:
        codegen._library_class = usual
        del codegen.set_env
        for name, environment in placeless:
            if codegen._engine.get_global_value_address(name):
                usual_set_env(name, environment)
