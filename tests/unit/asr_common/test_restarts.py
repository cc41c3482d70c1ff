from __future__ import annotations

from asr_common.restarts import FIRST_WAIT_S, LONGEST_WAIT_S, MOST_IN_A_ROW, STEADY_S, Restarts


def test_each_end_in_a_row_waits_twice_as_long_until_it_is_given_up() -> None:
    restarts = Restarts()
    waits = [restarts.ended(0.0) for _ in range(MOST_IN_A_ROW)]
    assert waits == [*(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**n) for n in range(MOST_IN_A_ROW - 1)), None]


def test_a_process_that_ran_steadily_begins_the_count_anew() -> None:
    restarts = Restarts()
    for _ in range(3 * MOST_IN_A_ROW):
        restarts.ready(100.0)
        assert restarts.ended(100.0 + STEADY_S) == FIRST_WAIT_S


def test_one_that_was_ready_for_a_moment_only_counts() -> None:
    restarts = Restarts()
    for _ in range(MOST_IN_A_ROW - 1):
        restarts.ready(100.0)
        assert restarts.ended(100.0 + STEADY_S / 2) is not None
    assert restarts.ended(100.0 + 2 * STEADY_S) is None
