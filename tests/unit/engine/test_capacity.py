"""What is made of measured times: never more than the machine holds, and not much less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.engine.capacity import (
    LEAST_STEPS,
    SHARE,
    WINDOW_S,
    Load,
    probe,
    probe_model,
    sustained_streams,
)
from asr_service.model.null import NullModel

seconds = st.floats(1e-5, 1.0)
batches = st.integers(1, 512)


class Machine:
    """Steps take a fixed time and one for each row."""

    def __init__(self, fixed_s: float, row_s: float) -> None:
        self.fixed_s, self.row_s = fixed_s, row_s
        self.spent = 0.0
        self.largest = 0

    def __call__(self, rows: int) -> float:
        took = self.fixed_s + rows * self.row_s
        self.spent += took
        self.largest = max(self.largest, rows)
        return took

    def rounds_s(self, streams: int, max_batch: int) -> float:
        """The time that a step of every one of so many streams takes."""
        full, rest = divmod(streams, max_batch)
        return full * self(max_batch) + (self(rest) if rest else 0.0)


@given(seconds, seconds, seconds, batches, st.integers(1, 2000))
def test_what_is_promised_is_held(fixed: float, row: float, chunk: float, max_batch: int, slots: int) -> None:
    machine = Machine(fixed, row)
    found = probe(machine, chunk_s=chunk, max_batch=max_batch, slots=slots, budget_s=1e9)
    assert 1 <= found.streams <= slots
    assert machine.largest <= min(max_batch, slots)
    assert found.enough == (fixed + row <= SHARE * chunk)
    if found.enough:
        # The fixed part again: for a last batch that is not full.
        assert machine.rounds_s(found.streams, max_batch) <= SHARE * chunk * (1 + 1e-6) + fixed


@given(seconds, seconds, seconds, batches)
def test_little_is_given_away(fixed: float, row: float, chunk: float, max_batch: int) -> None:
    machine = Machine(fixed, row)
    found = probe(machine, chunk_s=chunk, max_batch=max_batch, slots=100_000, budget_s=1e9)
    possible = 0
    while machine.rounds_s(possible + 1, max_batch) <= SHARE * chunk and possible < 3000:
        possible += 1
    assert found.streams >= possible // 2 - 1


@given(st.lists(st.tuples(batches, seconds), max_size=10), seconds, st.floats(1.01, 4))
def test_a_faster_machine_never_holds_less(
    timings: list[tuple[int, float]], chunk: float, faster: float
) -> None:
    faster_timings = [(rows, took / faster) for rows, took in timings]
    assert sustained_streams(faster_timings, chunk) >= sustained_streams(timings, chunk) >= 1


@given(seconds, st.floats(0, 0.1), st.floats(0.1, 10))
def test_the_probe_keeps_its_time(fixed: float, row: float, budget: float) -> None:
    """But for one size, whose steps may take twice as long as was to be expected from the one before."""
    machine = Machine(fixed, row)
    probe(machine, chunk_s=10.0, max_batch=4096, slots=4096, budget_s=budget)
    assert machine.spent <= budget + 3 * (fixed + row)


def test_a_real_model_is_probed_and_left_usable() -> None:
    model = NullModel(slots=40)
    found = probe_model(model, 16)
    assert [rows for rows, _ in found.timings] == [1, 2, 4, 8, 16]
    assert found.streams == 40, "a model that does nothing fills its slots"


@given(st.lists(st.floats(0, 10), min_size=LEAST_STEPS, max_size=300))
def test_the_load_is_the_95th_percentile(shares: list[float]) -> None:
    load = Load()
    for share in shares:
        load.add(0.0, share)
    value = load.value(1.0)
    above = sum(share > value for share in shares)
    assert value in shares
    assert above <= len(shares) / 20
    assert above + shares.count(value) > len(shares) // 20


@given(st.floats(1.1, 10), st.floats(0.02, 2.4))
def test_slow_steps_are_load_too(share: float, step_s: float) -> None:
    """However long the steps are: an overload is told before it has lasted for a window."""
    load, now = Load(), 0.0
    while now < WINDOW_S:
        now += step_s
        load.add(now, share)
    assert load.value(now) == share


def test_one_hiccup_is_no_load() -> None:
    load = Load()
    for second in range(9):
        load.add(float(second), 3.0 if second == 4 else 0.2)
    assert load.value(9.0) == 0.2


def test_the_load_forgets() -> None:
    load = Load()
    for step in range(LEAST_STEPS):
        assert load.value(0.0) == 0.0, "too little to tell"
        load.add(step / 100, 5.0)
    assert load.value(0.2) == 5.0
    assert load.value(WINDOW_S + 0.5) == 0.0
