"""Batches of slots chosen by arrays are those that are chosen stream by stream (`test_scheduler.py` has the rules)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_service.engine.scheduler import Scheduler
from asr_service.engine.slot_scheduler import SlotScheduler

SLOTS = 6
MOMENTS = st.integers(0, 40)
ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, SLOTS - 1), st.integers(0, 120)),
    st.tuples(st.just("remove"), st.integers(0, SLOTS - 1), st.just(0)),
    st.tuples(st.just("take"), st.just(0), st.integers(0, 5)),
    st.tuples(st.just("time"), st.integers(1, SLOTS), st.integers(1, 200)),
)


@given(st.integers(1, SLOTS), st.sampled_from([0.0, 0.02]), st.lists(ACTIONS, max_size=60))
def test_it_takes_what_a_heap_of_streams_takes(
    max_batch: int, tick_s: float, actions: list[tuple[str, int, int]]
) -> None:
    by_stream = Scheduler(max_batch=max_batch, tick_s=tick_s, upload_budget_s=0.08)
    by_slot = SlotScheduler(SLOTS, max_batch=max_batch, tick_s=tick_s, upload_budget_s=0.08)
    now = 0.0
    ready: set[int] = set()
    for number, (action, subject, amount) in enumerate(actions):
        if action == "add" and subject not in ready:
            # No two are due at the same moment: which of them goes first is nobody's business.
            due = amount / 1000 + number * 1e-6
            by_stream.add(subject, due)
            by_slot.add(np.array([subject]), np.array([due]))
            ready.add(subject)
        elif action == "remove":
            by_stream.remove(subject)
            by_slot.remove(subject)
            ready.discard(subject)
        elif action == "take":
            now += amount * 0.006
            batch = by_stream.take_batch(now)
            assert sorted(by_slot.take_batch(now).tolist()) == sorted(batch)
            ready -= set(batch)
        elif action == "time":
            by_stream.add_step_time(subject, amount / 1000)
            by_slot.add_step_time(subject, amount / 1000)
        assert len(by_slot) == len(by_stream) == len(ready)
        assert by_slot.wait(now) == by_stream.wait(now)
