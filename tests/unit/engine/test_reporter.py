"""What an engine's process tells of probes: when a step of theirs begins and that it is over, and what they found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asr_service.core.commands import Open
from asr_service.core.values import StreamConfig
from asr_service.engine.capacity import Capacity
from asr_service.engine.ipc import MessageKind, MessageReader, new_pipe, read_some
from asr_service.engine.process import Reporter
from asr_service.model.null import NullModel
from tests.support.engines import EngineThread

Messages = Iterator[list[Any]]


@contextmanager
def reported(*, probe: bool) -> Iterator[tuple[EngineThread, Messages]]:
    """An engine in a thread, and the messages that its process would send, without their end."""
    reading, writing = new_pipe()
    reporter = Reporter(writing)
    thread = EngineThread(
        lambda: NullModel(slots=8),
        max_batch=4,
        tick_s=0.0,
        probe=probe,
        deliver=reporter.deliver,
        metrics=reporter,
    )
    reporter.attach(thread.engine)

    def read() -> Messages:
        reader = MessageReader()
        while data := read_some(reading):
            yield from reader.feed(data)

    thread.start()
    try:
        yield thread, read()
    finally:
        thread.stop()
        os.close(writing)
        os.close(reading)


def test_steps_of_a_probe_begin_end_and_are_no_steps_of_streams() -> None:
    with reported(probe=True) as (_, messages):
        begun: list[float | None] = []
        for kind, *values in messages:
            assert kind != MessageKind.TURN
            if kind == MessageKind.STEP_BEGINS:
                begun += values
            if len(begun) == 20:
                break
        assert all(at is not None for at in begun[::2])
        assert begun[1::2] == [None] * 10


def test_what_was_found_is_in_every_report() -> None:
    with reported(probe=True) as (_, messages):
        reports = 0
        for kind, *values in messages:
            if kind == MessageKind.REPORT and values[-1] is not None:
                assert Capacity(*values[-1]).streams == 8
                reports += 1
            if reports == 2:
                break


def test_without_a_probe_there_is_nothing_to_tell() -> None:
    with reported(probe=False) as (thread, messages):
        thread.submit(Open(1, StreamConfig("test")))
        for kind, *values in messages:
            assert kind != MessageKind.STEP_BEGINS
            assert kind != MessageKind.REPORT or values[-1] is None
            if kind == MessageKind.TURN:
                break
