"""The words in which a GPU, its runtime and its libraries say that memory is out, and words that mean other things."""

from __future__ import annotations

import pytest
import torch

from asr_service.core.errors import first_line
from asr_service.model.out_of_memory import is_out_of_memory

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
)
OTHER = (
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "expected a tensor of another shape",
)


@pytest.mark.parametrize("words", FULL)
def test_it_is_known_in_all_its_words(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert first_line(RuntimeError(words)) == words.split("\n")[0]


@pytest.mark.parametrize("words", OTHER)
def test_other_errors_are_no_lack_of_memory(words: str) -> None:
    assert not is_out_of_memory(RuntimeError(words))


def test_so_are_its_types_and_what_follows_from_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("full")) and is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012 - one error is raised in another's handling
        try:
            raise torch.OutOfMemoryError("full")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    assert is_out_of_memory(caught.value)
