"""Whether an error means that a device has no memory left."""

from __future__ import annotations

import torch

_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"  # a plain RuntimeError: torch has no type for it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's or numpy's way to say that there is no memory, on a GPU or on the host; or came of it:
    a recording that runs out of memory may end with the complaint that it cannot be ended."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or (isinstance(error, RuntimeError) and _CPU_FULL in str(error))
        or (error.__context__ is not None and is_out_of_memory(error.__context__))
    )
