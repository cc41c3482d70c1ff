"""Sweeps and when they are made, with models whose steps take a given time on the test's own clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.model import ModelInfo
from asr_service.engine.capacity import SHARE, Estimate
from asr_service.engine.probing import LONGEST_PAUSE_S, QUIET_S, REST, SHORT_PROBE_S, START_S, Prober, Sweep
from asr_service.engine.slots import Slots
from testbed.by_request import StepRequest, StepResult, step
from tests.support.machines import TimedModel

CHUNK_S = 0.16
BUDGET_S = SHARE * CHUNK_S
milliseconds = st.floats(0.01, 200)


def timed(fixed_ms: float = 6.0, row_ms: float = 1.0, slots: int = 512) -> TimedModel:
    return TimedModel(slots=slots, seconds=lambda rows: (fixed_ms + row_ms * rows) / 1000)


def swept(model: TimedModel, most: int = 128) -> Sweep:
    sweep = Sweep(model, range(min(most, model.slots)), BUDGET_S, clock=model.clock)
    while not sweep.done:
        sweep.step()
    return sweep


class Machine:
    """A model, an estimate of what it sustains and a prober, with the engine's clock."""

    def __init__(self, model: TimedModel, max_batch: int = 128) -> None:
        self.model = model
        self.slots = Slots(model.slots)
        self.estimate = Estimate(chunk_s=CHUNK_S, slots=model.slots, max_batch=max_batch)
        self.prober = Prober(model, self.slots, self.estimate, model.clock)
        self.prober.start(model.now)

    @property
    def streams(self) -> int:
        found = self.estimate.capacity(self.model.now)
        assert found is not None
        return found.streams

    def probe(self, streams: int = 0) -> float | None:
        """Waits for the next step and makes it; how long it was waited for, None if it is not to be."""
        waited = self.prober.wait(self.model.now, streams, self.streams)
        if waited is not None:
            self.model.now += waited
            self.prober.step(self.model.now, streams)
        return waited

    def until(self, condition: Callable[[], bool], patience_s: float = 2000.0) -> float:
        """Makes steps until the condition holds; how long that took."""
        began = self.model.now
        while not condition():
            assert self.probe() is not None and self.model.now < began + patience_s
        return self.model.now - began

    def sweeps(self, seconds: float) -> list[float]:
        """Makes steps for so long; when sweeps were made: short probes are steps of one stream."""
        until, times = self.model.now + seconds, []
        while self.model.now < until:
            self.probe()
            if [len(batch) for batch in self.model.batches[-2:]] == [1, 2]:
                times.append(self.model.now)
        return times


# -------------------------------------------------------------------------------------------------------------- sweeps


@given(milliseconds, milliseconds, st.integers(1, 512))
def test_a_sweep_finds_what_the_machine_holds(fixed_ms: float, row_ms: float, most: int) -> None:
    model = timed(fixed_ms, row_ms)
    sweep = swept(model, most)
    estimate = Estimate(chunk_s=CHUNK_S, slots=10**6, max_batch=most)
    found = estimate.sweep(0.0, sweep.timings)
    possible = (1000 * BUDGET_S - fixed_ms) / row_ms
    if possible > most:
        possible = most * 1000 * BUDGET_S / (fixed_ms + row_ms * most)
    assert max(1, 0.85 * possible - 1) <= found <= max(1, possible + 1e-3)


@given(milliseconds, milliseconds, st.integers(1, 512))
def test_its_steps_are_little_longer_than_they_may_be(fixed_ms: float, row_ms: float, most: int) -> None:
    """But for the second size, of which nothing is known but the first."""
    model = timed(fixed_ms, row_ms)
    sweep = swept(model, most)
    assert max(len(batch) for batch in model.batches) <= most
    assert all(took <= BUDGET_S * 1.001 or rows <= 2 for rows, took in sweep.timings)


def test_each_slot_starts_with_a_first_step_and_is_left_to_whoever_comes() -> None:
    """The null model raises for anything else."""
    model = timed(slots=40)
    sweep = swept(model)
    assert [rows for rows, _ in sweep.timings] == [1, 2, 4, 8, 16, 32, 40]
    swept(model)
    samples = np.zeros(model.info.first_chunk_samples, np.float32)
    assert step(model, [StepRequest(3, samples, is_first=True, is_last=False)])


def test_a_model_with_language_prompts_is_given_one_that_it_has() -> None:
    class Prompted(TimedModel):
        prompts: set[int] = set()  # noqa: RUF012 - one model only

        @property
        def info(self) -> ModelInfo:
            return replace(super().info, prompts=(("de-DE", 7), ("en-US", 3)))

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            self.prompts.update(request.prompt for request in requests if request.is_first)
            return super().step(requests)

    model = Prompted(slots=4, seconds=lambda rows: 0.01)
    swept(model)
    assert model.prompts == {7}


# ------------------------------------------------------------------------------------------------------------ at start


@given(milliseconds, milliseconds)
def test_the_start_takes_half_a_second_or_one_size(fixed_ms: float, row_ms: float) -> None:
    model = timed(fixed_ms, row_ms)
    machine = Machine(model)
    assert model.now <= max(START_S, 4 * (fixed_ms + row_ms) / 1000) * 1.001
    assert 1 <= machine.streams <= max(1, (1000 * BUDGET_S - fixed_ms) / row_ms + 1e-3)


def test_steps_that_last_for_seconds_are_timed_once_at_the_start() -> None:
    model = timed(3000, 0)
    machine = Machine(model)
    assert (len(model.batches), machine.streams) == (2, 1)


# ------------------------------------------------------------------------------------------------------ while it serves


def test_a_start_under_load_does_not_last() -> None:
    model = timed(300, 100)
    machine = Machine(model)
    assert machine.streams == 1
    model.seconds = timed().seconds
    assert machine.until(lambda: machine.streams >= 113) < QUIET_S + 2.0


def test_a_load_that_lasts_for_hours_ends_soon_when_it_ends() -> None:
    """However rare sweeps have become by then: a short probe finds that steps are faster."""
    model = timed(300, 100)
    machine = Machine(model)
    machine.sweeps(7200)
    assert machine.streams == 1
    model.seconds = timed().seconds
    assert machine.until(lambda: machine.streams >= 113) < SHORT_PROBE_S + 2.0


def test_pauses_grow_while_nothing_changes_and_end_when_something_does() -> None:
    model = timed()
    machine = Machine(model)
    pauses = [later - earlier for earlier, later in pairwise(machine.sweeps(3600))]
    assert all(later >= earlier * 0.99 for earlier, later in pairwise(pauses[1:]))
    assert LONGEST_PAUSE_S < pauses[-1] < LONGEST_PAUSE_S + 2.0
    model.seconds = timed(24, 4).seconds
    assert machine.until(lambda: machine.streams in (23, 24)) < LONGEST_PAUSE_S + 60.0, "two sweeps"


def test_an_idle_machine_is_idle() -> None:
    model = timed()
    machine = Machine(model)
    machine.sweeps(3600)
    model.batches.clear()
    machine.sweeps(3600)
    assert sum(model.seconds(len(batch)) for batch in model.batches) < 0.01 * 3600


def test_a_machine_that_changes_all_the_time_is_left_its_time() -> None:
    model = timed()
    machine = Machine(model)
    model.batches.clear()
    spent = 0.0
    while model.now < 600:
        speed = 1 + len(model.batches) % 97 / 10
        model.seconds = lambda rows, speed=speed: timed().seconds(rows) * speed  # type: ignore[misc]
        before = model.now
        waited = machine.probe()
        assert waited is not None
        spent += model.now - before - waited
    assert spent < 600 / REST * 1.2


def test_a_stream_that_comes_ends_a_sweep() -> None:
    model = timed()
    machine = Machine(model)
    while len(model.batches[-1]) != 64:
        machine.probe()
    machine.prober.interrupt()
    leased = machine.slots.lease()
    assert leased is not None
    assert machine.probe(streams=1) is None, "no client is refused"
    machine.slots.give_back(leased)
    machine.until(lambda: machine.streams >= 113)


def test_a_sweep_waits_for_a_moment_without_steps() -> None:
    model = timed()
    machine = Machine(model)
    model.now += 1000
    machine.prober.stepped(model.now)
    assert machine.prober.wait(model.now, 0, 1) == QUIET_S


def test_streams_that_rest_at_the_limit_are_no_reason_to_keep_it() -> None:
    """One short step a second, on slots that nobody has, and only while clients may be refused."""
    model = timed(100, 30, slots=16)
    machine = Machine(model)
    assert machine.streams == 1
    leased = machine.slots.lease()
    model.seconds = timed().seconds
    model.batches.clear()
    while machine.streams == 1:
        waited = machine.probe(streams=1)
        assert waited is not None and waited <= QUIET_S
    assert machine.streams > 10
    assert all(leased not in batch for batch in model.batches)
    assert max(model.seconds(len(batch)) for batch in model.batches) <= CHUNK_S / 8
    assert machine.probe(streams=1) is None


def test_where_no_slot_is_free_nothing_is_probed() -> None:
    model = timed(slots=1)
    machine = Machine(model)
    machine.slots.lease()
    assert machine.probe(streams=1) is None
