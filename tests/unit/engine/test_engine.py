from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from asr_service.core.errors import (
    AtCapacity,
    InternalError,
    InvalidArgument,
    ModelError,
    Unavailable,
)
from asr_service.core.model import DeviceLost
from asr_service.core.values import FinalReason, PhraseBoost, StreamConfig
from asr_service.engine.contract import EngineState
from asr_service.engine.slots import Slots
from asr_service.model.null import NullModel
from testbed.by_request import StepRequest, StepResult
from tests.support.engines import (
    PATIENCE_S,
    Audio,
    Cancel,
    Finalize,
    GatedModel,
    HalfClose,
    Open,
    PoisonedModel,
    running,
)
from tests.support.requested import RequestedModel
from tests.support.streams import SignallingModel, finals, recognize, silence, speech

CONFIG = StreamConfig("test")


class Recorder:
    """Notes what the engine tells of its work."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, list[float]]] = []
        self.failed = 0

    def step(self, *, seconds: float, audio_s: float, waits_s: npt.NDArray[np.float64]) -> None:
        self.steps.append((seconds, audio_s, waits_s.tolist()))

    def step_failed(self, slots: int) -> None:
        self.failed += slots


# --------------------------------------------------------------------------------------------------------------- life


def test_it_loads_warms_up_runs_and_stops() -> None:
    with running() as bench:
        assert bench.states == [EngineState.WARMING, EngineState.RUNNING]
        assert bench.info.name == "null"
    assert bench.state is EngineState.STOPPED
    assert bench.states[-1] is EngineState.STOPPED


def test_a_model_that_cannot_be_made_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> NullModel:
        raise ModelError("no such model")

    with running(load) as bench:
        assert bench.states == [EngineState.FAILED]
        assert isinstance(bench.engine.failure, ModelError)
        assert bench.counts().slots == 0
    assert caplog.records == []


def test_an_engine_that_dies_says_so_with_a_traceback_and_ends_its_streams(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Dying(RequestedModel):
        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            raise SystemExit

    with running(lambda: Dying(slots=1)) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.3)))
        bench.wait_ended(1)
        assert isinstance(bench.ended[1].error, Unavailable)
        bench.thread.join()
    assert bench.state is EngineState.FAILED
    assert isinstance(bench.engine.failure, SystemExit)
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [
        (logging.CRITICAL, True)
    ]


def test_stop_ends_the_streams_that_are_open() -> None:
    with running() as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.3)))
        bench.wait_for(lambda: 1 in bench.results)
        bench.thread.stop()
        bench.wait_ended(1)
    assert isinstance(bench.ended[1].error, Unavailable)


def test_a_step_is_told_of_before_it_is_over() -> None:
    model, recorder = GatedModel(slots=1), Recorder()
    with running(lambda: model, metrics=recorder) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, silence(0.1)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        assert bench.record.busy_since > 0
        assert recorder.steps == []
        model.gate.release()
        bench.wait_for(lambda: 1 in bench.results)
        bench.wait_for(lambda: not bench.record.busy_since)
    assert len(recorder.steps) == 1


# ------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_from_open_to_end() -> None:
    data = speech(2.0)
    with running() as bench:
        results = bench.run_stream(1, data)
        assert bench.ended[1].error is None
        expected = recognize(NullModel(slots=1), data)
        assert [result.text for result in results] == [result.text for result in expected]
        assert finals(results) == finals(expected)
        bench.wait_counts(slots=4, leased=0, free=4, fresh=0, running=0, ready=0, max_batch=4)


def test_finalize_with_audio_after_it() -> None:
    with running() as bench:
        bench.submit(
            Open(1, CONFIG), Audio(1, speech(0.5)), Finalize(1, "turn"), Audio(1, speech(0.25)), HalfClose(1)
        )
        bench.wait_ended(1)
        (first, tag, text), (last, _, _) = finals(bench.results[1])
        assert (first, tag, last) == (FinalReason.FINALIZE, "turn", FinalReason.END_OF_STREAM)
        assert text == recognize(NullModel(slots=1), speech(0.5))[-1].text


def test_cancel_gives_the_slot_back_and_sends_nothing_more() -> None:
    with running(lambda: NullModel(slots=1)) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.05)), Cancel(1))
        bench.wait_ended(1)
        bench.submit(Open(2, CONFIG), HalfClose(2))
        bench.wait_ended(2)
        assert bench.ended[1].error is None
        assert 1 not in bench.results
        assert bench.ended[2].error is None


def test_more_streams_than_slots_are_refused() -> None:
    with running(lambda: NullModel(slots=1)) as bench:
        bench.submit(Open(1, CONFIG), Open(2, CONFIG))
        bench.wait_ended(2)
        assert isinstance(bench.ended[2].error, AtCapacity)
        assert 1 not in bench.ended


def test_a_phrase_that_cannot_be_boosted_is_the_clients_fault_and_takes_no_slot() -> None:
    class Choosy(NullModel):
        def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
            if boosts:
                raise InvalidArgument("phrases[0] has no words", field="phrases[0]")

    with running(lambda: Choosy(slots=1)) as bench:
        bench.submit(Open(1, replace(CONFIG, boosts=(PhraseBoost(("?",)),))))
        bench.wait_ended(1)
        error = bench.ended[1].error
        assert isinstance(error, InvalidArgument)
        assert (error.field, error.message) == ("phrases[0]", "phrases[0] has no words")
        assert bench.run_stream(2, speech(0.2))


def test_a_bug_while_a_stream_is_opened_ends_that_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(NullModel):
        def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
            if boosts:
                raise ValueError("a secret of the inside")

    with running(lambda: Faulty(slots=1)) as bench:
        bench.submit(Open(1, replace(CONFIG, boosts=(PhraseBoost(("?",)),))))
        bench.wait_ended(1)
        error = bench.ended[1].error
        assert isinstance(error, InternalError)
        assert error.request_id in caplog.text
        assert bench.run_stream(2, speech(0.2))


def test_books_tell_what_streams_do() -> None:
    model = GatedModel(slots=3)
    with running(lambda: model) as bench:
        bench.open(1, 2)
        bench.submit(Audio(2, silence(0.1)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        model.gate.release()
        bench.wait_for(lambda: 2 in bench.results)
        bench.wait_counts(slots=3, leased=2, free=1, fresh=1, running=1)


def test_a_stream_is_counted_before_the_step_that_follows_its_admission_is_over() -> None:
    """Front ends choose among engines by that number, and the next stream may come at once."""
    model = GatedModel(slots=3)
    with running(lambda: model) as bench:
        bench.open(1)
        bench.submit(Audio(1, silence(1.0)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        bench.submit(Open(2, CONFIG))
        bench.wait_sent()
        # The next turn admits the stream and goes on with the other one's audio.
        model.gate.release()
        assert model.entered.acquire(timeout=PATIENCE_S)
        assert bench.record.leased == 2
        model.gate.release(100)


# --------------------------------------------------------------------------------------------------------------- steps


def test_ready_streams_are_stepped_together_up_to_the_largest_batch() -> None:
    model = GatedModel(slots=6)
    with running(lambda: model, max_batch=4) as bench:
        bench.open(*range(1, 7))
        bench.submit(Audio(1, silence(0.1)))
        assert model.entered.acquire(timeout=PATIENCE_S)  # while this one is stepped, six chunks come
        bench.submit(*(Audio(stream, silence(0.1)) for stream in range(2, 7)), Audio(1, silence(0.2)))
        bench.wait_sent()
        model.gate.release(100)
        bench.wait_for(lambda: len(bench.results) == 6 and len(bench.results[1]) == 2)
        assert [len(batch) for batch in model.batches] == [1, 4, 2]
        assert all(len(set(batch)) == len(batch) for batch in model.batches)


def test_an_upload_waits_for_live_streams_and_not_the_reverse() -> None:
    model = GatedModel(slots=3)
    with running(lambda: model, max_batch=1) as bench:
        bench.open(1, 2, 3)
        bench.submit(Audio(1, silence(60.0)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        bench.submit(Audio(2, silence(0.093)), Audio(3, silence(0.093)))
        bench.wait_sent()
        model.gate.release(1_000)
        bench.wait_for(lambda: len(bench.results.get(1, [])) == 375)
        upload, second, third = model.batches[0][0], *(model.batches[1][0], model.batches[2][0])
        assert len({upload, second, third}) == 3


def test_a_step_that_raises_ends_its_streams_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    with running(lambda: PoisonedModel(slots=3)) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.3)))
        bench.wait_for(lambda: len(bench.results.get(1, [])) == 2)
        bench.submit(Open(2, CONFIG), Audio(2, PoisonedModel.POISON), HalfClose(2))
        bench.wait_ended(2)
        error = bench.ended[2].error
        assert isinstance(error, InternalError)
        (record,) = caplog.records
        request_id = error.message.split()[-1]
        assert request_id in record.getMessage()
        assert record.exc_info is not None
        assert "number" not in error.message
        bench.wait_counts(leased=1)
        bench.submit(HalfClose(1))
        bench.wait_ended(1)
        assert finals(bench.results[1]) == finals(recognize(NullModel(slots=1), speech(0.3)))
        assert bench.run_stream(3, speech(0.3))[-1].text == bench.results[1][-1].text
        assert bench.state is EngineState.RUNNING


def test_a_lost_device_ends_the_engine_at_once() -> None:
    """Another process can serve again; this one would fail every step from now on."""

    class Lost(RequestedModel):
        lost = False

        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            if self.lost:
                raise DeviceLost(
                    "cuda:0 answers no more (CUDA error: an illegal memory access was encountered)"
                )
            return super().step(requests)

    model = Lost(slots=3)
    with running(lambda: model) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.3)))
        bench.wait_for(lambda: len(bench.results.get(1, [])) == 2)
        model.lost = True
        bench.submit(Audio(1, speech(0.3)))
        bench.thread.join()
        assert bench.state is EngineState.FAILED
        assert isinstance(bench.engine.failure, DeviceLost)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answers: answers[:-1],
        lambda answers: [StepResult((999,), (0,), (1.0,), 1) for _ in answers],
        lambda answers: [StepResult((1,), (), (), 1) for _ in answers],
    ],
    ids=["too few", "no such token", "uneven"],
)
def test_answers_that_make_no_sense_end_the_stream(
    spoil: Callable[[list[StepResult]], list[StepResult]],
) -> None:
    class Spoiled(RequestedModel):
        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            return spoil(super().step(requests))

    with running(lambda: Spoiled(slots=1)) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, silence(0.1)))
        bench.wait_ended(1)
        assert isinstance(bench.ended[1].error, InternalError)
        bench.wait_counts(free=1)
        assert bench.state is EngineState.RUNNING


def test_metrics_are_told_about_each_step() -> None:
    recorder = Recorder()
    with running(lambda: PoisonedModel(slots=2), metrics=recorder) as bench:
        bench.run_stream(1, speech(1.0))
        bench.run_stream(2, PoisonedModel.POISON)
    assert sum(audio_s for _, audio_s, _ in recorder.steps) == pytest.approx(1.0)
    assert all(seconds >= 0 and min(waits) >= 0 for seconds, _, waits in recorder.steps)
    assert recorder.failed == 1


def test_twenty_minutes_of_silence_leave_nothing_behind() -> None:
    config = StreamConfig("test", interim_results=False, word_times=True)
    with running() as bench:
        bench.submit(Open(1, config))
        for _ in range(20):
            bench.submit(Audio(1, silence(60.0)))
        bench.submit(HalfClose(1))
        bench.wait_ended(1)
        (final,) = bench.results[1]
        assert (final.text, final.audio_ms) == ("", 1_200_000)


# --------------------------------------------------------------------------------------------------------------- slots


def test_the_books_of_slots_add_up() -> None:
    slots = Slots(3)
    assert [slots.lease() for _ in range(4)] == [0, 1, 2, None]
    slots.give_back(1)
    slots.check()
    assert slots.lease() == 1
    with pytest.raises(KeyError):
        slots.give_back(7)
    slots.free.append(2)
    with pytest.raises(RuntimeError, match="3 leased and 1 free are not 3"):
        slots.check()


def test_a_broken_row_ends_its_own_stream_only() -> None:
    """The model says which rows are not finite; the others of the same step go on, exactly."""

    class Broken(RequestedModel):
        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            return [
                StepResult((), (), (), 0, broken=True) if any(request.samples[:1] == -1.0) else result
                for request, result in zip(requests, super().step(requests), strict=True)
            ]

    with running(lambda: Broken(slots=4), max_batch=4, tick_s=0.05) as bench:
        bench.submit(*(Open(stream, CONFIG) for stream in (1, 2, 3)))
        bench.submit(Audio(1, speech(1.0)), Audio(2, PoisonedModel.POISON * 8), Audio(3, speech(1.0, seed=3)))
        bench.submit(*(HalfClose(stream) for stream in (1, 2, 3)))
        bench.wait_ended(1, 2, 3)
        assert isinstance(bench.ended[2].error, InternalError)
        for stream, seed in ((1, 0), (3, 3)):
            assert bench.ended[stream].error is None
            alone = recognize(NullModel(slots=1), speech(1.0, seed=seed))
            assert finals(bench.results[stream]) == finals(alone)
        bench.wait_counts(leased=0, free=4)


def test_a_language_that_the_model_does_not_know_is_the_clients_fault() -> None:
    with running(lambda: SignallingModel(slots=1)) as bench:
        assert bench.run_stream(1, speech(0.2), replace(CONFIG, language="ka-GE")) == []
        error = bench.ended[1].error
        assert isinstance(error, InvalidArgument)
        assert error.field == "language_code"
        assert bench.run_stream(2, speech(0.2), replace(CONFIG, language="en-GB"))[-1].reason
        bench.wait_counts(free=1)
