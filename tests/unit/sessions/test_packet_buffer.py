"""Packets that a session holds back are never missed: its stream has each chunk as soon as one that gets them all."""

from __future__ import annotations

import asyncio
from collections import deque

from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_service.core.commands import Audio, Command, Consumed, Ended, Finalize, HalfClose
from asr_service.core.errors import InternalError
from asr_service.core.model import StepRequest
from asr_service.core.values import Encoding, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.states import Work
from asr_service.sessions.multichannel import sample_bytes
from asr_service.sessions.session import Session
from tests.support.streams import UNIX_MS, SignallingModel, new_stream, step

WORDS = [NullModel(slots=2, att_context=(70, right)) for right in (0, 1, 6)]
# Half a second apart, it says that an utterance is over, so that it starts anew with a shorter chunk.
SIGNALS = [SignallingModel(slots=2, att_context=(70, right)) for right in (0, 1, 6)]

Happening = int | str
"""A packet of so many bytes, or "finalize", "step" (if something is ready) or "tell" (what the last steps consumed)."""

configs = st.builds(
    StreamConfig,
    name=st.just("test"),
    encoding=st.sampled_from(Encoding),
    sample_rate=st.sampled_from([8_000, 16_000, 16_000, 44_100, 48_000, 192_000]),
)
packets = st.one_of(st.integers(1, 50), st.sampled_from([320, 640, 1_920, 3_200]), st.integers(1, 9_000))
scripts = st.lists(
    st.one_of(packets, packets, packets, st.sampled_from(["step", "step", "tell", "tell", "finalize"])),
    max_size=120,
)
# As live audio comes: what is ready is stepped before long, and told soon after.
live_scripts = st.lists(
    st.sampled_from([320, 640, 640, 1_280, 1_900, "step", "step", "tell", "tell", "tell"]),
    min_size=60,
    max_size=120,
)


class Pair:
    """One stream that gets every packet, and one behind a session; the test plays the engine for both."""

    def __init__(self, model: NullModel, config: StreamConfig, silence_ms: int) -> None:
        self.model = model
        self.direct = new_stream(model, config, slot=0, finalize_silence_ms=silence_ms)
        self.held = new_stream(model, config, slot=1, finalize_silence_ms=silence_ms)
        self.commands: list[Command] = []
        chunk_bytes = int(model.info.chunk_ms / 1000 * config.sample_rate) * sample_bytes(config.encoding)
        self.inbox_bytes = 2 * chunk_bytes
        self.session = Session(1, self.commands.append, self.inbox_bytes)
        self.sending: asyncio.Task[None] | None = None  # waits for room
        self.untold: deque[Consumed] = deque([self.held.take_consumed()])
        # How many of them there are until the session knows of the last restart.
        self.restart_untold = 0
        self.sent = self.told = self.submitted = 0

    async def packet(self, data: bytes) -> None:
        """Sends a packet, unless the one before still waits."""
        if self.sending is None:
            self.direct.audio(data, 0.0)
            self.sent += len(data)
            self.sending = asyncio.create_task(self.session.send_audio(data))
            await self._settle()

    async def tell(self) -> None:
        """The oldest report that the session does not know yet."""
        if self.untold:
            report = self.untold.popleft()
            self.restart_untold = max(0, self.restart_untold - 1)
            self.told += report.audio_bytes
            self.session.deliver(report)
            await self._settle()

    def finalize(self) -> None:
        self.direct.finalize("", 0.0, UNIX_MS)
        self.session.finalize("")
        self._carry_out()

    def half_close(self) -> None:
        self.direct.half_close(0.0, UNIX_MS)
        self.session.half_close()
        self._carry_out()

    async def step(self) -> bool:
        """Steps both, if they are ready."""
        if self.direct.ready_at is None:
            return False
        while self.held.ready_at is None and self.restart_untold:
            await self.tell()
        self.check()
        self.untold.append(self.held.take_consumed())
        for stream in (self.direct, self.held):
            step(stream, self.model)
        if self.held.restarted:
            self.untold.append(self.held.take_consumed())
            self.restart_untold = len(self.untold)
        return True

    def check(self) -> None:
        """Both wait, or both are ready for the same chunk, as soon as the session knows where it ends."""
        ready = [stream.ready_at is not None for stream in (self.direct, self.held)]
        assert ready[0] == ready[1] or (ready[0] and self.restart_untold)
        if all(ready):
            assert chunk(self.direct.request()) == chunk(self.held.request())

    async def _settle(self) -> None:
        """Lets the sender run: it waits just while more is on its way in than the inbox holds."""
        for _ in range(3):
            await asyncio.sleep(0)
        if self.sending is not None:
            assert self.sending.done() == (self.sent - self.told <= self.inbox_bytes)
            self.sending = None if self.sending.done() else self.sending
        self._carry_out()

    def _carry_out(self) -> None:
        for command in self.commands:
            match command:
                case Audio(data=data):
                    self.held.audio(data, 0.0)
                    self.submitted += 1
                case Finalize(tag=tag):
                    self.held.finalize(tag, 0.0, UNIX_MS)
                case HalfClose():
                    self.held.half_close(0.0, UNIX_MS)
        self.commands.clear()


def chunk(request: StepRequest) -> tuple[bytes, bool, bool]:
    return request.samples.tobytes(), request.is_first, request.is_last


async def play(pair: Pair, script: list[Happening]) -> None:
    for count, happening in enumerate(script):
        match happening:
            case int(size):
                # Half of it are runs of packets that a signalling model takes for ends of utterances.
                await pair.packet(bytes([12 if count // 40 % 2 == 0 else count % 251]) * size)
            case "finalize":
                pair.finalize()
            case "tell":
                await pair.tell()
            case _:
                await pair.step()
        pair.check()
    pair.half_close()
    pair.check()
    while await pair.step():
        pair.check()
        await pair.tell()
    assert pair.direct.work is pair.held.work is Work.ENDED
    while pair.untold:
        await pair.tell()
    assert pair.sending is None


PLAIN = StreamConfig("test")


@settings(deadline=None, max_examples=200)
# A finalize request moves the chunk's end: what was said before it must not hold what comes after it.
@example(PLAIN, ["tell", 2_960, "step", "tell", "finalize", "step", 2_960], WORDS[1], 0)
@example(PLAIN, ["tell", 2_960, "step", 640, "finalize", "tell", "step", 2_960], WORDS[1], 0)
@given(configs, scripts, st.sampled_from(WORDS + SIGNALS), st.sampled_from([0, 80]))
def test_no_chunk_is_late(
    config: StreamConfig, script: list[Happening], model: NullModel, silence_ms: int
) -> None:
    asyncio.run(play(Pair(model, config, silence_ms), script))


@settings(deadline=None, max_examples=50)
@given(live_scripts, st.sampled_from(SIGNALS[1:]))
def test_no_chunk_of_a_model_that_starts_anew_is_late(script: list[Happening], model: NullModel) -> None:
    asyncio.run(play(Pair(model, PLAIN, 0), ["tell", *script]))


async def test_a_live_stream_of_small_packets_wakes_the_engine_once_a_chunk() -> None:
    """Also while its steps come late, so that a chunk waits and the one after it comes in."""
    chunks = 40
    for behind in (0, 1):
        pair = Pair(WORDS[1], StreamConfig("test"), 0)
        await pair.tell()
        for number in range(8 * chunks):  # packets of 20 ms, chunks of 160 ms
            await pair.packet(bytes(640))
            if number % 8 == 7 and number >= 8 * behind:
                await pair.step()
                await pair.tell()
            pair.check()
        assert chunks - 1 <= pair.submitted <= chunks + 1


async def test_a_chunk_that_is_shorter_than_was_said_goes_as_soon_as_that_is_known() -> None:
    model = SIGNALS[1]
    first, full = 2 * model.info.first_chunk_samples, 2 * model.info.chunk_samples
    pair = Pair(model, PLAIN, 0)
    await pair.tell()
    await pair.packet(bytes([12]) * first)
    await pair.step()
    assert pair.held.restarted
    await pair.tell()
    await pair.packet(bytes([100]) * (first + 100))
    assert pair.submitted == 1, "the session waits for a whole chunk"
    await pair.tell()
    assert pair.submitted == 2
    assert pair.held.ready_at is not None
    await pair.step()
    await pair.tell()
    await pair.packet(bytes([100]) * (full - 101))
    assert pair.submitted == 2
    await pair.packet(bytes(1))
    assert pair.submitted == 3
    pair.check()


async def test_what_is_held_ends_with_the_stream() -> None:
    pair = Pair(WORDS[1], StreamConfig("test"), 0)
    await pair.tell()
    await pair.packet(bytes(640))
    assert pair.submitted == 0
    pair.session.deliver(Ended(1, InternalError("x")))
    pair.session.half_close()
    assert pair.commands == [HalfClose(1)]
