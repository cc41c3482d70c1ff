"""How bench.service judges: what keeps up, what falls behind, what was not found."""

from __future__ import annotations

from typing import Any

import pytest

from bench.efficiency import LIMIT_S, figures, keeps_up, shares, unbounded
from bench.service import missing
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


def test_a_round_is_compared_with_the_bare_steps_around_it() -> None:
    assert shares([45, 40], [50, 50, 30]) == [0.9, 1.0]
    assert shares([45, 40], [50, 0, 30]) == []


def test_the_median_round_is_told_and_a_step_that_is_too_slow_has_none() -> None:
    def bare(streams: int) -> dict[str, Any]:
        return {"streams": streams, "step_ms": {}}

    def service(streams: int) -> dict[str, Any]:
        return {"streams": streams, "loop_lag_ms": {"p99": float(streams)}, "tries": []}

    told = figures([service(40), service(45), service(30)], [bare(50)] * 4)
    assert (told["efficiency"], told["loop_lag_ms"]) == (0.8, {"p99": 40.0})
    assert missing({"path": told}) == []
    for slow in (figures([], [bare(0)]), figures([service(2)], [bare(2), bare(0)])):
        assert slow["efficiency"] is None
        assert missing({"path": slow}) == [
            "the bare step of one stream takes longer than its audio: no efficiency"
        ]


def test_a_run_without_its_figures_fails() -> None:
    path = {"bare_streams": [50, 52], "service_streams": [45], "loop_lag_ms": {"p99": 1.0}}
    assert missing({"transport": {}, "path": path}) == []
    assert missing({"path": path | {"service_streams": [0], "loop_lag_ms": {}}})
    assert missing({"path": path | {"bare_streams": [50, 0]}})
    live = {"interim": {"p50": 1.0}, "final": {"p50": 1.0}}
    assert missing({"live": {}, "latency_ms": live}) == []
    assert missing({"live": {}, "latency_ms": live | {"final": {}}})
