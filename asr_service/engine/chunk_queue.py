"""The chunks that wait at each slot, at most two, and the leases that they come under. Arrays by slot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.engine.frames import RECORD, Records
from asr_service.engine.sample_pool import PLACES, SamplePool
from asr_service.engine.slot_scheduler import Indices, SlotScheduler
from asr_service.engine.slots import Slots

NO_LINK = -1
# As plain numbers: operations on an enum's members take long.
_FIRST, _LAST = int(ChunkFlags.FIRST), int(ChunkFlags.LAST)


class ChunkQueue:
    """Takes chunks from front ends and makes batches of them.

    A slot's chunks are stepped one after the other, in the order in which they come. What comes under a lease that is
    over is ignored, and so is what follows a chunk that could not be answered.

    Args:
        pool: in which the chunks' samples lie.
        slots: leases the slots.
        scheduler: takes the slots that have a chunk.
    """

    def __init__(self, pool: SamplePool, slots: Slots, scheduler: SlotScheduler) -> None:
        count = slots.count
        self._pool = pool
        self._slots = slots
        self._scheduler = scheduler
        self._next = np.zeros(count, RECORD)
        self._after_next = np.zeros(count, RECORD)
        self._waiting = np.zeros(count, np.uint8)
        # The number of the slot's lease, one higher each time that one begins or ends.
        self._lease = np.zeros(count, np.uint32)
        self._link = np.full(count, NO_LINK, np.int16)
        self._dead = np.zeros(count, bool)
        self._running = np.zeros(count, bool)
        # When the slot's last chunk was answered.
        self._answered = np.full(count, -np.inf)
        # Where in the records of one intake a slot was seen last.
        self._seen = np.zeros(count, np.intp)

    @property
    def running(self) -> int:
        """How many slots have a segment that has begun."""
        return int(np.count_nonzero(self._running))

    def links(self, slots: Indices) -> npt.NDArray[np.int16]:
        """Returns the links whose front ends hold these slots."""
        return self._link[slots]

    def leases(self, slots: Indices) -> npt.NDArray[np.uint32]:
        """Returns the numbers of the leases of these slots."""
        return self._lease[slots]

    def open(self, link: int) -> tuple[int, int] | None:
        """Leases a free slot to the front end at a link.

        Returns:
            The slot and the number of its lease, which no other of the slot has had; None if no slot is free.
        """
        slot = self._slots.lease()
        if slot is None:
            return None
        self._lease[slot] += np.uint32(1)
        self._link[slot] = link
        self._answered[slot] = -np.inf
        return slot, int(self._lease[slot])

    def close(self, slot: int, lease: int) -> bool:
        """Ends a lease and forgets the slot's chunks; does nothing if the lease is over. Returns whether it was not."""
        if slot >= len(self._lease) or self._link[slot] == NO_LINK or int(self._lease[slot]) != lease:
            return False
        self._scheduler.remove(slot)
        self._lease[slot] += np.uint32(1)
        self._link[slot] = NO_LINK
        self._waiting[slot] = 0
        self._dead[slot] = self._running[slot] = False
        self._slots.give_back(slot)
        return True

    def close_link(self, link: int) -> int:
        """Ends all leases of the front end at a link, which is gone; returns how many."""
        slots = np.flatnonzero(self._link == link).tolist()
        for slot in slots:
            self.close(slot, int(self._lease[slot]))
        return len(slots)

    def put(self, chunks: Records) -> None:
        """Takes chunks in, in the order in which they came. Of a slot there are two at most.

        Raises:
            ValueError: a chunk is for a place, or of a slot, that cannot have one more.
        """
        if not len(chunks):
            return
        slots = chunks["slot"].astype(np.intp)
        if slots.max() >= len(self._lease):
            raise ValueError(f"a chunk for slot {slots.max()}: there are {len(self._lease)}")
        known = (self._lease[slots] == chunks["lease"]) & ~self._dead[slots]
        if not known.all():
            chunks, slots = chunks[known], slots[known]
        # Both chunks of a slot may have come at once: the first of them goes before the second.
        order = np.arange(len(slots))
        self._seen[slots] = order
        is_latest = self._seen[slots] == order
        if is_latest.all():
            self._put_each_once(chunks, slots)
            return
        earlier = slots[~is_latest]
        if len(np.unique(earlier)) != len(earlier):
            raise ValueError(f"more than {PLACES} chunks of a slot")
        self._put_each_once(chunks[~is_latest], earlier)
        self._put_each_once(chunks[is_latest], slots[is_latest])

    def _put_each_once(self, chunks: Records, slots: npt.NDArray[np.intp]) -> None:
        waiting = self._waiting[slots]
        if (waiting >= PLACES).any():
            raise ValueError(f"more than {PLACES} chunks of a slot")
        is_next = waiting == 0
        self._waiting[slots] = waiting + 1
        if not is_next.all():
            self._after_next[slots[~is_next]] = chunks[~is_next]
            chunks, slots = chunks[is_next], slots[is_next]
        self._next[slots] = chunks
        self._scheduler.add(slots, np.maximum(chunks["due"], self._answered[slots]))

    def batch(self, slots: Indices) -> StepBatch:
        """Makes the batch of the next chunks of these slots, which the scheduler has given out."""
        chunks = self._next[slots]
        flags = chunks["flags"]
        self._running[slots[flags & _FIRST != 0]] = True
        return StepBatch(
            slots=slots.astype(np.int32),
            audio=self._pool.audio,
            rows=(PLACES * slots + chunks["place"]).astype(np.int32),
            counts=chunks["count"].astype(np.int32),
            flags=flags,
        )

    def due(self, slots: Indices) -> npt.NDArray[np.float64]:
        """Returns when the next chunks of these slots are due by the clock of their audio, monotonic."""
        due: npt.NDArray[np.float64] = np.maximum(self._next["due"][slots], self._answered[slots])
        return due

    def stepped(self, slots: Indices, leases: npt.NDArray[np.uint32], ended: float) -> None:
        """Goes on to the chunks after those that a step has answered.

        Args:
            slots: of the batch.
            leases: of these slots when the step began; a slot whose lease is over since then is left as it is.
            ended: monotonic time at which the step ended.
        """
        held = self._lease[slots] == leases
        if not held.all():
            slots = slots[held]
        waiting = self._waiting[slots] - 1
        self._waiting[slots] = waiting
        self._answered[slots] = ended
        self._running[slots[self._next["flags"][slots] & _LAST != 0]] = False
        more = slots[waiting > 0]
        if len(more):
            self._next[more] = self._after_next[more]
            self._scheduler.add(more, np.maximum(self._next["due"][more], ended))

    def kill(self, slots: Indices, leases: npt.NDArray[np.uint32]) -> None:
        """Drops the chunks of these slots, of which one could not be answered, and those that still come.

        Args:
            slots: of the chunks.
            leases: under which they came; a slot whose lease is over is left as it is.
        """
        slots = slots[self._lease[slots] == leases]
        for slot in slots.tolist():
            self._scheduler.remove(slot)
        self._waiting[slots] = 0
        self._dead[slots] = True

    def check(self) -> None:
        """Checks the books: what is not leased has no link, no chunk and no due time. Raises RuntimeError."""
        self._slots.check()
        free = self._link == NO_LINK
        if np.count_nonzero(free) != len(self._slots.free):
            raise RuntimeError(
                f"slots: {np.count_nonzero(free)} have no link, {len(self._slots.free)} are free"
            )
        if self._waiting[free].any() or (self._scheduler.due[free] < np.inf).any():
            raise RuntimeError("a free slot has a chunk")
