"""Recognises errors that mean that a device has no memory left. Imports no torch: without it there are none of its."""

from __future__ import annotations

import sys

# Parts of the messages of plain RuntimeErrors, for which torch has no type.
_FULL = (
    # Of the host.
    "DefaultCPUAllocator: can't allocate memory",
    # Of the runtime, whose errors torch passes on by name: a kernel's own memory, a graph's, a module's.
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "Triton Error [CUDA]: out of memory",
    # Of its libraries, which have memory of their own.
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUFFT_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    # Of pinned memory, and of torch where it has no type.
    "CUDA out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of torch or numpy means that a GPU or the host has no memory left.

    An error that was raised while such a one was handled counts too: a recording of CUDA graphs that runs out of memory
    may end with the error that it cannot be ended.
    """
    torch = sys.modules.get("torch")
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and any(part in str(error) for part in _FULL))
        or (error.__context__ is not None and is_out_of_memory(error.__context__))
    )
