"""How many slots a step may have after memory ran out: half, and twice as many again and again, each time later."""

from __future__ import annotations

from asr_service.engine.batch_limit import FIRST_WAIT_S, BatchLimit


def test_what_did_not_fit_is_halved() -> None:
    limit = BatchLimit(128)
    assert limit.halve(100, 0.0) and limit.rows == 50
    assert not limit.halve(1, 1.0) and limit.rows == 50
    # A smaller one that failed says more, a larger one that was in flight nothing.
    assert limit.halve(3, 2.0) and limit.rows == 1
    assert not limit.halve(60, 3.0) and limit.rows == 1


def test_it_grows_to_what_warm_up_has_found() -> None:
    limit = BatchLimit(128)
    limit.halve(128, 0.0)
    limit.take_as_most()
    assert not limit.grow(1e9)
    limit.halve(32, 0.0)
    assert not limit.grow(FIRST_WAIT_S - 1)
    assert limit.grow(FIRST_WAIT_S) and limit.rows == 32
    assert not limit.grow(FIRST_WAIT_S + 1)
    assert limit.grow(2 * FIRST_WAIT_S) and limit.rows == 64
    assert not limit.grow(1e9)


def test_each_try_that_fails_makes_the_next_one_later() -> None:
    limit = BatchLimit(16)
    now = wait_s = 0.0
    limit.halve(16, now)
    for expected in (1, 2, 4, 8):
        wait_s = expected * FIRST_WAIT_S
        assert not limit.grow(now + wait_s - 1)
        now += wait_s
        assert limit.grow(now)
        limit.halve(16, now)
    for _ in range(12):
        now += 86_400
        assert limit.grow(now)
        limit.halve(16, now)
