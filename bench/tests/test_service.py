"""How bench.service judges: what keeps up, what falls behind, what was not found."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from bench.bare_step import Batch, in_real_time
from bench.efficiency import LIMIT_S, BareStep, in_turns, keeps_up, try_bare, unbounded
from bench.service import missing
from bench.up_and_down import UpAndDown
from clients.loadgen.plan import Heard, Plan
from clients.loadgen.report import growth, summarize

CHUNK_S = 0.16
PLAN = Plan.of(bytes(640), 20, 20.0)


def streams(count: int, speed: float, latency_s: float = 0.15) -> list[Heard]:
    """What is heard of a server that works at `speed` times real time: each chunk waits for those before it."""
    heard = []
    for index in range(count):
        interims = []
        done_at = 0.0
        for chunk in range(1, int(PLAN.seconds / CHUNK_S) + 1):
            due = chunk * CHUNK_S
            done_at = max(due + latency_s + 0.001 * index, done_at + CHUNK_S / speed)
            interims.append((done_at, done_at - due))
        heard.append(Heard(outcome="ok", interims=interims, finals=[0.1]))
    return heard


@pytest.mark.parametrize(
    ("speed", "ok"), [(1.2, True), (1.0, True), (0.995, True), (0.985, False), (0.97, False), (0.8, False)]
)
def test_what_falls_behind_does_not_keep_up_before_it_is_late(speed: float, ok: bool) -> None:
    report = summarize(streams(8, speed), PLAN, PLAN.seconds, LIMIT_S)
    assert keeps_up(report, PLAN.seconds) == ok
    if speed == 0.985:
        assert report["sustained"] == 8, "the limit alone would not have told"


def test_in_a_short_run_latency_may_wander_by_half_a_chunk() -> None:
    ok = {"streams": 5, "sustained": 5, "interim_growth_ms": 80.0}
    assert keeps_up(ok, 8.0)
    assert not keeps_up(ok | {"interim_growth_ms": 81.0}, 8.0)


def test_who_says_nothing_does_not_keep_up() -> None:
    silent = [Heard(outcome="ok", finals=[0.1])]
    assert growth(silent, PLAN) is None
    report = summarize(silent, PLAN, PLAN.seconds, LIMIT_S)
    assert report["sustained"] == 1 and report["interim_growth_ms"] is None
    assert not keeps_up(report, PLAN.seconds)


def test_one_stream_that_fails_is_enough() -> None:
    heard = streams(3, 1.1)
    heard[1].outcome = "RESOURCE_EXHAUSTED"
    assert not keeps_up(summarize(heard, PLAN, PLAN.seconds, LIMIT_S), PLAN.seconds)


def test_slots_do_not_bound_what_is_measured() -> None:
    asked: list[int] = []

    def measure(slots: int) -> dict[str, Any]:
        asked.append(slots)
        return {"streams": min(slots, 170)}

    assert unbounded(measure, 80) == {"streams": 170}
    assert asked == [80, 160, 320]
    with pytest.raises(RuntimeError, match="MOST_SLOTS"):
        unbounded(lambda slots: {"streams": slots}, 80)


@pytest.mark.parametrize("limit", [0.5, 0.8, 0.84, 0.97])
def test_up_and_down_finds_where_half_of_the_tries_keep_up(limit: float) -> None:
    """Tries that are decided by chance near the limit, from a level that may be far from it."""
    random = Random(7)
    search = UpAndDown(0.85, 0.03)
    while len(search.tried[search.settled]) < 60:
        search.took(search.level, search.level < limit + random.gauss(0, 0.03))
    assert search.estimate == pytest.approx(limit, abs=0.015)


def test_tries_that_all_go_one_way_are_no_answer() -> None:
    search = UpAndDown(0.85, 0.03)
    for _ in range(9):
        search.took(search.level, True)
        assert search.estimate is None
    search.took(search.level, False)
    assert search.estimate == pytest.approx(0.85 * (1 + 8.5 * 0.03))


def test_the_bare_step_is_late_by_what_it_lacks_of_real_time() -> None:
    """Steps of 100 ms end 100 ms after their chunk of 80 ms at first, and 20 ms later each time."""
    now = [5.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    class Steps(Batch):
        def __init__(self) -> None:
            self.ms = 100.0

        def step(self) -> float:
            now[0] += self.ms / 1000
            return self.ms / 1000

    ended = in_real_time(Steps(), 0.08, 0.81, lambda: now[0], sleep)
    assert [round(1000 * late) for _, late in ended] == [100 + 20 * at for at in range(10)]
    fast = Steps()
    fast.ms = 50.0
    ended = in_real_time(fast, 0.08, 0.81, lambda: now[0], sleep)
    assert [(round(1000 * at), round(1000 * late)) for at, late in ended] == [
        (80 * number + 50, 50) for number in range(1, 11)
    ]


class LateBare(BareStep):
    """A process that is not there, each of whose steps ends so much later than the one before."""

    def __init__(self, by_s: float) -> None:
        self.by_s = by_s

    def late(self, streams: int, seconds: float) -> Heard:
        """As `BareStep.late`."""
        steps = range(1, int(seconds / CHUNK_S) + 1)
        return Heard(outcome="ok", interims=[(CHUNK_S * step, 0.1 + self.by_s * step) for step in steps])


@pytest.mark.parametrize(("short", "ok"), [(0.0, True), (0.005, True), (0.015, False), (0.1, False)])
def test_one_measure_judges_the_bare_step_and_the_service(short: float, ok: bool) -> None:
    assert try_bare(LateBare(short * CHUNK_S), PLAN, 8)["keeps_up"] == ok
    report = summarize(streams(8, 1 - short), PLAN, PLAN.seconds, LIMIT_S)
    assert keeps_up(report, PLAN.seconds) == ok


def tried(limit: float) -> Callable[[int], dict[str, Any]]:
    """Tries that keep up as long as there are not more than so many streams."""

    def attempt(streams: int) -> dict[str, Any]:
        ok = streams <= limit
        lag = {"p99": 1.0 if ok else 50.0}
        return {"keeps_up": ok, "interim_latency_ms": {}, "interim_growth_ms": 0.0, "loop_lag_ms": lag}

    return attempt


def test_the_efficiency_is_of_where_both_keep_up_half_of_the_time() -> None:
    path = in_turns(tried(60.0), tried(54.0), 50.0, 20)
    assert path["efficiency"] == pytest.approx(0.9, abs=0.01)
    assert path["loop_lag_ms"] == {"p99": 1.0}, "of those that kept up"
    assert missing({"path": path}) == []


def test_a_run_without_its_figures_fails() -> None:
    for path in (in_turns(tried(1e9), tried(40.0), 50.0, 3), in_turns(tried(50.0), tried(0.0), 50.0, 3)):
        assert path["efficiency"] is None
        assert missing({"transport": {}, "path": path}) == [
            "all tries of one side went the same way: no efficiency"
        ]
    assert missing({"path": {"efficiency": None, "bare_streams": 0}}) == [
        "the bare step of one stream takes longer than its audio: no efficiency"
    ]
    live = {"interim": {"p50": 1.0}, "final": {"p50": 1.0}}
    assert missing({"live": {}, "latency_ms": live}) == []
    assert missing({"live": {}, "latency_ms": live | {"final": {}}})
