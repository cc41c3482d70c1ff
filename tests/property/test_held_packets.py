"""Packets that a session holds back are never missed: its stream has each chunk as soon as one that gets them all."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.core import (
    Audio,
    Command,
    Consumed,
    Encoding,
    Finalize,
    HalfClose,
    StepRequest,
    StreamConfig,
)
from asr_service.model.null import NullModel
from asr_service.sessions import Session
from asr_service.stream import Work
from tests.support.streams import UNIX_MS, new_stream, step

MODELS = {right: NullModel(slots=2, att_context=(70, right)) for right in (0, 1, 6)}

Happening = int | str
"""A packet of so many bytes, or "finalize", "step" (if something is ready) or "tell" (what the last steps consumed)."""

configs = st.builds(
    StreamConfig,
    name=st.just("test"),
    encoding=st.sampled_from(Encoding),
    sample_rate=st.sampled_from([8_000, 16_000, 16_000, 44_100, 48_000]),
)
packets = st.one_of(st.integers(1, 50), st.sampled_from([320, 640, 1_920, 3_200]), st.integers(1, 9_000))
scripts = st.lists(
    st.one_of(packets, packets, packets, st.sampled_from(["step", "step", "tell", "tell", "finalize"])),
    max_size=120,
)


class Pair:
    """One stream that gets every packet, and one behind a session; the test plays the engine for both."""

    def __init__(self, model: NullModel, config: StreamConfig, silence_ms: int) -> None:
        self.model = model
        self.direct = new_stream(model, config, slot=0, finalize_silence_ms=silence_ms)
        self.held = new_stream(model, config, slot=1, finalize_silence_ms=silence_ms)
        self.commands: list[Command] = []
        self.session = Session(1, self.commands.append, inbox_bytes=10**9)
        self.untold: deque[Consumed] = deque([self.held.take_consumed()])
        self.packets = 0

    def packet(self, data: bytes) -> None:
        self.direct.audio(data, 0.0)
        sending = self.session.send_audio(data)
        try:
            sending.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("the sender waits, though the inbox is large")
        self._carry_out()

    def finalize(self) -> None:
        self.direct.finalize("", 0.0, UNIX_MS)
        self.session.finalize("")
        self._carry_out()

    def half_close(self) -> None:
        self.direct.half_close(0.0, UNIX_MS)
        self.session.half_close()
        self._carry_out()

    def tell(self) -> None:
        """The oldest report that the session does not know yet."""
        if self.untold:
            self.session.deliver(self.untold.popleft())
            self._carry_out()

    def step(self) -> bool:
        """Steps both, if they are ready."""
        if self.direct.ready_at is None:
            return False
        self.untold.append(self.held.take_consumed())
        for stream in (self.direct, self.held):
            step(stream, self.model)
        return True

    def check(self) -> None:
        """Both wait, or both are ready for the same chunk."""
        ready = [stream.ready_at is not None for stream in (self.direct, self.held)]
        assert ready[0] == ready[1]
        if all(ready):
            assert chunk(self.direct.request()) == chunk(self.held.request())

    def _carry_out(self) -> None:
        for command in self.commands:
            match command:
                case Audio(data=data):
                    self.held.audio(data, 0.0)
                    self.packets += 1
                case Finalize(tag=tag):
                    self.held.finalize(tag, 0.0, UNIX_MS)
                case HalfClose():
                    self.held.half_close(0.0, UNIX_MS)
        self.commands.clear()


def chunk(request: StepRequest) -> tuple[bytes, bool, bool]:
    return request.samples.tobytes(), request.is_first, request.is_last


@settings(deadline=None, max_examples=200)
@given(configs, scripts, st.sampled_from(sorted(MODELS)), st.sampled_from([0, 80]))
def test_no_chunk_is_late(config: StreamConfig, script: list[Happening], right: int, silence_ms: int) -> None:
    pair = Pair(MODELS[right], config, silence_ms)
    for count, happening in enumerate(script):
        match happening:
            case int(size):
                pair.packet(bytes([count % 251]) * size)
            case "finalize":
                pair.finalize()
            case "tell":
                pair.tell()
            case _:
                pair.step()
        pair.check()
    pair.half_close()
    pair.check()
    while pair.step():
        pair.check()
    assert pair.direct.work is pair.held.work is Work.ENDED


def test_a_live_stream_of_small_packets_wakes_the_engine_once_a_chunk() -> None:
    """Also while its steps come late, so that a chunk waits and the one after it comes in."""
    chunks = 40
    for behind in (0, 1):
        pair = Pair(MODELS[1], StreamConfig("test"), 0)
        pair.tell()
        for number in range(8 * chunks):  # packets of 20 ms, chunks of 160 ms
            pair.packet(bytes(640))
            if number % 8 == 7 and number >= 8 * behind:
                pair.step()
                pair.tell()
            pair.check()
        assert chunks - 1 <= pair.packets <= chunks + 1
