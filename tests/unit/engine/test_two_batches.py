"""A model that takes a second batch while its device works on the first: the engine prepares one meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import pytest

from asr_service.core.errors import InternalError
from asr_service.core.step import StepAnswers, StepBatch
from asr_service.core.values import PhraseBoost, StreamConfig
from asr_service.model.null import NullModel
from tests.support.engines import PATIENCE_S, Audio, Bench, Cancel, HalfClose, Open, running
from tests.support.streams import finals, recognize, speech

CONFIG = StreamConfig("test")


class DeviceModel(NullModel):
    """Steps on a device beside the host: a batch is answered once the device was let go on.

    Attributes:
        begun: released for each batch that was submitted.
        gate: to be released for each batch that the device may answer.
        most_at_once: how many batches were submitted and not collected at the same time.
        reopened: slots that were opened while they were in a batch, which must not be.
    """

    def __init__(self, *, slots: int) -> None:
        super().__init__(slots=slots)
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.most_at_once = 0
        self.reopened: list[int] = []
        self.fails = False
        self._device: deque[tuple[set[int], StepAnswers]] = deque()

    @property
    def most_submitted(self) -> int:
        return 2

    def begin_two(self, bench: Bench) -> None:
        """Returns once two batches are in flight: all chunks are there when the first of all is answered."""
        assert self.begun.acquire(timeout=PATIENCE_S)
        bench.wait_sent()
        self.gate.release()
        for _ in range(2):
            assert self.begun.acquire(timeout=PATIENCE_S)

    def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
        if any(slot in slots for slots, _ in self._device):
            self.reopened.append(slot)

    def submit(self, batch: StepBatch) -> None:
        super().submit(batch)
        self._device.append((set(batch.slots.tolist()), super().collect()))
        self.most_at_once = max(self.most_at_once, len(self._device))
        self.begun.release()

    def collect(self) -> StepAnswers:
        assert self.gate.acquire(timeout=PATIENCE_S)
        _, answers = self._device.popleft()
        if self.fails:
            self.fails = False
            raise ValueError("a kernel has failed")
        return answers


def test_a_second_batch_begins_before_the_first_is_answered() -> None:
    model = DeviceModel(slots=4)
    with running(lambda: model, max_batch=2) as bench:
        bench.open(1, 2, 3, 4)
        data = {stream: speech(0.6, seed=stream) for stream in range(1, 5)}
        for stream, audio in data.items():
            bench.submit(Audio(stream, audio), HalfClose(stream))
        model.begin_two(bench)
        assert bench.record.busy_since > 0
        model.gate.release(1_000)
        bench.wait_ended(*data)
        for stream, audio in data.items():
            assert finals(bench.results[stream]) == finals(recognize(NullModel(slots=1), audio))
        bench.wait_counts(leased=0, free=4, ready=0)
        assert (model.most_at_once, model.reopened) == (2, [])
        assert bench.record.busy_since == 0


def test_a_slot_that_comes_back_while_it_is_stepped_is_not_given_out_before_that_is_over() -> None:
    model = DeviceModel(slots=1)
    with running(lambda: model) as bench:
        bench.submit(Open(1, CONFIG), Audio(1, speech(0.1)))
        assert model.begun.acquire(timeout=PATIENCE_S)
        bench.submit(Cancel(1), Open(2, CONFIG), Audio(2, speech(0.4)), HalfClose(2))
        bench.wait_sent()
        model.gate.release(1_000)
        bench.wait_ended(1, 2)
        assert finals(bench.results[2]) == finals(recognize(NullModel(slots=1), speech(0.4)))
        assert model.reopened == []


def test_a_batch_that_fails_leaves_the_other_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = DeviceModel(slots=2)
    with running(lambda: model, max_batch=1) as bench:
        bench.open(1, 2)
        data = speech(0.6)
        bench.submit(Audio(1, data), HalfClose(1), Audio(2, data), HalfClose(2))
        model.begin_two(bench)
        model.fails = True
        model.gate.release(1_000)
        bench.wait_ended(1, 2)
        failed = [stream for stream in (1, 2) if bench.ended[stream].error is not None]
        assert len(failed) == 1 and isinstance(bench.ended[failed[0]].error, InternalError)
        (other,) = {1, 2} - set(failed)
        assert finals(bench.results[other]) == finals(recognize(NullModel(slots=1), data))
        bench.wait_counts(leased=0, free=2)
