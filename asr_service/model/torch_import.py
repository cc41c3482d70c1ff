"""Imports torch without the part that only its own compiler uses, which is four tenths of the time.

That part, `torch._meta_registrations` and what it imports, says for torch's operations which shapes they make of which:
for tensors without data (`torch.compile`, `torch.export`, the device `meta`). A model is stepped with real ones. It is
imported by the first that asks for something of it, or by `import_all_of_torch`.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from types import ModuleType
from typing import Any

_PART = "torch._meta_registrations"


def import_torch() -> None:
    """Imports torch, for a process that only steps models; does nothing where it is imported already."""
    if "torch" in sys.modules:
        return
    sys.modules[_PART] = _Later(_PART)
    # Hundreds of thousands of objects are made, all of which stay: looking for those that do not takes a tenth.
    was_on = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torch")
    finally:
        if was_on:
            gc.enable()


def import_all_of_torch() -> None:
    """Imports the part that `import_torch` has left out, if it has: for whoever does more with torch than we do."""
    if isinstance(sys.modules.get(_PART), _Later):
        del sys.modules[_PART]
        importlib.import_module(_PART)


def calm_openmp() -> None:
    """Tells OpenMP, which comes into the process with torch, to let threads that wait sleep after a moment.

    GNU's lets them look for 6 ms or more: for a thread whose core another program has taken, and between steps out of
    the container's quota. So many looks take 0.1 to 0.3 ms, as long as the loops of a step lie apart. What an operator
    has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


class _Later(ModuleType):
    """Stands for the part until somebody wants something of it."""

    def __getattr__(self, name: str) -> Any:
        # Those that every module has are asked for by whoever looks through all modules.
        if name.startswith("__"):
            raise AttributeError(name)
        import_all_of_torch()
        return getattr(sys.modules[_PART], name)
