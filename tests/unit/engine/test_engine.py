from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue

import pytest

from asr_service.core.commands import Audio, Cancel, Consumed, Event, Finalize, HalfClose, Open
from asr_service.core.errors import (
    AtCapacity,
    InternalError,
    InvalidArgument,
    ModelError,
    OutOfOrder,
    Unavailable,
)
from asr_service.core.model import DeviceLost, ModelInfo, StepRequest, StepResult
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.engine.contract import EngineState
from asr_service.engine.slots import Slots
from asr_service.model.null import NullModel
from tests.support.engines import PATIENCE_S, EngineThread, GatedModel, PoisonedModel, running
from tests.support.streams import SignallingModel, finals, recognize, silence, speech

CONFIG = StreamConfig("test")


class Recorder:
    """Notes what the engine tells of its work."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, list[float]]] = []
        self.failed = self.begun = self.weighings = self.probed = 0

    def step_begins(self, at: float) -> None:
        self.begun += 1

    def load_measured(self) -> None:
        self.weighings += 1

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        self.steps.append((seconds, audio_s, list(waits_s)))

    def probe_over(self) -> None:
        self.probed += 1

    def step_failed(self, streams: int) -> None:
        self.failed += streams


# --------------------------------------------------------------------------------------------------------------- life


def test_it_loads_warms_up_runs_and_stops() -> None:
    with running() as bench:
        assert bench.states == [EngineState.WARMING, EngineState.RUNNING]
        assert bench.engine.info is not None
        assert bench.engine.info.name == "null"
    assert bench.engine.state is EngineState.STOPPED
    assert bench.states[-1] is EngineState.STOPPED


def test_a_model_that_cannot_be_made_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> NullModel:
        raise ModelError("no such model")

    with running(load) as bench:
        assert bench.states == [EngineState.FAILED]
        assert isinstance(bench.engine.failure, ModelError)
        assert bench.engine.slot_counts().slots == 0
    assert caplog.records == []


def test_an_engine_that_dies_says_so_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def deliver(_: object) -> None:
        raise RuntimeError("the event loop is closed")

    thread = EngineThread(lambda: NullModel(slots=1), max_batch=1, tick_s=0, deliver=deliver)
    thread.submit(Open(1, CONFIG), HalfClose(1))
    thread.start()
    thread.join()
    assert thread.engine.state is EngineState.FAILED
    assert isinstance(thread.engine.failure, RuntimeError)
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [
        (logging.CRITICAL, True)
    ]


def test_stop_ends_the_streams_that_are_open() -> None:
    with running() as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.3)))
        bench.wait_for(lambda: 1 in bench.results)
    bench.wait_ended(1)
    assert isinstance(bench.ended[1].error, Unavailable)


def test_a_step_is_told_of_before_it_is_over() -> None:
    model, recorder = GatedModel(slots=1), Recorder()
    with running(lambda: model, metrics=recorder) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, silence(0.1)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        assert (recorder.begun, recorder.steps) == (1, [])
        model.gate.release()
        bench.wait_for(lambda: 1 in bench.results)
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
        assert 0 <= len(data) - bench.consumed[1] < 2 * 2_560
        assert bench.engine.slot_counts() == bench.engine.slot_counts().__class__(4, 0, 4, 0, 0, 0, 4)


def test_commands_given_while_the_model_loads_are_carried_out() -> None:
    with running() as bench:
        first = bench.run_stream(1, speech(0.5))
    made = EngineThread(lambda: NullModel(slots=4), max_batch=4, tick_s=0, deliver=bench.delivered.put)
    made.submit(Open(2, CONFIG), Audio(2, speech(0.5)), HalfClose(2))
    made.start()
    bench.wait_ended(2)
    made.stop()
    assert [result.text for result in bench.results[2]] == [result.text for result in first]


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
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.05)), Cancel(1), Open(2, CONFIG), HalfClose(2))
        bench.wait_ended(1, 2)
        assert bench.ended[1].error is None
        assert 1 not in bench.results
        assert bench.ended[2].error is None


def test_what_is_meant_for_streams_that_are_gone_is_ignored() -> None:
    with running() as bench:
        bench.submit(Audio(9, b".."), Finalize(9, ""), HalfClose(9), Cancel(9))
        bench.run_stream(1, speech(0.2))
        bench.submit(Audio(1, b".."), Cancel(1))
        bench.run_stream(2, speech(0.2))
        assert set(bench.ended) == {1, 2}


def test_more_streams_than_slots_are_refused() -> None:
    with running(lambda: NullModel(slots=1)) as bench:
        bench.submit(Open(1, CONFIG), Open(2, CONFIG))
        bench.wait_ended(2)
        assert isinstance(bench.ended[2].error, AtCapacity)
        assert 1 not in bench.ended


def test_a_config_that_no_stream_can_be_made_of_ends_that_stream_only() -> None:
    with running(lambda: NullModel(slots=1)) as bench:
        bench.submit(Open(1, StreamConfig("test", sample_rate=0)))
        bench.wait_ended(1)
        assert isinstance(bench.ended[1].error, InternalError)
        assert bench.run_stream(2, speech(0.2))


def test_input_after_the_half_close_is_the_callers_fault() -> None:
    model = GatedModel(slots=1)
    with running(lambda: model) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.2)), HalfClose(1), Audio(1, b".."))
        bench.wait_ended(1)
        assert isinstance(bench.ended[1].error, OutOfOrder)
        assert bench.engine.slot_counts().free == 1


def test_books_tell_what_streams_do() -> None:
    model = GatedModel(slots=3)
    with running(lambda: model) as bench:
        bench.submit(Open(1, CONFIG), Open(2, CONFIG), Audio(2, silence(0.1)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        model.gate.release()
        bench.wait_for(lambda: 2 in bench.results)
        counts = bench.engine.slot_counts()
        assert (counts.slots, counts.leased, counts.free, counts.fresh, counts.running) == (3, 2, 1, 1, 1)


# --------------------------------------------------------------------------------------------------------------- steps


def test_ready_streams_are_stepped_together_up_to_the_largest_batch() -> None:
    model = GatedModel(slots=6)
    with running(lambda: model, max_batch=4) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, silence(0.1)))
        assert model.entered.acquire(timeout=PATIENCE_S)  # while this one is stepped, six chunks come
        bench.submit(*(Open(stream, CONFIG) for stream in range(2, 7)))
        bench.submit(*(Audio(stream, silence(0.1)) for stream in range(2, 7)), Audio(1, silence(0.2)))
        model.gate.release(100)
        bench.wait_for(lambda: len(bench.results) == 6 and len(bench.results[1]) == 2)
        assert [len(batch) for batch in model.batches] == [1, 4, 2]
        assert all(len(set(batch)) == len(batch) for batch in model.batches)


def test_an_upload_waits_for_live_streams_and_not_the_reverse() -> None:
    model = GatedModel(slots=3)
    with running(lambda: model, max_batch=1) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, silence(60.0)))
        assert model.entered.acquire(timeout=PATIENCE_S)
        bench.submit(Open(2, CONFIG), Audio(2, silence(0.093)), Open(3, CONFIG), Audio(3, silence(0.093)))
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
        assert bench.engine.slot_counts().leased == 1
        bench.submit(HalfClose(1))
        bench.wait_ended(1)
        assert finals(bench.results[1]) == finals(recognize(NullModel(slots=1), speech(0.3)))
        assert bench.run_stream(3, speech(0.3))[-1].text == bench.results[1][-1].text
        assert bench.engine.state is EngineState.RUNNING


def test_a_lost_device_ends_the_engine_at_once() -> None:
    """Another process can serve again; this one would fail every step from now on."""

    class Lost(NullModel):
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
        assert bench.engine.state is EngineState.FAILED
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
    class Spoiled(NullModel):
        def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
            return spoil(super().step(requests))

    with running(lambda: Spoiled(slots=1)) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, silence(0.1)))
        bench.wait_ended(1)
        assert isinstance(bench.ended[1].error, InternalError)
        assert bench.engine.slot_counts().free == 1
        assert bench.engine.state is EngineState.RUNNING


def test_metrics_are_told_about_each_step() -> None:
    recorder = Recorder()
    with running(lambda: PoisonedModel(slots=2), metrics=recorder) as bench:
        bench.run_stream(1, speech(1.0))
        bench.run_stream(2, PoisonedModel.POISON)
    assert sum(audio_s for _, audio_s, _ in recorder.steps) == pytest.approx(1.0)
    assert all(seconds >= 0 and min(waits) >= 0 for seconds, _, waits in recorder.steps)
    assert recorder.failed == 1
    assert recorder.begun == len(recorder.steps) + 1
    assert recorder.weighings


def test_an_hour_of_silence_is_quick_and_leaves_nothing_behind() -> None:
    config = StreamConfig("test", interim_results=False, word_times=True)
    with running() as bench:
        bench.submit(Open(1, config))
        for _ in range(60):
            bench.submit(Audio(1, silence(60.0)))
        bench.submit(HalfClose(1))
        bench.wait_ended(1)
        (final,) = bench.results[1]
        assert (final.text, final.audio_ms) == ("", 3_600_000)


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

    class Broken(NullModel):
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
        counts = bench.engine.slot_counts()
        assert (counts.leased, counts.free) == (0, 4)


def test_where_the_next_chunk_ends_is_told_again_when_the_model_starts_anew() -> None:
    """With the results of the step that ended the utterance: the front end waits for a longer chunk until then."""
    over = b"\x0c\x0c"
    with running(lambda: SignallingModel(slots=1)) as bench:
        info = bench.engine.info
        assert info is not None
        first, full = 2 * info.first_chunk_samples, 2 * info.chunk_samples
        bench.submit(Open(1, CONFIG), Audio(1, over * (first // 2)))
        told: list[Consumed] = []
        while len(told) < 3:
            events = bench.delivered.get(timeout=PATIENCE_S)
            told += [event for event in events if isinstance(event, Consumed)]
        assert any(isinstance(event, Result) for event in events)
        assert told == [
            Consumed(1, 0, first, full),
            Consumed(1, first, first + full, full),
            Consumed(1, 0, first + first, full),
        ]


class ListeningModel(NullModel):
    """Writes marks if it is told to, and counts the samples that it hears."""

    def __init__(self, *, writes_marks: bool, right: int = 1) -> None:
        super().__init__(slots=1, att_context=(70, right))
        self.writes_marks, self.heard = writes_marks, 0

    @property
    def info(self) -> ModelInfo:
        info = super().info
        return replace(info, pieces=(*info.pieces[:-1], "?")) if self.writes_marks else info

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        self.heard += sum(len(request.samples) for request in requests)
        return super().step(requests)


@pytest.mark.parametrize(
    ("model", "setting", "added_ms"),
    [
        (ListeningModel(writes_marks=False), None, 80),
        (ListeningModel(writes_marks=False, right=6), None, 80),
        (ListeningModel(writes_marks=True), None, 320),
        (ListeningModel(writes_marks=True, right=3), None, 640),
        (ListeningModel(writes_marks=True), 0, 0),
        (ListeningModel(writes_marks=True), 100, 100),
    ],
)
def test_the_silence_of_a_finalize_suits_the_model_unless_it_is_set(
    model: ListeningModel, setting: int | None, added_ms: int
) -> None:
    results: SimpleQueue[tuple[Event, ...]] = SimpleQueue()
    thread = EngineThread(
        lambda: model, max_batch=1, tick_s=0.0, finalize_silence_ms=setting, deliver=results.put
    )
    thread.start()
    thread.submit(Open(1, CONFIG), Audio(1, speech(0.5)), Finalize(1, ""))
    while not any(isinstance(event, Result) and event.reason for event in results.get(timeout=PATIENCE_S)):
        pass
    thread.stop()
    assert model.heard == 8_000 + 16 * added_ms


def test_a_language_that_the_model_does_not_know_is_the_clients_fault() -> None:
    with running(lambda: SignallingModel(slots=1)) as bench:
        assert bench.run_stream(1, speech(0.2), replace(CONFIG, language="ka-GE")) == []
        error = bench.ended[1].error
        assert isinstance(error, InvalidArgument)
        assert error.field == "language_code"
        assert bench.run_stream(2, speech(0.2), replace(CONFIG, language="en-GB"))[-1].reason
        assert bench.engine.slot_counts().free == 1
