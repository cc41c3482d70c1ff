"""The engine measures what the machine holds while it serves, on slots that nobody has, and no stream notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from asr_service.core.commands import Audio, Cancel, HalfClose, Open
from asr_service.core.model import OutOfMemory, StepRequest, StepResult
from asr_service.core.values import StreamConfig
from asr_service.engine.contract import EngineState
from asr_service.engine.engine import Engine
from asr_service.model.null import NullModel
from tests.support.engines import PATIENCE_S, running
from tests.support.streams import finals, recognize, speech
from tests.unit.engine.test_engine import Recorder

CONFIG = StreamConfig("test")


class Neighbour(NullModel):
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


class Watcher(Recorder):
    """Tells when the engine's capacity has become something."""

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine
        self.measured = threading.Condition()

    def load_measured(self) -> None:
        super().load_measured()
        with self.measured:
            self.measured.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.measured:
            assert self.measured.wait_for(condition, PATIENCE_S)


def streams(engine: Engine) -> int:
    return engine.capacity.streams if engine.capacity else 0


def test_the_limit_of_a_start_beside_a_neighbour_rises_once_it_is_gone() -> None:
    model, watcher = Neighbour(slots=64), Watcher()
    with running(lambda: model, max_batch=16, probe=True, metrics=watcher) as bench:
        assert streams(bench.engine) == 1, "a step of 150 ms is all that a chunk of 160 ms has time for"
        assert bench.engine.capacity is not None and not bench.engine.capacity.enough
        model.gone.set()
        watcher.wait_for(lambda: streams(bench.engine) == 64)
        assert bench.engine.capacity.enough
    assert watcher.probed == watcher.begun > 0
    assert (watcher.steps, watcher.failed) == ([], 0), "no step of a stream was made"


def test_a_stream_that_rests_at_the_limit_does_not_keep_it() -> None:
    """It is open and silent for as long as it takes; others were refused all the while."""
    model, watcher = Neighbour(slots=4), Watcher()
    with running(lambda: model, probe=True, metrics=watcher) as bench:
        bench.submit(Open(1, CONFIG))
        bench.wait_for(lambda: 1 in bench.consumed)
        assert streams(bench.engine) == 1
        model.gone.set()
        watcher.wait_for(lambda: streams(bench.engine) == 4)
        assert bench.engine.slot_counts().leased == 1
        bench.submit(Audio(1, speech(0.5)), HalfClose(1))
        bench.wait_ended(1)
        assert finals(bench.results[1]) == finals(recognize(NullModel(slots=1), speech(0.5)))


def test_streams_that_come_during_a_sweep_are_served_exactly() -> None:
    """On every slot, those of the sweep included, at whichever of its steps they come."""

    class Announced(NullModel):
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
        counts = bench.engine.slot_counts()
        assert (counts.leased, counts.free) == (0, 8)


def test_a_sweep_that_finds_no_memory_makes_batches_smaller_and_hurts_nobody() -> None:
    class Small(NullModel):
        full = False

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            if self.full and len(requests) > 3:
                raise OutOfMemory
            return super().step(requests)

    model, watcher = Small(slots=16), Watcher()
    with running(lambda: model, max_batch=16, probe=True, metrics=watcher) as bench:
        model.full = True
        watcher.wait_for(lambda: bench.engine.slot_counts().max_batch == 2)
        bench.submit(*(Open(stream, CONFIG) for stream in range(1, 9)))
        for stream in range(1, 9):
            bench.submit(Audio(stream, speech(0.5)), HalfClose(stream))
        bench.wait_ended(*range(1, 9))
        assert all(bench.ended[stream].error is None for stream in range(1, 9))


def test_a_model_that_fails_in_a_sweep_goes_on_with_its_streams(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(NullModel):
        failing = False

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            if self.failing:
                self.failing = False
                raise ValueError("a bug")
            return super().step(requests)

    model, watcher = Failing(slots=4), Watcher()
    with running(lambda: model, probe=True, metrics=watcher) as bench:
        model.failing = True
        watcher.wait_for(lambda: not model.failing)
        assert bench.run_stream(1, speech(0.5))
        assert (bench.engine.state, streams(bench.engine)) == (EngineState.RUNNING, 4)
    assert ["to measure capacity" in record.getMessage() for record in caplog.records] == [True]


def test_without_a_probe_nothing_is_measured() -> None:
    model, watcher = Neighbour(slots=4), Watcher()
    model.gone.set()
    began = time.monotonic()
    with running(lambda: model, metrics=watcher) as bench:
        watcher.wait_for(lambda: watcher.weighings > 2 and time.monotonic() > began + 1.5)
        assert bench.engine.capacity is None
        bench.submit(Open(1, CONFIG), Cancel(1))
        bench.wait_ended(1)
    assert (model.rows, watcher.begun) == ([], 0)
