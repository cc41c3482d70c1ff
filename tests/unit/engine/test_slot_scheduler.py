from __future__ import annotations

import pytest

from tests.support.scheduling import Scheduler


def scheduler(max_batch: int = 4, tick_s: float = 0.02) -> Scheduler:
    made = Scheduler(max_batch=max_batch, tick_s=tick_s, upload_budget_s=0.08)
    made.add_step_time(max_batch, 0.001)
    return made


def test_nothing_ready_waits_for_ever() -> None:
    made = scheduler()
    assert made.wait(1.0) is None
    assert made.take(1.0) == []


def test_an_idle_engine_steps_at_once() -> None:
    made = scheduler()
    made.add_one(7, 1.0)
    assert made.wait(1.0) == 0
    assert made.take(1.0) == [7]
    assert len(made) == 0


def test_live_streams_gather_for_one_tick_from_the_previous_step() -> None:
    made = scheduler()
    made.add_one(1, 1.0)
    assert made.take(1.0) == [1]
    made.add_one(2, 1.001)
    assert made.take(1.005) == []
    assert made.wait(1.005) == pytest.approx(0.015)
    made.add_one(3, 1.010)
    assert made.take(1.020) == [2, 3]


def test_a_full_batch_does_not_wait() -> None:
    made = scheduler(max_batch=2)
    made.add_one(1, 1.0)
    made.take(1.0)
    made.add_one(2, 1.001)
    made.add_one(3, 1.002)
    assert made.take(1.002) == [2, 3]


def test_a_step_that_outlasts_the_tick_is_followed_at_once() -> None:
    made = scheduler()
    made.add_one(1, 1.0)
    made.take(1.0)
    made.add_one(2, 1.1)
    assert made.wait(1.15) == 0


def test_tick_zero_does_not_gather() -> None:
    made = scheduler(tick_s=0)
    made.add_one(1, 1.0)
    assert made.take(1.0) == [1]
    made.add_one(2, 1.0)
    assert made.take(1.0) == [2]


def test_oldest_first() -> None:
    made = scheduler(max_batch=2)
    for stream, due in ((1, 3.0), (2, 1.0), (3, 2.0)):
        made.add_one(stream, due)
    assert made.take(4.0) == [2, 3]
    assert made.take(4.0) == []  # one stream, within the tick
    assert made.take(4.1) == [1]


def test_uploads_fill_the_places_that_live_streams_leave() -> None:
    made = scheduler(max_batch=3)
    for stream in (1, 2, 3):
        made.add_one(stream, 50.0 + stream)
    made.add_one(4, 1.0)
    made.add_one(5, 0.9)
    assert made.take(1.0) == [5, 4, 1]


def test_uploads_do_not_displace_live_streams() -> None:
    made = scheduler(max_batch=2)
    for stream in range(10):
        made.add_one(stream, 50.0)
    made.add_one(10, 1.0)
    made.add_one(11, 1.0)
    assert made.take(1.0) == [10, 11]


def test_uploads_alone_run_without_pause() -> None:
    made = scheduler()
    for _ in range(5):
        made.add_one(1, 99.0)
        assert made.wait(1.0) == 0
        assert made.take(1.0) == [1]


def test_a_live_stream_does_not_wait_for_a_tick_after_an_upload_step() -> None:
    made = scheduler()
    made.add_one(1, 99.0)
    made.take(1.0)
    made.add_one(2, 1.001)
    assert made.take(1.001) == [2]


def test_uploads_join_as_far_as_the_step_stays_within_its_budget() -> None:
    slow = scheduler(max_batch=100)
    slow.add_step_time(100, 2.0)  # 20 ms a stream: four in the budget of 80 ms
    for stream in range(50):
        slow.add_one(stream, 99.0)
    assert len(slow.take(1.0)) == 4
    for live in range(100, 110):
        slow.add_one(live, 1.0)
    batch = slow.take(1.0)
    assert batch[:10] == list(range(100, 110))
    assert len(batch) == 11  # one at least, so that uploads get on beside any number of live streams


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "settled"),
    [(0.010, 0.0001, 128), (0.0, 0.015, 5), (0.005, 0.2, 1)],  # a GPU, a CPU, a CPU that is too slow
)
def test_the_budget_follows_what_steps_cost(fixed_s: float, row_s: float, settled: int) -> None:
    made = Scheduler(max_batch=128, tick_s=0, upload_budget_s=0.08)
    ready: set[int] = set()
    sizes = []
    for _ in range(10):
        for stream in set(range(128)) - ready:
            made.add_one(stream, 99.0)
        batch = made.take(1.0)
        ready = set(range(128)) - set(batch)
        made.add_step_time(len(batch), fixed_s + row_s * len(batch))
        sizes.append(len(batch))
    assert sizes[0] == 1
    assert sizes[-2:] == [settled, settled]


def test_removed_streams_are_not_taken() -> None:
    made = scheduler()
    made.add_one(1, 1.0)
    made.add_one(2, 1.0)
    made.remove(1)
    made.remove(3)
    assert made.take(1.0) == [2]
    assert made.wait(1.0) is None
