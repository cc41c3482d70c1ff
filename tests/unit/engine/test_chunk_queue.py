"""Chunks are stepped in their order, once each, under the lease that they were sent under."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.core.step import ChunkFlags
from asr_service.engine.chunk_queue import ChunkQueue
from asr_service.engine.frames import RECORD, Records, pack_chunk
from asr_service.engine.sample_pool import SamplePool
from asr_service.engine.slot_scheduler import SlotScheduler
from asr_service.engine.slots import Slots

SLOTS, FIRST_SAMPLES, SAMPLES = 3, 4, 6


class Engine:
    """A queue with its scheduler, and a plain model of it: lists of the counts of the chunks that wait."""

    def __init__(self) -> None:
        self.pool = SamplePool.new(SLOTS, first_chunk_samples=FIRST_SAMPLES, chunk_samples=SAMPLES)
        self.slots = Slots(SLOTS)
        self.scheduler = SlotScheduler(SLOTS, max_batch=SLOTS, tick_s=0, upload_budget_s=1)
        self.scheduler.add_step_time(SLOTS, 0.001)
        self.queue = ChunkQueue(self.pool, self.slots, self.scheduler)
        # (slot, lease) of every lease so far, and what waits under those that are not over.
        self.leases: list[tuple[int, int]] = []
        self.waiting: dict[tuple[int, int], list[int]] = {}

    def step(self, now: float) -> None:
        """Steps all that is ready and compares it with the plain model."""
        slots = self.scheduler.take_batch(now)
        batch = self.queue.batch(slots)
        stepped = dict(zip(batch.slots.tolist(), batch.counts.tolist(), strict=True))
        expected = {slot: counts[0] for (slot, _), counts in self.waiting.items() if counts}
        assert stepped == expected
        for slot, row in zip(batch.slots.tolist(), batch.rows.tolist(), strict=True):
            assert row // 2 == slot
        self.queue.stepped(slots, self.queue.leases(slots), now)
        for counts in self.waiting.values():
            del counts[:1]


def records(*chunks: bytes) -> Records:
    return np.frombuffer(b"".join(chunks), RECORD)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 1)),
        st.tuples(st.just("close"), st.integers(0, 9)),
        st.tuples(st.just("put"), st.lists(st.integers(0, 9), max_size=6)),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.just("gone"), st.integers(0, 1)),
    ),
    max_size=50,
)


@settings(max_examples=200)
@given(ACTIONS)
def test_any_order_of_leases_chunks_and_steps_equals_a_plain_model(actions: list[tuple[str, object]]) -> None:
    engine, link_of, count = Engine(), dict[tuple[int, int], int](), 0
    for number, (action, argument) in enumerate(actions):
        now = float(number)
        if action == "open":
            assert isinstance(argument, int)
            lease = engine.queue.open(argument)
            assert (lease is None) == (len(engine.waiting) == SLOTS)
            if lease is not None:
                assert lease not in engine.leases
                engine.leases.append(lease)
                engine.waiting[lease] = []
                link_of[lease] = argument
        elif action == "close" and engine.leases:
            assert isinstance(argument, int)
            lease = engine.leases[argument % len(engine.leases)]
            assert engine.queue.close(*lease) == (lease in engine.waiting)
            engine.waiting.pop(lease, None)
        elif action == "put" and engine.leases:
            assert isinstance(argument, list)
            chunks = []
            for one in argument:
                lease = engine.leases[one % len(engine.leases)]
                waiting = engine.waiting.get(lease)
                if waiting is not None and len(waiting) == 2:
                    continue
                count += 1
                slot, held_as = lease
                chunks.append(pack_chunk(slot, held_as, count, 0, count % 2, now))
                if waiting is not None:
                    waiting.append(count)
            engine.queue.put(records(*chunks))
        elif action == "step":
            engine.step(now)
        elif action == "gone":
            held = [lease for lease in engine.waiting if link_of[lease] == argument]
            assert engine.queue.close_link(argument) == len(held)  # type: ignore[arg-type]
            for lease in held:
                del engine.waiting[lease]
        engine.queue.check()
    engine.step(1e9)
    engine.step(1e9)
    assert not len(engine.scheduler)


def test_a_third_chunk_of_a_slot_is_refused() -> None:
    engine = Engine()
    lease = engine.queue.open(0)
    assert lease
    chunk = pack_chunk(*lease, 1, 0, 0, 0.0)
    with pytest.raises(ValueError, match="more than 2"):
        engine.queue.put(records(chunk, chunk, chunk))
    engine = Engine()
    engine.queue.open(0)
    engine.queue.put(records(chunk, chunk))
    with pytest.raises(ValueError, match="more than 2"):
        engine.queue.put(records(chunk))


def test_a_chunk_of_no_slot_is_refused() -> None:
    with pytest.raises(ValueError, match=f"slot {SLOTS}"):
        Engine().queue.put(records(pack_chunk(SLOTS, 0, 1, 0, 0, 0.0)))


def test_nothing_follows_a_chunk_that_could_not_be_answered() -> None:
    engine = Engine()
    lease = engine.queue.open(0)
    assert lease
    first, second, third = (pack_chunk(*lease, n, 0, n % 2, 0.0) for n in (1, 2, 3))
    engine.queue.put(records(first, second))
    slots = engine.scheduler.take_batch(1.0)
    engine.queue.stepped(slots, engine.queue.leases(slots), 1.0)
    engine.queue.kill(slots, engine.queue.leases(slots))
    engine.queue.put(records(third))
    assert not len(engine.scheduler)
    assert engine.queue.close(*lease)
    engine.queue.check()


def test_running_slots_have_begun_a_segment_and_not_ended_it() -> None:
    engine = Engine()
    lease = engine.queue.open(0)
    assert lease
    for flags, running in ((ChunkFlags.FIRST, 1), (0, 1), (ChunkFlags.LAST, 0), (ChunkFlags.FIRST, 1)):
        engine.queue.put(records(pack_chunk(*lease, 1, flags, 0, 0.0)))
        slots = engine.scheduler.take_batch(1.0)
        engine.queue.batch(slots)
        engine.queue.stepped(slots, engine.queue.leases(slots), 1.0)
        assert engine.queue.running == running
    engine.queue.close(*lease)
    assert engine.queue.running == 0


@pytest.mark.parametrize(
    ("flags", "count", "row"),
    [
        (0, 6, [1, 2, 3, 4, 5, 6]),
        (ChunkFlags.FIRST, 4, [0, 0, 1, 2, 3, 4]),
        (ChunkFlags.LAST, 2, [1, 2, 0, 0, 0, 0]),
        (ChunkFlags.FIRST | ChunkFlags.LAST, 3, [0, 0, 1, 2, 3, 0]),
        (ChunkFlags.LAST, 0, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_another_process_sees_a_chunk_laid_out_for_the_model(
    flags: int, count: int, row: list[float]
) -> None:
    pool = SamplePool.new(2, first_chunk_samples=FIRST_SAMPLES, chunk_samples=SAMPLES)
    other = SamplePool(pool.descriptor, 2, first_chunk_samples=FIRST_SAMPLES, chunk_samples=SAMPLES)
    pool.audio[:] = 9.0
    pool.write(1, 1, np.arange(1, count + 1, dtype=np.float32), flags)
    assert other.audio[other.row(1, 1)].tolist() == row
    assert (other.audio[:3] == 9.0).all()
    pool.close()
