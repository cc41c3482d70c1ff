"""Recognises errors that mean that a device has no memory left."""

from __future__ import annotations

import torch

# The message of a plain RuntimeError: torch has no type for it.
_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of torch or numpy means that a GPU or the host has no memory left.

    An error that was raised while such a one was handled counts too: a recording of CUDA graphs that runs out of memory
    may end with the error that it cannot be ended.
    """
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or (isinstance(error, RuntimeError) and _CPU_FULL in str(error))
        or (error.__context__ is not None and is_out_of_memory(error.__context__))
    )
