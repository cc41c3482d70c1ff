"""Whether an error means that a device has no memory left."""

from __future__ import annotations

import torch

_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"  # a plain RuntimeError: torch has no type for it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's or numpy's way to say that there is no memory, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _CPU_FULL in str(error)
    )
