"""Steps of fixed shapes, as a GPU replays them: on the CPU, with a recorder that records nothing, equal to others."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

from asr_service.core.model import DeviceLost, OutOfMemory
from asr_service.core.values import PhraseBoost
from asr_service.model.batch_sizes import padded_size, padded_sizes
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder
from asr_service.recognition.vocabulary import SPACE_MARK
from testbed.models import babble
from tests.model import reference
from tests.model.driver import run
from tests.model.test_step_batches import MODELS, assert_each_gets_its_own
from tests.support.chunks import OTHER_BATCH, Segment, assert_same, step_alone, step_together

SECONDS = (4.0, 0.5, 2.2, 0.1, 3.3, 0.0, 1.7)
Out = TypeVar("Out")


@pytest.mark.parametrize(
    ("shape", "context", "decoder"),
    [
        ("tiny", (70, 1), "rnnt"),
        ("tiny", (70, 0), "rnnt"),
        ("tiny", (70, 13), "rnnt"),
        ("tiny", (70, 6), "ctc"),
    ],
)
def test_recorded_steps_give_the_reference_tokens(
    nemo_model: Callable[[str], Any],
    streaming: Callable[..., NemoStreamingModel],
    shape: str,
    context: tuple[int, int],
    decoder: str,
) -> None:
    """Streams start, end and share batches of many sizes at random: the static tensors carry nothing over."""
    loaded, model = nemo_model(shape), streaming(shape, context, decoder=decoder, encoder="torch")
    model.record_with(EagerRecorder())
    audios = [babble(4.0, seed)[: int(16_000 * s)] for seed, s in enumerate(SECONDS)]
    streams = run(model, audios, seed=7, together=6)
    assert [s.tokens for s in streams] == [reference.tokens(loaded, a, context, decoder) for a in audios]
    assert {1, 2, 4} <= set(model.readings().recorded or ()) <= {1, 2, 4, 8}


@pytest.mark.parametrize("most_submitted", [1, 2])
@pytest.mark.parametrize("table_rows", [None, 80, 2], ids=["room", "little room", "no room"])
@MODELS
def test_recorded_steps_equal_the_steps_of_cpus(
    streaming: Callable[..., NemoStreamingModel],
    shape: str,
    context: tuple[int, int],
    decoder: str,
    table_rows: int | None,
    most_submitted: int,
) -> None:
    """Boosted rows, rows that are not finite, languages; trees on the device, on the host, and some on each."""
    alone = streaming(shape, context, decoder=decoder, slots=1)
    together = streaming(shape, context, decoder=decoder, encoder="torch", slots=7)
    together.record_with(EagerRecorder(), table_rows)
    together._most_submitted = most_submitted
    assert_each_gets_its_own(alone, together, context[1])


def test_many_streams_may_begin_at_once(streaming: Callable[..., NemoStreamingModel]) -> None:
    """More than a recording puts at their start, in slots that others have used."""
    alone = streaming("tiny", (70, 1), slots=1)
    together = streaming("tiny", (70, 1), encoder="torch", slots=40)
    together.record_with(EagerRecorder())
    audios = [babble(2.0, seed) for seed in range(40)]
    expected = [one.tokens for one in run(alone, audios, seed=1, together=1)]
    for seed in (2, 3):
        streams = run(together, audios, seed=seed, together=40)
        assert [one.tokens for one in streams] == expected


def test_warm_up_records_every_size_that_live_steps_take(
    streaming: Callable[..., NemoStreamingModel],
) -> None:
    """Nothing is left to be recorded once the service reports that it serves."""
    model = streaming("tiny", (70, 1), encoder="torch", slots=12)
    model.record_with(EagerRecorder())
    model.warm_up(12, lambda _: None)
    assert model.readings().recorded == (1, 2, 4, 8, 16)


def test_when_recording_fails_steps_go_on_without(
    nemo_model: Callable[[str], Any],
    streaming: Callable[..., NemoStreamingModel],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second size cannot be recorded: one line of log, the same tokens, in the middle of streams."""

    class Once(EagerRecorder):
        tries = 0

        def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
            self.tries += 1
            # Each size takes two.
            if self.tries > 2:
                raise RuntimeError("operation not permitted when stream is capturing")
            return super().record(work)

    loaded, model, recorder = nemo_model("tiny"), streaming("tiny", (70, 1), encoder="torch"), Once()
    model.record_with(recorder)
    audios = [babble(3.0, seed) for seed in range(5)]
    with caplog.at_level(logging.WARNING, logger="asr_service.model.recorded_steps"):
        streams = run(model, audios, seed=1, together=5)
    assert [s.tokens for s in streams] == [reference.tokens(loaded, a, (70, 1), "rnnt") for a in audios]
    assert recorder.tries == 3 and model.readings().recorded == ()
    assert len(caplog.records) == 1 and "kernel by kernel" in caplog.text


def test_a_recording_that_does_something_else_is_not_used(
    nemo_model: Callable[[str], Any],
    streaming: Callable[..., NemoStreamingModel],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As one that was recorded on another device, whose output stays what it was."""

    class Stale(EagerRecorder):
        def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
            out = work()
            if isinstance(out, tuple):
                stale = tuple(one.clone() for one in out)
                return lambda: stale  # type: ignore[return-value]
            return work

    loaded, model = nemo_model("tiny"), streaming("tiny", (70, 1), encoder="torch")
    model.record_with(Stale())
    audio = babble(3.0, 1)
    with caplog.at_level(logging.WARNING, logger="asr_service.model.recorded_steps"):
        (stream,) = run(model, [audio], seed=1, together=1)
    assert stream.tokens == reference.tokens(loaded, audio, (70, 1), "rnnt")
    assert model.readings().recorded == () and "differs from a launched one" in caplog.text


def test_rows_that_share_the_spare_row_are_not_compared(
    streaming: Callable[..., NemoStreamingModel], caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels read and write the pools in place: for such rows one after the other, in any order."""

    class Disturbed(EagerRecorder):
        def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
            out = work()
            if not isinstance(out, tuple):
                return work

            def replay() -> Out:
                for pool in pools:
                    pool[:, model.slots] += 1.0
                return work()

            return replay

    model = streaming("tiny", (70, 1), encoder="torch", slots=16)
    pools = model._encoder.state()  # type: ignore[attr-defined]
    model.record_with(Disturbed())
    model.warm_up(16, lambda _: None)
    assert model.readings().recorded == (1, 2, 4, 8, 16) and not caplog.records


def test_a_recording_is_checked_in_rows_that_no_stream_has(
    streaming: Callable[..., NemoStreamingModel],
) -> None:
    """Sizes that are recorded in the middle of streams change nothing for them."""
    alone = streaming("tiny", (70, 1), slots=1)
    together = streaming("tiny", (70, 1), encoder="torch", slots=12)
    together.record_with(EagerRecorder())
    audios = [babble(3.0, seed) for seed in range(12)]
    expected = [one.tokens for one in run(alone, audios, seed=1, together=1)]
    found = run(together, audios, seed=3, together=12)
    assert [one.tokens for one in found] == expected
    assert len(together.readings().recorded or ()) > 2


def _no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def _lost() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("answer", "told"), [(_no_memory, OutOfMemory), (_lost, DeviceLost), (lambda: None, RuntimeError)]
)
def test_an_error_without_a_reason_is_told_by_how_the_device_answers(
    streaming: Callable[..., NemoStreamingModel],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[], None],
    told: type[Exception],
) -> None:
    """Libraries have words of their own for a lack of memory, of which not all are known."""
    model = streaming("tiny", (70, 1), encoder="torch", slots=1)

    class Failing(EagerRecorder):
        def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
            def fail() -> Out:
                raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")

            super().record(work)
            return fail

    model.record_with(Failing())
    monkeypatch.setattr(model._recorded, "_is_recorded", False)
    monkeypatch.setattr("asr_service.model.streaming.ask_device", lambda device: answer())
    with pytest.raises(told) as caught:
        model.warm_up(1, lambda _: None)
    assert type(caught.value) is told


class _Full:
    """Takes nothing any more."""

    def __call__(self, *_: object) -> Any:
        _no_memory()

    __setitem__ = __call__


@pytest.mark.parametrize("is_boosted_before", [True, False])
@pytest.mark.parametrize(
    ("table_rows", "full"), [(None, "_recorded._tables._send"), (2, "_decoder._boosts._root")]
)
def test_phrases_for_which_there_is_no_memory_leave_nothing_behind(
    streaming: Callable[..., NemoStreamingModel],
    monkeypatch: pytest.MonkeyPatch,
    table_rows: int | None,
    full: str,
    is_boosted_before: bool,
) -> None:
    """The segment fails; those after it that boost nothing get their plain words, whatever the slot had before."""
    model = streaming("tiny", (70, 1), encoder="torch", slots=1)
    plain = step_alone(model, Segment(babble(3.0, 4)))
    model.record_with(EagerRecorder(), table_rows)
    pieces = [piece.replace(SPACE_MARK, " ").strip() for piece in model.info.pieces]
    # Of two words: the second one's bonus is that of a place in the tree.
    words = [f"{one} {other}" for one in pieces[5:35] for other in pieces[5:25]]
    first, second = (PhraseBoost(tuple(words[place::2]), 20.0) for place in (0, 1))

    def tokens(*boosts: PhraseBoost) -> list[tuple[int, ...]]:
        segment = Segment(babble(3.0, 4), boosts=boosts)
        step_together(model, [segment], random.Random(1))
        return [result.tokens for result in segment.results]

    expected = [result.tokens for result in plain]
    if is_boosted_before:
        assert tokens(first) != expected
    owner = model
    *path, name = full.split(".")
    for part in path:
        owner = getattr(owner, part)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _Full())
        with pytest.raises(OutOfMemory):
            tokens(second)
    assert [tokens(), tokens()] == [expected, expected]
    assert tokens(second) != expected and tokens() == expected


@pytest.mark.parametrize("recorded", [True, False])
def test_a_row_that_is_not_finite_spoils_nothing_where_its_step_fails(
    streaming: Callable[..., NemoStreamingModel], monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """The next stream of its slot begins with none of its numbers."""
    model = streaming("tiny", (70, 1), encoder="torch", slots=1)
    expected = step_alone(model, Segment(babble(3.0, 4)))
    if recorded:
        model.record_with(EagerRecorder())
    with monkeypatch.context() as patch:
        if recorded:
            patch.setattr("asr_service.model.recorded_steps.answers_from", _Full())
        else:
            patch.setattr(model._decoder, "step", _Full())
        with pytest.raises(OutOfMemory):
            step_together(model, [Segment(babble(3.0, 4), spoiled=0)], random.Random(1))
    again = Segment(babble(3.0, 4))
    step_together(model, [again], random.Random(1))
    assert_same(again.results, expected, OTHER_BATCH)


def _no_memory_told_as_no_end() -> None:
    try:
        _no_memory()
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize("full", [_no_memory, _no_memory_told_as_no_end])
def test_no_memory_for_a_recording_is_told_and_the_others_stay(
    nemo_model: Callable[[str], Any],
    streaming: Callable[..., NemoStreamingModel],
    caplog: pytest.LogCaptureFixture,
    full: Callable[[], None],
) -> None:
    """Batches of eight do not fit: the engine is told so and makes smaller ones, which are recorded."""

    class Small(EagerRecorder):
        tries = 0
        refused = 1

        def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
            self.tries += 1
            if self.tries <= self.refused:
                full()
            return super().record(work)

    loaded, model, recorder = nemo_model("tiny"), streaming("tiny", (70, 1), encoder="torch"), Small()
    model.record_with(recorder)
    with pytest.raises(OutOfMemory):
        model.warm_up(8, lambda _: None)
    # The largest comes first.
    assert model.readings().recorded == () and recorder.tries == 1
    model.warm_up(4, lambda _: None)
    assert model.readings().recorded == (1, 2, 4)
    recorder.refused = recorder.tries + 1
    with pytest.raises(OutOfMemory):
        model.warm_up(8, lambda _: None)
    audios = [babble(3.0, seed) for seed in range(5)]
    streams = run(model, audios, seed=1, together=4)
    assert [s.tokens for s in streams] == [reference.tokens(loaded, a, (70, 1), "rnnt") for a in audios]
    assert model.readings().recorded == (1, 2, 4) and not caplog.records
    # There is memory again.
    model.warm_up(8, lambda _: None)
    assert model.readings().recorded == (1, 2, 4, 8)


def test_batches_are_padded_to_few_sizes_that_are_near() -> None:
    assert padded_sizes(2048) == [1, 2, 4, 8, 16, 32, 64, 128, *range(256, 2049, 128)]
    for most in (1, 5, 128, 129, 700):
        sizes = padded_sizes(most)
        assert sizes == sorted({padded_size(rows) for rows in range(1, most + 1)})
    assert all(rows <= padded_size(rows) < max(2 * rows, 2) + 1 for rows in range(1, 3000))
    assert all(padded_size(rows) - rows < 128 for rows in range(1, 3000))
