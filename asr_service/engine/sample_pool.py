"""Memory that an engine and its front ends share: the samples of two chunks for each slot.

A front end writes a chunk at a place that no chunk of the slot waits at, and tells the engine with a record; the
engine reads it when it steps the chunk, before it answers. Who may write is who holds the slot's lease, so that no two
processes ever write at one place, and none writes what another reads.

The memory has no name: it is gone with the last process that has it, however that ends. Pages that no chunk was ever
written to take no memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np

from asr_service.core.step import ChunkFlags, chunk_offset
from asr_service.core.values import Samples

_LAST = int(ChunkFlags.LAST)
PLACES = 2
"""Chunks of a slot that may be on their way: one that is stepped, and the next."""


class SamplePool:
    """The samples of chunks that are on their way to an engine, by slot and place.

    Args:
        descriptor: of the memory; it belongs to the pool, which closes it.
        slots: of the model.
        first_chunk_samples, chunk_samples: of the model, see `ModelInfo`.

    Attributes:
        slots: as given.
        descriptor: to be handed to another process, which makes a pool of it with the same numbers.
        audio: float32 [PLACES * slots, chunk_samples]; `row` says which is which.
    """

    def __init__(self, descriptor: int, slots: int, *, first_chunk_samples: int, chunk_samples: int) -> None:
        self.slots = slots
        self.descriptor = descriptor
        self._first_chunk_samples = first_chunk_samples
        self._chunk_samples = chunk_samples
        memory = mmap.mmap(descriptor, pool_bytes(slots, chunk_samples))
        self.audio: Samples = np.frombuffer(memory, np.float32).reshape(PLACES * slots, chunk_samples)

    @classmethod
    def new(cls, slots: int, *, first_chunk_samples: int, chunk_samples: int) -> SamplePool:
        """Makes memory that is all zero, and the pool of it.

        Raises:
            OSError: the system gives no such memory.
        """
        descriptor = _nameless_file()
        os.truncate(descriptor, pool_bytes(slots, chunk_samples))
        return cls(descriptor, slots, first_chunk_samples=first_chunk_samples, chunk_samples=chunk_samples)

    @staticmethod
    def row(slot: int, place: int) -> int:
        """Returns the row of `audio` of a slot's place."""
        return PLACES * slot + place

    def write(self, slot: int, place: int, samples: Samples, flags: int) -> None:
        """Lays a chunk out as the model wants it.

        Args:
            slot: whose lease the caller holds.
            place: where no chunk waits.
            samples: float32 [n], no more than a chunk with these flags has.
            flags: `ChunkFlags`.
        """
        row = self.audio[PLACES * slot + place]
        if not flags:
            row[:] = samples
            return
        start = chunk_offset(
            flags, first_chunk_samples=self._first_chunk_samples, chunk_samples=self._chunk_samples
        )
        row[:start] = 0.0
        row[start : start + len(samples)] = samples
        if flags & _LAST:
            row[start + len(samples) :] = 0.0

    def close(self) -> None:
        """Gives the descriptor back; the memory stays as long as `audio` or another process has it."""
        os.close(self.descriptor)


def pool_bytes(slots: int, chunk_samples: int) -> int:
    """Returns how large the memory of a pool is; at least a byte, since none cannot be mapped."""
    return max(1, PLACES * slots * chunk_samples * np.dtype(np.float32).itemsize)


def _nameless_file() -> int:
    """Opens memory that has no name; where the system has none, a file that is already removed."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("asr-samples", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
