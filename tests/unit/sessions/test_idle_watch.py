from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.sessions.idle_watch import Idle, IdleWatch

LIMIT_S = 300.0
# Whole seconds: their sums are exact.
times = st.integers(0, 1_000_000).map(float)


def test_a_client_that_sends_nothing_is_idle_once_its_time_is_over() -> None:
    watch = IdleWatch(LIMIT_S, heard_at=10.0)
    assert watch.check(10.0) == LIMIT_S
    assert watch.check(309.0) == 1.0
    assert watch.check(310.0) is Idle.NOTHING_RECEIVED
    watch.heard_at = 309.0
    assert watch.check(310.0) == 299.0


@given(now=times)
def test_a_client_that_is_held_back_is_never_idle(now: float) -> None:
    assert IdleWatch(LIMIT_S, heard_at=0.0, held_back=True).check(now) == LIMIT_S


@given(now=times, held_back=st.booleans())
def test_the_tail_has_all_the_time_it_takes(now: float, held_back: bool) -> None:
    assert IdleWatch(LIMIT_S, heard_at=0.0, held_back=held_back, half_closed=True).check(now) == LIMIT_S


def test_reading_is_watched_from_the_half_close_on() -> None:
    watch = IdleWatch(LIMIT_S, heard_at=100.0, half_closed=True, writing_since=5.0)
    assert watch.check(399.0) == 1.0
    assert watch.check(400.0) is Idle.NOTHING_READ
    watch.writing_since = 399.0
    assert watch.check(400.0) == 299.0


@given(now=times, since=times)
def test_before_the_half_close_a_client_that_does_not_read_is_not_idle(now: float, since: float) -> None:
    """Its finals are bounded in number, and interims replace each other: it may read when it likes."""
    assert IdleWatch(LIMIT_S, heard_at=now, writing_since=since).check(now) == LIMIT_S
