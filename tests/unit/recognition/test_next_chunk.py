"""Where a stream says that its next chunk ends, it can be cut, and no byte later: senders hold packets up to there."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_service.core.values import Encoding, StreamConfig
from asr_service.model.null import NullModel
from testbed.stepped_stream import SteppedStream
from tests.support.streams import UNIX_MS, SignallingModel, new_stream, step

WORDS = [NullModel(slots=1, att_context=(70, right)) for right in (0, 1, 6)]
# Half a second apart, it says that an utterance is over, so that it starts anew with a shorter chunk.
SIGNALS = [SignallingModel(slots=1, att_context=(70, right)) for right in (0, 1, 6)]

configs = st.builds(
    StreamConfig,
    name=st.just("test"),
    encoding=st.sampled_from(Encoding),
    sample_rate=st.sampled_from([8_000, 16_000, 16_000, 44_100, 48_000, 192_000]),
)
Happening = int | str
"""A packet of so many bytes, "finalize", or "step" (if something is ready)."""
packets = st.one_of(st.integers(1, 50), st.sampled_from([320, 640, 1_920, 3_200]), st.integers(1, 9_000))
scripts = st.lists(st.one_of(packets, packets, st.sampled_from(["step", "step", "finalize"])), max_size=80)


class Teller:
    """A stream, and how many bytes it has had."""

    def __init__(self, model: NullModel, config: StreamConfig, read_ahead: int) -> None:
        self.model = model
        self.stream: SteppedStream = new_stream(model, config, read_ahead=read_ahead)
        self.received = 0

    def audio(self, size: int) -> int:
        """Gives it bytes; returns how many chunks that completes."""
        # Half of it are runs that a signalling model takes for ends of utterances.
        start, self.received = self.received, self.received + size
        data = bytes(12 if place // 20_000 % 2 else place % 251 for place in range(start, start + size))
        before = self.stream.cut
        self.stream.audio(data, 0.0)
        self.stream.prepare()
        return self.stream.cut - before

    def drain(self) -> None:
        """Steps all that is ready."""
        while self.stream.ready_at is not None:
            step(self.stream, self.model)

    def happen(self, happening: Happening) -> None:
        match happening:
            case int(size):
                self.audio(size)
            case "finalize":
                self.stream.finalize("", 0.0, UNIX_MS)
            case _ if self.stream.ready_at is not None:
                step(self.stream, self.model)


@settings(deadline=None, max_examples=200)
@example(StreamConfig("test"), [2_960, "step", "finalize", "step", 2_960], WORDS[1], 1)
@given(configs, scripts, st.sampled_from(WORDS + SIGNALS), st.sampled_from([1, 2]))
def test_a_chunk_is_complete_where_it_was_said_to_end(
    config: StreamConfig, script: list[Happening], model: NullModel, read_ahead: int
) -> None:
    teller = Teller(model, config, read_ahead)
    for happening in script:
        teller.happen(happening)
    end, size = teller.stream.next_chunk
    if not end:
        # A finalize request is on its way, or all are welcome as they come.
        teller.drain()
        end, size = teller.stream.next_chunk
    assert end > teller.received
    # What waits already, a model may end where it starts anew: that is told anew then.
    restarts = teller.stream.restarts
    teller.drain()
    if teller.stream.restarts > restarts:
        end, size = teller.stream.next_chunk
    assert teller.audio(end - 1 - teller.received) == 0
    if not size:
        # Then it is where the chunk ends at the earliest.
        return
    assert teller.audio(1) == 1
    teller.drain()
    if teller.stream.restarts == restarts:
        assert teller.stream.next_chunk == (end + size, size)
