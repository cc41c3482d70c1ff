"""The simulated fleet: calls are conserved, nobody beats the perfect plan, and the autoscaler does as Kubernetes'."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fleet import Row, markdown, recommended_target, run
from bench.fleet_plan import DAY_S, Autoscaler, Calls, Day, perfect_plan, simulate
from testbed.processes import ROOT

SMALL = Day(peak_streams=30, mean_s=600)


@st.composite
def some_calls(draw: st.DrawFn) -> Calls:
    """A few hundred calls in clusters, some of which outlast the day."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    begins = np.sort(
        np.clip(rng.normal(rng.uniform(0, DAY_S), draw(st.sampled_from([60, 3_000, 30_000])), 300), 0, DAY_S)
    )
    return Calls(begins, rng.exponential(draw(st.sampled_from([5, 300, 5_000])), 300) + 0.1)


scalers = st.builds(
    Autoscaler,
    target=st.floats(0.3, 1.0),
    slots=st.integers(1, 20),
    down_window_s=st.sampled_from([0.0, 60.0, 900.0]),
    up_window_s=st.sampled_from([0.0, 60.0]),
    fewest=st.integers(1, 3),
    start_s=st.sampled_from([0.0, 10.0, 180.0]),
    drain_s=st.sampled_from([30.0, 3600.0]),
)


@settings(max_examples=20, deadline=None)
@given(some_calls(), scalers)
def test_each_call_is_served_cut_or_refused_once(calls: Calls, scaler: Autoscaler) -> None:
    outcome = simulate(calls, scaler)
    assert outcome.calls == len(calls) == outcome.served + outcome.cut + outcome.refused
    assert 0 <= outcome.taken <= 1 + 1e-9
    assert outcome.most <= outcome.starts


@settings(max_examples=20, deadline=None)
@given(some_calls(), scalers)
def test_nobody_who_serves_all_beats_the_perfect_plan(calls: Calls, scaler: Autoscaler) -> None:
    plan = perfect_plan(calls, scaler.slots)
    outcome = simulate(calls, replace(scaler, drain_s=10 * DAY_S))
    if not outcome.refused:
        assert outcome.machine_s >= plan.machine_s * (1 - 1e-9)
    # One that has all that the plan ever has, all day, serves all.
    ample = replace(scaler, fewest=max(1, plan.most), target=1.0, most=max(1, plan.most), drain_s=10 * DAY_S)
    assert simulate(calls, ample).refused == 0


def test_the_perfect_plan_of_two_calls() -> None:
    calls = Calls(np.array([10.0, 40.0]), np.array([60.0, 60.0]))
    assert (perfect_plan(calls, 1).machine_s, perfect_plan(calls, 1).most) == (120.0, 2)
    assert (perfect_plan(calls, 2).machine_s, perfect_plan(calls, 2).most) == (90.0, 1)
    assert perfect_plan(Calls(np.array([]), np.array([])), 2).most == 0


def test_a_seed_is_a_day() -> None:
    one, again, other = SMALL.calls(7), SMALL.calls(7), SMALL.calls(8)
    assert np.array_equal(one.begins, again.begins)
    assert np.array_equal(one.lengths, again.lengths)
    assert not np.array_equal(one.begins[:10], other.begins[:10])
    scaler = Autoscaler(target=0.7, slots=5)
    assert simulate(one, scaler) == simulate(again, scaler)


def test_calls_come_as_the_curve_says() -> None:
    """Counts of many days' hours beside the rate's integral; five standard deviations are never reached by chance."""
    day = Day(peak_streams=200, surge=2.0)
    begins = np.concatenate([day.calls(seed).begins for seed in range(20)])
    seconds = np.arange(DAY_S)
    for hour in range(24):
        expected = 20 * day.rate(seconds[hour * 3600 : (hour + 1) * 3600] + 0.5).sum()
        came = np.count_nonzero((begins >= hour * 3600) & (begins < (hour + 1) * 3600))
        assert abs(came - expected) < 5 * np.sqrt(expected)
    lengths = np.concatenate([day.calls(seed).lengths for seed in range(20)])
    assert abs(lengths.mean() / day.mean_s - 1) < 0.05
    assert lengths.max() <= day.longest_s


def test_the_autoscaler_keeps_the_rules_of_kubernetes() -> None:
    scaler = Autoscaler(target=0.5, slots=10, down_window_s=300, up_window_s=60, fewest=2, most=50)
    # Within a tenth of the target nothing happens; beyond it, whole instances; never fewer or more than allowed.
    assert [scaler.recommended(streams, 10) for streams in (46, 50, 54, 56, 44)] == [10, 10, 10, 12, 9]
    assert (scaler.recommended(0, 10), scaler.recommended(10_000, 10)) == (2, 50)
    # Up: the lowest of a minute, and at most twice as many or four more at a time. Down: the highest of five minutes.
    assert scaler.decide(10, deque([(0.0, 14), (50.0, 12), (60.0, 30)]), 60.0) == 12
    assert scaler.decide(10, deque([(0.0, 11), (90.0, 30)]), 90.0) == 20
    assert scaler.decide(2, deque([(90.0, 30)]), 90.0) == 6
    assert scaler.decide(10, deque([(0.0, 8), (290.0, 3)]), 290.0) == 8
    assert scaler.decide(10, deque([(0.0, 8), (301.0, 3)]), 301.0) == 3


def test_what_is_recommended_refuses_few() -> None:
    days = [(calls, perfect_plan(calls, 5)) for calls in map(SMALL.calls, (1, 2))]
    rows: list[Row] = [
        run(days, Autoscaler(target=target, slots=5, start_s=60)) for target in (0.3, 0.6, 1.0)
    ]
    best = recommended_target(rows)
    assert best is not None
    chosen = next(row for row in rows if row.target == best)
    assert chosen.worst_refused <= 1.0
    assert all(row.worst_refused > 1.0 for row in rows if row.target > best)
    assert recommended_target([row for row in rows if row.worst_refused > 1.0]) is None


def test_the_documented_figures_are_those_of_the_last_run() -> None:
    report = json.loads((ROOT / "bench/results/fleet.json").read_text())
    text = (ROOT / "docs/proxy.md").read_text(encoding="utf-8")
    assert markdown(report) in text
    recommended = report["recommended"]
    assert f"**Target: {100 * recommended['target']:g} % of the slots**" in text
    assert f"**Down: a window of {recommended['scale_down_window_s']:g} s**, up: none" in text
    assert recommended["scale_up_window_s"] == 0
