"""Whatever the load: nobody starves, nobody is stepped twice at once, uploads stand behind live streams."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scheduling import Scheduler

CHUNK_S = 0.16


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.sampled_from([0.0, 0.02]),
    st.lists(st.tuples(st.integers(0, 12), st.floats(0, 3), st.booleans()), max_size=60),
)
def test_each_ready_stream_is_taken_once_oldest_first(
    max_batch: int, tick_s: float, arrivals: list[tuple[int, float, bool]]
) -> None:
    scheduler = Scheduler(max_batch=max_batch, tick_s=tick_s, upload_budget_s=0.08)
    ready: dict[int, float] = {}
    now = 0.0
    gone: set[int] = set()
    for stream, due, leaves in arrivals:
        if leaves:
            scheduler.remove(stream)
            ready.pop(stream, None)
            gone.add(stream)
        elif stream not in ready and stream not in gone:
            scheduler.add_one(stream, due)
            ready[stream] = due
        assert len(scheduler) == len(ready)
        now += 0.005
        batch = scheduler.take(now)
        scheduler.add_step_time(len(batch) or 1, 0.001)
        assert len(batch) <= max_batch
        assert len(set(batch)) == len(batch)
        taken = [ready.pop(stream) for stream in batch]
        assert taken == sorted(taken)
        live_left = [due for due in ready.values() if due <= now]
        if batch and live_left:
            assert len(batch) == max_batch
            assert max(taken) <= min(live_left)
    while ready:  # nobody starves: without new arrivals all are served
        wait = scheduler.wait(now)
        assert wait is not None
        now += wait + 1e-9
        batch = scheduler.take(now)
        assert batch
        for stream in batch:
            del ready[stream]
    assert scheduler.wait(now) is None


@settings(deadline=None, max_examples=40)
@given(
    live=st.integers(1, 12),
    uploads=st.integers(0, 12),
    max_batch=st.integers(1, 8),
    row_s=st.floats(0.0005, 0.003),
)
def test_uploads_never_delay_a_live_stream_by_more_than_a_step(
    live: int, uploads: int, max_batch: int, row_s: float
) -> None:
    """A machine that keeps up with its live streams, with and without uploads beside them, for 3 s."""

    def longest_wait(uploads: int) -> tuple[float, float, int]:
        scheduler = Scheduler(max_batch=max_batch, tick_s=0.0, upload_budget_s=CHUNK_S / 2)
        next_chunk = {stream: CHUNK_S * (1 + stream / live) for stream in range(live)}
        for stream in range(live, live + uploads):
            scheduler.add_one(stream, 100.0)
        due_at: dict[int, float] = {}
        now, worst, longest, uploaded = 0.0, 0.0, 0.0, 0
        while now < 3.0:
            for stream, due in next_chunk.items():
                if due <= now:
                    scheduler.add_one(stream, due)
                    due_at[stream] = due
                    next_chunk[stream] = due + CHUNK_S
            batch = scheduler.take(now)
            if not batch:
                now = min(next_chunk.values())
                continue
            for stream in batch:
                if stream < live:
                    worst = max(worst, now - due_at.pop(stream))
            seconds = 0.002 + row_s * len(batch)
            scheduler.add_step_time(len(batch), seconds)
            longest = max(longest, seconds)
            now += seconds
            for stream in batch:
                if stream >= live:
                    uploaded += 1
                    scheduler.add_one(stream, 100.0 + uploaded)
        return worst, longest, uploaded

    alone, _, _ = longest_wait(0)
    beside, step_s, uploaded = longest_wait(uploads)
    steps = -(-live // max_batch)  # rounds that the live streams themselves may need
    assert beside <= alone + step_s * steps + 1e-6
    assert (uploaded > 0) == (uploads > 0)
