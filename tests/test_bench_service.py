"""How bench.service judges: what keeps up, what falls behind, what was not found."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from asr_service.core import StepRequest, StepResult
from asr_service.model.null import NullModel
from bench.bare_step import sustained_now
from bench.efficiency import LIMIT_S, figures, keeps_up, unbounded
from bench.service import missing
from bench.up_and_down import UpAndDown
from clients.load_report import growth, summarize
from clients.load_streams import Heard, Plan

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
    assert search.estimate == pytest.approx(0.85 + 8.5 * 0.03)


def test_a_line_through_two_batches_tells_how_many_streams_fill_a_chunk() -> None:
    """The null model that costs 20 ms and 3.5 ms a stream, with a clock of its own."""
    clock = [0.0]

    class Costly(NullModel):
        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            clock[0] += 0.02 + 0.0035 * len(requests)
            return super().step(requests)

    model = Costly(slots=64)
    for near in (30.0, 55.0):
        found = sustained_now(model, np.zeros(16000, np.float32), near, 1.0, lambda: clock[0])
        assert found == pytest.approx((model.info.chunk_ms - 20) / 3.5)


def told(kept_up: str) -> dict[str, Any]:
    """What is told of tries that kept up (+) or did not (-), each at its own share."""
    search = UpAndDown(0.85, 0.03)
    tries: list[dict[str, Any]] = []
    for at, sign in enumerate(kept_up):
        one = {"share": search.level, "streams": 40 + at, "bare": 50.0, "loop_lag_ms": {"p99": float(at)}}
        tries.append(one | {"keeps_up": sign == "+"})
        search.took(search.level, sign == "+")
    return figures(tries, search)


def test_tries_from_before_the_first_turn_on_are_told() -> None:
    path = told("---+-+")
    assert path["efficiency"] == pytest.approx((0.79 + 0.76 + 0.79 + 0.76) / 4)
    assert (path["service_streams"], path["bare_streams"]) == (43.5, 50.0)
    assert path["loop_lag_ms"] == {"p99": 4.0}, "of those that kept up"
    assert missing({"path": path}) == []


def test_a_run_without_its_figures_fails() -> None:
    assert missing({"transport": {}, "path": told("++")}) == [
        "all tries of the service went the same way: no efficiency"
    ]
    assert missing({"path": told("") | {"bare_streams": 0}}) == [
        "the bare step of one stream takes longer than its audio: no efficiency"
    ]
    live = {"interim": {"p50": 1.0}, "final": {"p50": 1.0}}
    assert missing({"live": {}, "latency_ms": live}) == []
    assert missing({"live": {}, "latency_ms": live | {"final": {}}})
