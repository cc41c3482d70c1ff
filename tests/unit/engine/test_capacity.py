"""What is made of measured times: never more than the machine holds, not much less, and never for ever."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asr_service.engine.capacity import (
    CALM,
    FALL,
    GROWTH,
    RISE,
    SHARE,
    Estimate,
)
from asr_service.engine.step_times import MEMORY_S, SECONDS, Curve, Slowness

CHUNK_S = 0.16
BUDGET_S = SHARE * CHUNK_S
seconds = st.floats(1e-5, 1.0)
batches = st.integers(1, 512)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def machine(fixed_ms: float = 6.0, row_ms: float = 1.0) -> Callable[[float], float]:
    """Steps take a fixed time and one for each row; in seconds."""
    return lambda rows: (fixed_ms + row_ms * rows) / 1000


def timings(step_s: Callable[[float], float], *sizes: int) -> list[tuple[int, float]]:
    return [(rows, step_s(rows)) for rows in sizes or SIZES]


def estimate(
    step_s: Callable[[float], float] | None = None, *, slots: int = 512, max_batch: int = 128
) -> Estimate:
    made = Estimate(chunk_s=CHUNK_S, slots=slots, max_batch=max_batch)
    if step_s:
        made.sweep(0.0, timings(step_s))
    return made


def streams(made: Estimate, now: float) -> int:
    found = made.capacity(now)
    assert found is not None
    return found.streams


def serve(made: Estimate, begin: int, until: int, rows: int, step_s: Callable[[float], float]) -> int:
    """Ten steps a second of so many streams, in seconds from `begin` on; how many streams are sustained then."""
    for second in range(begin, until):
        for tenth in range(10):
            made.add(second + tenth / 10, rows, step_s(rows))
    return streams(made, until)


# ------------------------------------------------------------------------------------------------------------- curves


@given(st.lists(seconds, min_size=1, max_size=8))
def test_larger_batches_take_more_time_and_no_more_for_each_stream(measured: list[float]) -> None:
    curve = Curve(list(zip(SIZES, measured, strict=False)))
    took = [curve.seconds(rows) for rows in range(1, 300)]
    assert all(0 < less <= more * (1 + 1e-9) for less, more in pairwise(took))
    each = [step / rows for rows, step in enumerate(took, 1)]
    assert all(less <= more * (1 + 1e-9) for more, less in pairwise(each))
    assert all(curve.seconds(rows) <= step * (1 + 1e-9) for rows, step in zip(SIZES, measured, strict=False))


@given(seconds, seconds, seconds, batches, st.integers(1, 8))
def test_what_a_curve_promises_is_held(
    fixed: float, row: float, budget: float, max_batch: int, sizes: int
) -> None:
    """By a machine of a fixed time for a step and one for each row, however few sizes were timed."""

    def step_s(rows: float) -> float:
        return fixed + row * rows

    measured = [size for size in SIZES[:sizes] if size <= max_batch]
    found = Curve(timings(step_s, *measured)).streams(budget, max_batch)
    if step_s(1) > budget:
        assert found < 1
    elif found <= max_batch:
        assert step_s(found) <= budget * (1 + 1e-6)
    else:
        assert found / max_batch * step_s(max_batch) <= budget * (1 + 1e-6)


@given(st.lists(seconds, min_size=1, max_size=8), seconds, batches, st.floats(1, 4))
def test_a_faster_machine_never_holds_less(
    measured: list[float], budget: float, max_batch: int, faster: float
) -> None:
    slow = list(zip(SIZES, measured, strict=False))
    fast = [(rows, took / faster) for rows, took in slow]
    assert Curve(fast).streams(budget, max_batch) >= Curve(slow).streams(budget, max_batch) * (1 - 1e-9)


@given(st.sampled_from(SIZES[:-1]), st.floats(1, 50))
def test_one_size_that_was_disturbed_promises_no_more(size: int, slower: float) -> None:
    """And costs no more than what lies between its neighbours."""
    clean = timings(machine())
    disturbed = [(rows, took * (slower if rows == size else 1)) for rows, took in clean]
    whole = Curve(clean).streams(BUDGET_S, 128)
    assert whole * 0.85 <= Curve(disturbed).streams(BUDGET_S, 128) <= whole * (1 + 1e-9)


# ----------------------------------------------------------------------------------------------------------- slowness


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=SECONDS // 2), st.integers(0, SECONDS))
def test_a_disturbance_of_some_seconds_is_not_what_the_machine_holds(
    disturbed: list[float], calm_after: int
) -> None:
    slowness = Slowness()
    ratios = [1.0] * SECONDS + disturbed + [1.0] * calm_after
    for second, ratio in enumerate(ratios):
        slowness.add(second, ratio)
        assert slowness.value(second) == 1.0
    assert slowness.value(len(ratios)) == 1.0


@given(st.floats(0.01, 100))
def test_what_lasts_is(ratio: float) -> None:
    slowness = Slowness()
    for second in range(SECONDS + SECONDS // 2 + 1):
        slowness.add(second, 1.0 if second < SECONDS else ratio)
    assert slowness.value(SECONDS + SECONDS // 2) == 1.0
    assert slowness.value(SECONDS + SECONDS // 2 + 1) == ratio


def test_what_is_long_past_does_not_count_and_is_not_forgotten() -> None:
    """Nothing has shown that it is over."""
    slowness = Slowness()
    for second in range(SECONDS):
        slowness.add(second, 3.0)
    assert slowness.value(SECONDS) == 3.0
    assert slowness.value(10 * MEMORY_S) == 3.0
    for second in range(5):
        slowness.add(10 * MEMORY_S + second, 1.0)
    assert slowness.value(10 * MEMORY_S + 5) == 1.0


# ----------------------------------------------------------------------------------------------------------- estimates


def test_nothing_is_known_before_the_first_sweep() -> None:
    made = estimate()
    made.add(0.0, 1, 0.1)
    made.add_load(0.0, 10.0, 0.1)
    assert made.capacity(0.0) is None
    assert made.short_batch(0.0, 0.02, 16) == 1


@given(batches, st.integers(1, 2000), seconds, seconds)
def test_between_one_and_all_slots_are_promised(max_batch: int, slots: int, fixed: float, row: float) -> None:
    made = estimate(machine(1000 * fixed, 1000 * row), slots=slots, max_batch=max_batch)
    found = made.capacity(0.0)
    assert found is not None
    assert 1 <= found.streams <= slots
    assert found.enough == (fixed + row <= BUDGET_S)


def test_an_estimate_made_under_load_rises_with_the_next_sweep() -> None:
    made = estimate(machine(200, 40))
    assert streams(made, 0.0) == 1
    assert made.sweep(1.0, timings(machine())) == streams(made, 1.0) == 114


def test_one_slow_sweep_is_a_neighbour_that_passes_by_and_two_are_the_machine() -> None:
    made = estimate(machine())
    slow, slower = timings(machine(12, 2)), timings(machine(24, 4))
    assert made.sweep(1.0, slower) == 24
    assert streams(made, 1.0) == 114
    made.sweep(2.0, timings(machine()))
    made.sweep(3.0, slower)
    assert streams(made, 3.0) == 114, "the one before it was as it should be"
    made.sweep(4.0, slow)
    assert streams(made, 4.0) == 54, "the better of the two"
    made.sweep(5.0, timings(machine()))
    assert streams(made, 5.0) == 114


def test_what_slows_steps_down_for_long_lowers_it_and_its_end_raises_it() -> None:
    made = estimate(machine())
    assert serve(made, 0, 20, 16, machine()) == 114
    assert serve(made, 20, 24, 16, machine(24, 4)) == 114, "four seconds are a hiccup"
    assert serve(made, 24, 40, 16, machine(24, 4)) == 24
    assert serve(made, 40, 60, 16, machine()) == 114


def test_few_short_steps_do_not_lower_it() -> None:
    """A lone stream's step takes twice as long as in a sweep: its threads have to wake up first."""
    made = estimate(machine())
    assert serve(made, 0, 60, 1, lambda rows: 2 * machine()(rows)) == 114
    assert serve(made, 60, 120, 8, lambda rows: 2 * machine()(rows)) == 114
    assert serve(made, 120, 180, 9, lambda rows: 2 * machine()(rows)) == 54


def test_short_probes_count_however_short_they_are() -> None:
    made = estimate(machine(24, 4))
    for second in range(20):
        made.add_probe_step(second, 1, machine()(1))
    assert streams(made, 20) == 114


def test_streams_that_are_carried_with_ease_show_that_more_fit() -> None:
    made = estimate(machine(6, 4))
    assert streams(made, 0.0) == 28
    made.add_load(1.0, 40 / CHUNK_S, CALM)
    assert streams(made, 1.0) == int(GROWTH * 40)
    made.add_load(2.0, 30 / CHUNK_S, 0.9)
    assert streams(made, 2.0) == 30, "which was too much"


@given(st.integers(0, 200), st.floats(0, CALM))
def test_what_is_carried_never_lowers_it_while_the_load_is_low(carried: int, load: float) -> None:
    made = estimate(machine())
    made.add_load(1.0, carried / CHUNK_S, load)
    assert streams(made, 1.0) >= 114


def test_what_was_carried_long_ago_does_not_count() -> None:
    made = estimate(machine())
    made.add_load(20.0, 200 / CHUNK_S, CALM)
    made.add_load(30.0, 150 / CHUNK_S, CALM)
    assert streams(made, 20.0 + MEMORY_S - 1) == 230
    assert streams(made, 20.0 + MEMORY_S) == 114
    made.add_load(21.0 + MEMORY_S, 140 / CHUNK_S, CALM)
    assert streams(made, 21.0 + MEMORY_S) == 161


@given(st.lists(st.floats(FALL * 1.01, RISE * 0.99), min_size=1, max_size=30))
def test_it_does_not_flutter(speeds: list[float]) -> None:
    made = estimate(machine())
    before = streams(made, 0.0)
    for second, speed in enumerate(speeds):
        made.sweep(second, timings(lambda rows, speed=speed: machine()(rows) / speed))  # type: ignore[misc]
        after = streams(made, second)
        assert after == before or not FALL <= after / before < RISE * 0.99
        before = after


def test_smaller_batches_make_it_smaller() -> None:
    made = estimate(machine(60, 0.1))
    assert streams(made, 0.0) == int(128 * BUDGET_S / 0.0728)
    made.max_batch = 16
    assert streams(made, 0.0) == int(16 * BUDGET_S / 0.0616)


@given(st.floats(0.001, 0.2), st.integers(1, 512), st.floats(0.2, 5))
def test_short_batches_are_short(limit: float, most: int, speed: float) -> None:
    made = estimate(machine())
    serve(made, 0, 20, 100, lambda rows: machine()(rows) / speed)
    rows = made.short_batch(20.0, limit, most)
    assert 1 <= rows <= most
    assert rows == 1 or machine()(rows) / speed <= limit * 1.001
