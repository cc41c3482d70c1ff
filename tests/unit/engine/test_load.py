"""The load is what live chunks wait and take, without hiccups and without what is long past."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.engine.load import LEAST_STEPS, WINDOW_S, Load


@given(st.lists(st.floats(0, 10), min_size=LEAST_STEPS, max_size=300))
def test_the_load_is_the_95th_percentile(shares: list[float]) -> None:
    load = Load()
    for share in shares:
        load.add(0.0, share)
    value = load.value(1.0)
    above = sum(share > value for share in shares)
    assert value in shares
    assert above <= len(shares) / 20
    assert above + shares.count(value) > len(shares) // 20


@given(st.floats(1.1, 10), st.floats(0.02, 2.4))
def test_slow_steps_are_load_too(share: float, step_s: float) -> None:
    """However long the steps are: an overload is told before it has lasted for a window."""
    load, now = Load(), 0.0
    while now < WINDOW_S:
        now += step_s
        load.add(now, share)
    assert load.value(now) == share


def test_one_hiccup_is_no_load() -> None:
    load = Load()
    for second in range(9):
        load.add(float(second), 3.0 if second == 4 else 0.2)
    assert load.value(9.0) == 0.2


def test_the_load_forgets() -> None:
    load = Load()
    for step in range(LEAST_STEPS):
        assert load.value(0.0) == 0.0, "too little to tell"
        load.add(step / 100, 5.0)
    assert load.value(0.2) == 5.0
    assert load.value(WINDOW_S + 0.5) == 0.0


def test_live_chunks_are_counted_over_the_whole_window() -> None:
    load = Load()
    for step in range(1, 21):
        load.add(step / 2, 0.1, streams=3)
    assert load.chunks_per_s(10.0) == 6.0
    assert load.chunks_per_s(15.2) == 3.0
    assert load.chunks_per_s(30.0) == 0.0
