"""Packets are joined to chunks: nothing is lost or moved, and nothing that completes a chunk waits."""

from __future__ import annotations

from asr.v1 import asr_pb2
from hypothesis import given
from hypothesis import strategies as st

from ws_bridge.packet_joiner import GRACE_S, PacketJoiner

RATE = 1000


def told(end: int, size: int, *, finalize: bool = False) -> asr_pb2.RecognizeResponse:
    """A response that says where the next chunk ends."""
    response = asr_pb2.RecognizeResponse()
    response.next_chunk.end_bytes, response.next_chunk.chunk_bytes = end, size
    if finalize:
        response.result.final_reason = asr_pb2.FINAL_REASON_FINALIZE
    return response


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), st.integers(1, 50)),
        st.tuples(st.just("riff"), st.integers(4, 50)),
        st.tuples(st.just("told"), st.integers(0, 90)),
        st.tuples(st.just("finalize"), st.just(0)),
        st.tuples(st.just("final"), st.integers(0, 90)),
        st.tuples(st.just("over"), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS, st.sampled_from([0, 40]), st.booleans())
def test_all_audio_goes_in_its_order_and_no_complete_chunk_waits(
    actions: list[tuple[str, int]], size: int, joins: bool
) -> None:
    joiner, sent, received = PacketJoiner(RATE, joins=joins), b"", b""
    open_finalizes = 0
    for number, (action, amount) in enumerate(actions):
        if action in ("packet", "riff"):
            packet = bytes([number % 250]) * amount if action == "packet" else b"RIFF".ljust(amount, b"\1")
            received += packet
            messages = joiner.add(packet)
            sent += b"".join(messages)
            # A WAV header starts a message.
            assert action == "packet" or messages[-1] == packet
            joins &= action == "packet"
        elif action == "told":
            if joiner.response(told(len(sent) + amount, size)):
                sent += joiner.take()
        elif action == "finalize":
            sent += joiner.take()
            joiner.finalize()
            open_finalizes += 1
        elif action == "final" and open_finalizes:
            open_finalizes -= 1
            joiner.response(told(len(sent) + amount, size, finalize=True))
        elif action == "over":
            sent += joiner.take()
        held = len(received) - len(sent)
        assert sent == received[: len(sent)]
        if not joins or open_finalizes:
            assert held == 0
        if held:
            assert 0 < joiner.wait_s <= (size or 90) / RATE + GRACE_S + 90 / RATE
            assert held < (size or 90) + 90
    assert received == sent + joiner.take()


def test_one_message_a_chunk_once_the_service_has_told() -> None:
    joiner = PacketJoiner(RATE, joins=True)
    packet = bytes(20)
    assert joiner.add(packet) == (packet,)
    assert not joiner.response(told(100, 160))
    sizes = [[len(message) for message in joiner.add(packet)] for _ in range(20)]
    # The first chunk ends at 100, those after it at 260 and 420.
    assert sizes == [[]] * 3 + [[80]] + [[]] * 7 + [[160]] + [[]] * 7 + [[160]]


def test_a_chunk_that_ends_before_the_place_that_was_told_goes_at_once() -> None:
    joiner = PacketJoiner(RATE, joins=True)
    joiner.response(told(100, 0))
    assert joiner.add(bytes(60)) == ()
    assert joiner.response(told(50, 0))
    assert joiner.take() == bytes(60)
    # Nothing is told of those after it.
    assert joiner.add(bytes(10)) == (bytes(10),)


def test_what_is_told_of_the_segment_before_a_finalize_is_not_believed() -> None:
    joiner = PacketJoiner(RATE, joins=True)
    joiner.response(told(100, 160))
    joiner.finalize()
    joiner.response(told(100, 160))
    assert joiner.add(bytes(10)) == (bytes(10),)
    joiner.response(told(0, 0, finalize=True))
    assert joiner.add(bytes(10)) == (bytes(10),)
    joiner.response(told(90, 160))
    assert joiner.add(bytes(10)) == ()
    assert joiner.wait_s == 60 / RATE + GRACE_S
