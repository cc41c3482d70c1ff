"""The pipes to the engine's process: what goes in comes out, however it is cut on the way."""

from __future__ import annotations

import os
import threading
import time
from queue import Empty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.commands import (
    Audio,
    Cancel,
    Command,
    Consumed,
    Ended,
    Event,
    Finalize,
    HalfClose,
    Open,
    TimedCommand,
)
from asr_service.core.errors import AtCapacity, InternalError, OutOfOrder, Unavailable
from asr_service.core.values import (
    Encoding,
    EndpointingConfig,
    FinalReason,
    PhraseBoost,
    Result,
    StreamConfig,
    Word,
)
from asr_service.engine.ipc import (
    CommandPipe,
    MessageReader,
    new_pipe,
    pack_command,
    pack_event,
    pack_message,
    unpack_command,
    unpack_event,
    write_all,
)
from tests.support.process import PATIENCE_S

ids = st.integers(0, 2**40)
names = st.text(max_size=20)
configs = st.builds(
    StreamConfig,
    names,
    encoding=st.sampled_from(Encoding),
    endpointing=st.none() | st.builds(EndpointingConfig, st.integers(0, 5000)),
    boosts=st.lists(st.builds(PhraseBoost, st.lists(names, max_size=3).map(tuple)), max_size=2).map(tuple),
)
commands = st.one_of(
    st.builds(Audio, ids, st.binary(max_size=3000)),
    st.builds(Open, ids, configs),
    st.builds(Finalize, ids, names),
    st.builds(HalfClose, ids),
    st.builds(Cancel, ids),
    st.none(),
)
words = st.builds(Word, names, st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1))
events = st.one_of(
    st.builds(Consumed, ids, *[st.integers(0, 10**9)] * 3),
    st.builds(
        Result,
        stream=ids,
        text=names,
        reason=st.none() | st.sampled_from(FinalReason),
        utterance=st.integers(0, 1000),
        words=st.lists(words, max_size=3).map(tuple),
        confidence=st.floats(0, 1),
        audio_ms=st.integers(0, 10**9),
        tag=names,
        made_unix_ms=st.integers(0, 2**45),
        stability=st.floats(0, 1),
    ),
    st.builds(Ended, ids, st.none()),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Pieces of these sizes, again and again."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        pieces.append(data[at : at + sizes[turn % len(sizes)]])
        at += len(pieces[-1])
        turn += 1
    return pieces


@given(
    st.lists(st.tuples(st.floats(0, 1e9), commands), max_size=10), st.lists(st.integers(1, 700), min_size=1)
)
def test_commands(given_: list[TimedCommand], sizes: list[int]) -> None:
    data = b"".join(pack_message([pack_command(now, command)]) for now, command in given_)
    reader = MessageReader()
    found = [packed for piece in cut(data, sizes) for batch in reader.feed(piece) for packed in batch]
    assert [unpack_command(packed) for packed in found] == given_


@given(st.lists(events, max_size=10), st.lists(st.integers(1, 700), min_size=1))
def test_events(given_: list[Event], sizes: list[int]) -> None:
    data = pack_message([pack_event(event) for event in given_])
    reader = MessageReader()
    found = [packed for piece in cut(data, sizes) for turn in reader.feed(piece) for packed in turn]
    assert [unpack_event(packed) for packed in found] == given_


@pytest.mark.parametrize(
    "error",
    [
        InternalError(request_id="0123456789ab"),
        Unavailable("gone", retry_after_s=2.5),
        OutOfOrder("not now", field="audio"),
        AtCapacity("full", retry_after_s=1.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_keep_what_is_told_of_them(
    error: InternalError | Unavailable | OutOfOrder | AtCapacity,
) -> None:
    ended = unpack_event(pack_event(Ended(7, error)))
    assert isinstance(ended, Ended) and ended.stream == 7
    assert type(ended.error) is type(error)
    assert vars(ended.error) == vars(error)


def test_the_engines_end_of_the_pipe() -> None:
    """It waits for what comes, takes more than a pipe holds, and says so when nobody is there any more."""
    reading, writing = new_pipe()
    lost = threading.Event()
    pipe = CommandPipe(reading, lost.set)
    assert pipe.qsize() == 0
    with pytest.raises(Empty):
        pipe.get(timeout=0.01)
    sent: list[Command] = [Audio(stream, bytes(100_000)) for stream in range(30)]
    data = b"".join(pack_message([pack_command(time.monotonic(), command)]) for command in sent)
    writer = threading.Thread(target=write_all, args=(writing, data))
    writer.start()
    found = [pipe.get(timeout=PATIENCE_S)[1] for _ in sent]
    writer.join()
    assert found == sent
    assert pipe.qsize() == 0 and not lost.is_set()
    os.close(writing)
    assert pipe.qsize() == 0 and lost.is_set()
    os.close(reading)
