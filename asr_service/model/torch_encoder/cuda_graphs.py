"""Records work on a GPU as CUDA graphs, which replay hundreds of kernel launches in one call.

A graph reads and writes fixed memory, and does the same each time. `recorded_steps.py` says what is recorded.

Only `CudaRecorder` needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import torch

Out = TypeVar("Out")


class Recorder(Protocol):
    """Records work on fixed memory, so that it can be replayed."""

    def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
        """Records the work, which it runs at least once.

        Returns:
            A function that replays the work and returns its output, in the same tensors each time, which another
            recording may write over.

        Raises:
            RuntimeError: the work cannot be recorded.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs of one device that share one pool of memory.

    Graphs may share it since one is replayed at a time: what one returns is there until another is replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Of this device: torch's own stream for recordings belongs to the device that was current when it was made.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
        """See `Recorder.record`."""
        with torch.cuda.device(self._device):
            current, side = torch.cuda.current_stream(self._device), self._stream
            # Libraries choose their kernels in the first runs, which are not recorded, on the stream that is recorded.
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(3):
                    work()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile; that does not spoil the recording.
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                    out = work()
            except BaseException:
                # If the recording cannot be ended, torch comes back neither from the stream nor, in its allocator, from
                # recording: the pool would be refused to the next one.
                torch.cuda.set_stream(current)
                with suppress(Exception):
                    torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
                self._pool = torch.cuda.graph_pool_handle()
                raise

        def replay() -> Out:
            graph.replay()
            return out

        return replay


class EagerRecorder:
    """Records nothing, and does the work each time: where there are no graphs or recording fails, and for tests."""

    def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
        """See `Recorder.record`."""
        work()
        return work
