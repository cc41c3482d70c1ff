"""A device that has no memory for a batch: batches become smaller, and the engine goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from asr_service.core.errors import InternalError
from asr_service.core.model import OutOfMemory
from asr_service.core.values import StreamConfig
from asr_service.engine import batch_limit
from asr_service.engine.contract import EngineState
from testbed.by_request import StepRequest, StepResult
from tests.support.engines import Audio, Bench, HalfClose, Open, running
from tests.support.requested import RequestedModel
from tests.support.streams import speech

CONFIG = StreamConfig("test")


class SmallDevice(RequestedModel):
    """Has memory for `rows` streams at a time."""

    def __init__(self, error: type[Exception], *, rows: int, slots: int = 8) -> None:
        super().__init__(slots=slots)
        self.rows = rows
        self.batches: list[int] = []
        self.warmed: list[int] = []
        self._error = error

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        self.warmed.append(max_batch)

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        self.batches.append(len(requests))
        if len(requests) > self.rows:
            raise self._error
        return super().step(requests)


def run_together(bench: Bench, streams: range) -> None:
    """Streams whose chunks are all ready at once."""
    bench.submit(*(Open(stream, CONFIG) for stream in streams))
    for stream in streams:
        bench.submit(Audio(stream, speech(1.0, seed=stream)), HalfClose(stream))
    bench.wait_ended(*streams)


@pytest.mark.parametrize("error", [OutOfMemory, MemoryError])
def test_out_of_memory_ends_its_own_streams_and_halves_the_batch(error: type[Exception]) -> None:
    model = SmallDevice(error, rows=2)
    with running(lambda: model, max_batch=8, tick_s=0.05) as bench:
        run_together(bench, range(1, 9))
        lost = [stream for stream in range(1, 9) if bench.ended[stream].error is not None]
        assert lost
        assert all(isinstance(bench.ended[stream].error, InternalError) for stream in lost)
        run_together(bench, range(9, 17))
        again = [stream for stream in range(9, 17) if bench.ended[stream].error is not None]
        assert len(again) <= 4, "the first time may have halved it no further than to four"
        run_together(bench, range(17, 25))
        assert all(bench.ended[stream].error is None for stream in range(17, 25))
        assert bench.state is EngineState.RUNNING
        bench.wait_counts(leased=0, free=8)


def test_batches_grow_again_once_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_limit, "FIRST_WAIT_S", 0.0)
    model = SmallDevice(OutOfMemory, rows=2)
    with running(lambda: model, max_batch=8, tick_s=0.05) as bench:
        run_together(bench, range(1, 9))
        model.rows = 8
        bench.wait_counts(max_batch=8)
        run_together(bench, range(9, 17))
        assert all(bench.ended[stream].error is None for stream in range(9, 17))


def test_one_stream_that_does_not_fit_says_nothing_of_others() -> None:
    """As in a quiet hour, in which another program takes the memory for a moment."""
    model = SmallDevice(OutOfMemory, rows=0)
    with running(lambda: model, max_batch=8) as bench:
        bench.run_stream(1, speech(0.5))
        assert isinstance(bench.ended[1].error, InternalError)
        assert bench.counts().max_batch == 8


def test_one_stream_that_does_not_fit_is_ended() -> None:
    with running(lambda: SmallDevice(OutOfMemory, rows=0), max_batch=1) as bench:
        bench.run_stream(1, speech(0.5))
        assert isinstance(bench.ended[1].error, InternalError)


def test_warm_up_finds_the_batch_that_fits() -> None:
    class Cold(SmallDevice):
        def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
            super().warm_up(max_batch, progress)
            if max_batch > self.rows:
                raise OutOfMemory

    model = Cold(OutOfMemory, rows=3)
    with running(lambda: model, max_batch=16) as bench:
        assert model.warmed == [16, 8, 4, 2]
        assert bench.counts().max_batch == 2
    with running(lambda: Cold(OutOfMemory, rows=0), max_batch=2) as bench:
        assert bench.states[-1] is EngineState.FAILED
