from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.sessions.packet_load import LATE_S, MOST_BUSY, WINDOW_S, PacketLoad


def after(seconds: float, *, busy: float, streams: int, late_s: float = 0.0) -> PacketLoad:
    load = PacketLoad()
    for look in range(int(10 * seconds) + 1):
        load.add(look / 10, busy * look / 10, late_s, streams)
    return load


@given(st.integers(1, 1000), st.floats(0.21, 1.0))
def test_it_tells_how_many_streams_fill_a_core(streams: int, busy: float) -> None:
    load = after(WINDOW_S, busy=busy, streams=streams)
    assert abs(load.busy - busy) < 1e-6
    assert abs(load.carries - streams * MOST_BUSY / busy) <= 1.01
    assert load.is_full is (load.busy >= MOST_BUSY)


def test_a_loop_that_is_nearly_idle_says_nothing() -> None:
    load = after(WINDOW_S, busy=0.1, streams=3)
    assert (load.carries, load.is_full) == (0, False)


def test_a_moment_says_nothing() -> None:
    load = after(1.0, busy=1.0, streams=3, late_s=1.0)
    assert (load.carries, load.is_full, load.busy) == (0, False, 0.0)


def test_a_loop_that_wakes_up_late_is_full_whatever_it_takes() -> None:
    assert after(WINDOW_S, busy=0.3, streams=100, late_s=LATE_S).is_full
    assert not after(WINDOW_S, busy=0.3, streams=0, late_s=LATE_S).is_full


def test_what_is_over_is_forgotten() -> None:
    load = after(WINDOW_S, busy=0.9, streams=100)
    assert load.is_full
    cpu_s = 0.9 * WINDOW_S
    for look in range(1, 60):
        load.add(WINDOW_S + look / 10, cpu_s + 0.25 * look / 10, 0.0, 50)
    assert not load.is_full
    assert 155 <= load.carries <= 165
