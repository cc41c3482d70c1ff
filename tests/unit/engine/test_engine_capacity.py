"""The engine measures what the machine holds while it serves, on slots that nobody has, and no stream notices."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from asr_service.core.model import OutOfMemory
from asr_service.core.values import StreamConfig
from asr_service.engine.contract import EngineState
from asr_service.model.null import NullModel
from testbed.by_request import StepRequest, StepResult
from tests.support.engines import PATIENCE_S, Audio, Cancel, HalfClose, Open, running
from tests.support.requested import RequestedModel
from tests.support.streams import finals, recognize, speech
from tests.unit.engine.test_engine import Recorder

CONFIG = StreamConfig("test")


class Neighbour(RequestedModel):
    """Every step takes 150 ms for each of its streams while a neighbour is there, and no time once it has gone.

    Attributes:
        gone: to be set when it leaves.
        rows: streams of the steps so far.
    """

    def __init__(self, *, slots: int) -> None:
        super().__init__(slots=slots)
        self.gone = threading.Event()
        self.rows: list[int] = []

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        self.rows.append(len(requests))
        self.gone.wait(0.15 * len(requests))
        return super().step(requests)


def test_the_limit_of_a_start_beside_a_neighbour_rises_once_it_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, recorder = Neighbour(slots=64), Recorder()
    with running(lambda: model, max_batch=16, probe=True, metrics=recorder) as bench:
        assert bench.record.measured == 1, "a step of 150 ms is all that a chunk of 160 ms has time for"
        assert "one stream alone takes longer than its audio" in caplog.text
        model.gone.set()
        bench.wait_for(lambda: bench.record.measured == 64)
    assert (recorder.steps, recorder.failed) == ([], 0), "no step of a stream was made"


def test_a_stream_that_rests_at_the_limit_does_not_keep_it() -> None:
    """It is open and silent for as long as it takes; others were refused all the while."""
    model = Neighbour(slots=4)
    with running(lambda: model, probe=True) as bench:
        bench.open(1)
        assert bench.record.measured == 1
        model.gone.set()
        bench.wait_for(lambda: bench.record.measured == 4)
        assert bench.counts().leased == 1
        bench.submit(Audio(1, speech(0.5)), HalfClose(1))
        bench.wait_ended(1)
        assert finals(bench.results[1]) == finals(recognize(NullModel(slots=1), speech(0.5)))


def test_streams_that_come_during_a_sweep_are_served_exactly() -> None:
    """On every slot, those of the sweep included, at whichever of its steps they come."""

    class Announced(RequestedModel):
        """Says when each step begins."""

        def __init__(self) -> None:
            super().__init__(slots=8)
            self.begun = threading.Semaphore(0)

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            self.begun.release()
            return super().step(requests)

    data = speech(0.7)
    expected = finals(recognize(NullModel(slots=1), data))
    model = Announced()
    with running(lambda: model, max_batch=8, probe=True) as bench:
        for sweep in range(3):
            while model.begun.acquire(blocking=False):
                pass
            for _ in range(1 + 2 * sweep):
                assert model.begun.acquire(timeout=PATIENCE_S)
            ids = range(10 * sweep, 10 * sweep + 8)
            bench.submit(*(Open(stream, CONFIG) for stream in ids))
            for stream in ids:
                bench.submit(Audio(stream, data), HalfClose(stream))
            bench.wait_ended(*ids)
            assert all(finals(bench.results[stream]) == expected for stream in ids)
        bench.wait_counts(leased=0, free=8)


def test_a_sweep_that_finds_no_memory_makes_batches_smaller_and_hurts_nobody() -> None:
    class Small(RequestedModel):
        full = False

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            if self.full and len(requests) > 3:
                raise OutOfMemory
            return super().step(requests)

    model = Small(slots=16)
    with running(lambda: model, max_batch=16, probe=True) as bench:
        model.full = True
        bench.wait_counts(max_batch=2)
        bench.submit(*(Open(stream, CONFIG) for stream in range(1, 9)))
        for stream in range(1, 9):
            bench.submit(Audio(stream, speech(0.5)), HalfClose(stream))
        bench.wait_ended(*range(1, 9))
        assert all(bench.ended[stream].error is None for stream in range(1, 9))


def test_a_model_that_fails_in_a_sweep_goes_on_with_its_streams(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(RequestedModel):
        failing = False

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            if self.failing:
                self.failing = False
                raise ValueError("a bug")
            return super().step(requests)

    model = Failing(slots=4)
    with running(lambda: model, probe=True) as bench:
        model.failing = True
        bench.wait_for(lambda: not model.failing)
        assert bench.run_stream(1, speech(0.5))
        assert (bench.state, bench.record.measured) == (EngineState.RUNNING, 4)
    assert ["to measure capacity" in record.getMessage() for record in caplog.records] == [True]


def test_without_a_probe_nothing_is_measured() -> None:
    model = Neighbour(slots=4)
    model.gone.set()
    with running(lambda: model) as bench:
        began = bench.record.beat
        bench.wait_for(lambda: bench.record.beat > began + 1.5)
        assert bench.record.measured == 0
        bench.submit(Open(1, CONFIG), Cancel(1))
        bench.wait_ended(1)
    assert model.rows == []
