"""Messages and descriptors over a channel between processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_common.control_channel import ControlChannel, Received

PLAIN = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def channels() -> Iterator[tuple[ControlChannel, ControlChannel]]:
    """Both ends of one."""
    ends = ControlChannel.pair()
    yield ends
    for end in ends:
        end.close()


@given(st.lists(st.tuples(st.text(), PLAIN), max_size=8))
def test_messages_come_as_they_were_sent_and_in_their_order(messages: list[tuple[str, object]]) -> None:
    here, there = ControlChannel.pair()
    for message in messages:
        here.send(message)
    assert [received.message for received in there.read()] == messages
    here.close()
    assert there.read() == []
    assert not there.is_open
    there.close()


def test_descriptors_come_with_their_message(channels: tuple[ControlChannel, ControlChannel]) -> None:
    here, there = channels
    ends = socket.socketpair()
    here.send(("nothing",))
    here.send(("both",), [end.fileno() for end in ends])
    here.send(("nothing again",))
    for end in ends:
        end.close()
    first, both, last = there.read()
    assert (first.descriptors, last.descriptors) == ((), ())
    one, other = (socket.socket(fileno=descriptor) for descriptor in both.descriptors)
    with one, other:
        one.send(b"still open")
        assert other.recv(100) == b"still open"


def test_what_the_socket_does_not_take_goes_out_later(
    channels: tuple[ControlChannel, ControlChannel],
) -> None:
    here, there = channels
    reading, writing = os.pipe()
    messages = [(number, b"x" * 50_000) for number in range(40)]
    for message in messages:
        here.send(message, [writing] if message[0] == 39 else [])
    os.close(writing)
    assert here.has_unsent
    received: list[Received] = []
    while len(received) < len(messages):
        received += there.read()
        here.send_rest()
    assert [one.message for one in received] == messages
    (descriptor,) = received[-1].descriptors
    os.write(descriptor, b"y")
    assert os.read(reading, 1) == b"y"
    os.close(descriptor)
    # Nobody else has the writing end: it was kept until it had gone out, and no longer.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_an_end_that_is_gone_is_found_by_reading_and_by_sending(
    channels: tuple[ControlChannel, ControlChannel],
) -> None:
    here, there = channels
    there.send(("last words",))
    there.close()
    assert [received.message for received in here.read()] == [("last words",)]
    assert not here.is_open
    here.send(("nobody hears this",))
    assert not here.has_unsent
