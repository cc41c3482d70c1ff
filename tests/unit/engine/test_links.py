"""Front ends and an engine over real sockets: leases, chunks and answers, and ends that stop reading or go away."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.errors import (
    AsrError,
    AtCapacity,
    InternalError,
    InvalidArgument,
    Overloaded,
    Unavailable,
)
from asr_service.core.step import StepAnswers
from asr_service.core.values import PhraseBoost
from asr_service.engine.chunk_queue import ChunkQueue
from asr_service.engine.engine_links import EngineLinks, Intake
from asr_service.engine.frames import (
    RECORD_BYTES,
    FrameKind,
    pack_chunk,
    pack_header,
    pack_invalid,
    pack_lease,
    pack_release,
    pack_rows,
    pack_tokens,
)
from asr_service.engine.front_link import FrontLink
from asr_service.engine.sample_pool import SamplePool
from asr_service.engine.slot_scheduler import SlotScheduler
from asr_service.engine.slots import Slots

SAMPLES = 64
SLOTS = 300
PATIENCE_S = 30.0


class Engine:
    """An engine that answers each chunk with one token: its number of samples."""

    def __init__(self, slots: int) -> None:
        self.pool = SamplePool.new(slots, first_chunk_samples=SAMPLES, chunk_samples=SAMPLES)
        self.scheduler = SlotScheduler(slots, max_batch=slots, tick_s=0, upload_budget_s=1)
        self.scheduler.add_step_time(slots, 1e-6)
        self.queue = ChunkQueue(self.pool, Slots(slots), self.scheduler)
        self.links = EngineLinks()
        self.refuse_with: bytes | None = None
        self.fails = False
        self.fronts: list[FrontLink] = []
        self._running: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stops it and closes all links."""
        self.stop()
        for front in self.fronts:
            front.close(Unavailable("over"))
        for number in self.links.numbers():
            self.links.close(number)
        self.pool.close()

    def start(self) -> None:
        """Begins to take turns."""
        self._running = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Takes no more turns."""
        if self._running:
            self._running.cancel()

    def connect(self) -> FrontLink:
        """Makes a front end's link to it; the event loop has to run."""
        mine, theirs = socket.socketpair()
        self.links.add(mine)
        self.fronts.append(FrontLink(theirs, self.pool))
        return self.fronts[-1]

    def turn(self) -> None:
        """Takes in what has come, steps what is ready and answers."""
        intake = self.links.read()
        self.queue.put(intake.chunks)
        for slot, lease in intake.releases:
            self.queue.close(slot, lease)
        for link in intake.closed:
            self.queue.close_link(link)
        for link, request in intake.leases:
            if self.refuse_with:
                self.links.send(
                    link, self.refuse_with.replace(b"REQUEST#", request.request.to_bytes(8, "little"))
                )
                continue
            leased = [self.queue.open(link) for _ in range(request.slots)]
            held = [lease for lease in leased if lease]
            if len(held) < len(leased):
                for slot, lease in held:
                    self.queue.close(slot, lease)
                self.links.send(link, pack_header(FrameKind.AT_CAPACITY, 0, request=request.request))
                continue
            rows = pack_rows(np.array([s for s, _ in held]), np.array([n for _, n in held]), None)
            self.links.send(
                link, pack_header(FrameKind.LEASED, len(held), request=request.request), rows.data.cast("B")
            )
        slots = self.scheduler.take_batch(1e12)
        slots = slots[np.argsort(self.queue.links(slots), kind="stable")]
        batch = self.queue.batch(slots)
        ones = np.ones(len(slots), np.int32)
        answers = StepAnswers(ones, ones, ones < 1, batch.counts, 0 * ones, ones.astype(np.float32))
        leases = self.queue.leases(slots)
        rows, tokens = pack_rows(slots, leases, None if self.fails else answers), pack_tokens(answers)
        for link in set(self.queue.links(slots).tolist()):
            mine = self.queue.links(slots) == link
            if self.fails:
                header = pack_header(FrameKind.ANSWERS, int(mine.sum()), failure="abcdefabcdef")
                self.links.send(link, header, rows[mine].tobytes())
            else:
                header = pack_header(FrameKind.ANSWERS, int(mine.sum()), int(mine.sum()))
                self.links.send(link, header, rows[mine].tobytes(), tokens[mine].tobytes())
        self.queue.stepped(slots, leases, 0.0)

    async def _run(self) -> None:
        while True:
            self.turn()
            await asyncio.sleep(0)


MakeEngine = Callable[[int], Engine]


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Makes engines with so many slots, which are closed at the end."""
    engines: list[Engine] = []

    def make(slots: int) -> Engine:
        engines.append(Engine(slots))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Stream:
    """Notes its answers."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.error: AsrError | None = None
        self.changed = asyncio.Event()

    def answer(
        self, tokens: list[int], token_frames: list[int], probs: list[float], frames: int, ended: float
    ) -> None:
        self.answers += tokens
        self.changed.set()

    def lost(self, error: AsrError) -> None:
        self.error = error
        self.changed.set()

    async def has(self, count: int) -> None:
        """Waits until so many answers have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answers) < count and self.error is None:
                self.changed.clear()
                await self.changed.wait()


def samples(count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.ones(count, np.float32)


async def test_two_front_ends_stream_chunks_and_each_has_its_own_answers(make_engine: MakeEngine) -> None:
    engine = make_engine(SLOTS)
    fronts = [engine.connect(), engine.connect()]
    engine.start()
    streams = [Stream() for _ in range(6)]
    leases = []
    for number, front in enumerate(fronts):
        for first in (0, 1):
            leases += await front.lease(streams[3 * number + first : 3 * number + first + 1 + first])
    assert [len(front) for front in fronts] == [3, 3]
    for turn in range(5):
        for number, lease in enumerate(leases):
            # A last chunk may be of any size; so each of these begins and ends a segment.
            lease.send(samples(10 * number + turn + 1), is_first=True, is_last=True, due=0.0)
        for stream in streams:
            await stream.has(turn + 1)
    assert [s.answers for s in streams] == [[10 * n + t + 1 for t in range(5)] for n in range(6)]
    for lease in leases:
        lease.release()
        lease.release()
    assert [len(front) for front in fronts] == [0, 0]
    # A lease is granted after what came before it.
    again = await fronts[0].lease([Stream()])
    again[0].release()
    engine.stop()
    engine.turn()
    engine.queue.check()
    assert not engine.queue.running


async def test_a_full_engine_refuses_a_call_whole_until_there_is_room(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(3)
    front = engine.connect()
    engine.start()
    first = await front.lease([Stream(), Stream()])
    with pytest.raises(AtCapacity):
        await front.lease([Stream(), Stream()])
    first[0].release()
    assert len(await front.lease([Stream(), Stream()])) == 2
    engine.stop()


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (pack_header(FrameKind.OVERLOADED, 0, request=1, started=2.5), Overloaded),
        (pack_invalid(1, "boosts[0]\nboosts[0] cannot be spelled"), InvalidArgument),
    ],
)
async def test_refusals_are_the_errors_that_clients_are_told(
    make_engine: MakeEngine, refusal: bytes, kind: type[AsrError]
) -> None:
    engine = make_engine(SLOTS)
    engine.refuse_with = refusal
    front = engine.connect()
    engine.start()
    with pytest.raises(kind) as raised:
        await front.lease([Stream()], 3, (PhraseBoost(("x",)),))
    if kind is InvalidArgument:
        assert (raised.value.field, raised.value.message) == ("boosts[0]", "boosts[0] cannot be spelled")
    else:
        assert "2.50" in raised.value.message
    engine.stop()


async def test_a_call_that_ended_before_it_had_its_slots_gives_them_back(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    front = engine.connect()
    request = asyncio.create_task(front.lease([Stream(), Stream()]))
    await asyncio.sleep(0)
    request.cancel()
    engine.start()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                leases = await front.lease([Stream(), Stream()])
                break
            except AtCapacity:
                continue
    assert len(front) == len(leases) == 2
    engine.stop()


async def test_a_failed_step_and_an_engine_that_is_gone_are_told_to_their_streams(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(SLOTS)
    front, other = engine.connect(), engine.connect()
    engine.start()
    stream, idle = Stream(), Stream()
    (lease,) = await front.lease([stream])
    await other.lease([idle])
    engine.fails = True
    lease.send(samples(4), is_first=True, is_last=True, due=0.0)
    await stream.has(1)
    assert isinstance(stream.error, InternalError)
    assert stream.error.request_id == "abcdefabcdef"
    assert idle.error is None
    engine.stop()
    request = asyncio.create_task(front.lease([Stream()]))
    await asyncio.sleep(0)
    for number in engine.links.numbers():
        engine.links.close(number)
    with pytest.raises(Unavailable):
        await request
    await idle.has(1)
    assert isinstance(idle.error, Unavailable)
    assert not front.is_open
    with pytest.raises(Unavailable):
        await front.lease([Stream()])
    lease.send(samples(4), is_first=True, is_last=True, due=0.0)
    lease.release()


async def test_a_front_end_that_is_gone_frees_its_slots(make_engine: MakeEngine) -> None:
    engine = make_engine(SLOTS)
    front = engine.connect()
    engine.start()
    await front.lease([Stream(), Stream()])
    engine.stop()
    front.close(Unavailable("over"))
    engine.turn()
    engine.queue.check()
    assert len(engine.links) == 0
    assert engine.queue.open(0) is not None


async def test_the_memory_of_an_engine_that_is_gone_is_given_back_while_its_link_is_known() -> None:
    """Whoever holds the error that a request was refused with holds the link."""
    pool = SamplePool.new(SLOTS, first_chunk_samples=SAMPLES, chunk_samples=SAMPLES)
    pool.close()
    memory = weakref.ref(pool)
    mine, theirs = socket.socketpair()
    front = FrontLink(theirs, pool)
    del pool
    asking = asyncio.ensure_future(front.lease([Stream()]))
    await asyncio.sleep(0)
    mine.close()
    with pytest.raises(Unavailable):
        await asking
    assert not front.is_open and memory() is None


async def test_many_answers_at_once_leave_turns_to_others(make_engine: MakeEngine) -> None:
    engine = make_engine(SLOTS)
    front = engine.connect()
    engine.start()
    streams = [Stream() for _ in range(SLOTS)]
    # As many as a call of the wire may ask for at once.
    leases = [lease for at in range(0, SLOTS, 100) for lease in await front.lease(streams[at : at + 100])]
    for lease in leases:
        lease.send(samples(1), is_first=True, is_last=True, due=0.0)
    heard: list[int] = []

    async def others() -> None:
        while len(heard) < 1 or heard[-1] < SLOTS:
            heard.append(sum(len(stream.answers) for stream in streams))
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE_S):
        await others()
    engine.stop()
    assert len({count for count in heard if 0 < count < SLOTS}) >= 3


async def test_neither_end_waits_for_one_that_does_not_read(make_engine: MakeEngine) -> None:
    """More than the sockets hold, in both directions, while nobody reads; then all of it is there."""
    engine = make_engine(1)
    front = engine.connect()
    first = asyncio.create_task(front.lease([stream := Stream()]))
    await asyncio.sleep(0)
    engine.turn()
    (lease,) = await first
    # Far more than two chunks are unanswered, which no stream does: it is the bytes that matter here.
    for _ in range(40_000):
        front.send_chunk(lease.slot, lease.number, 0, samples(SAMPLES), 0, 0.0)
    row = pack_rows(np.array([lease.slot]), np.array([lease.number]), None)
    row["flags"], row["tokens"] = 0, 1
    frame = pack_header(FrameKind.ANSWERS, 1, 1) + row.tobytes() + np.zeros(3, np.int32).tobytes()
    for _ in range(40_000):
        engine.links.send(0, frame)
    came = 0
    async with asyncio.timeout(PATIENCE_S):
        while came < 40_000 or len(stream.answers) < 40_000:
            came += len(engine.links.read().chunks)
            await asyncio.sleep(0)
    assert came == len(stream.answers) == 40_000


@pytest.fixture
def wire() -> Iterator[tuple[EngineLinks, socket.socket]]:
    """An engine's links, and the other end of one."""
    mine, theirs = socket.socketpair()
    links = EngineLinks()
    links.add(mine)
    yield links, theirs
    theirs.close()
    links.close(0)


BOOSTS = (PhraseBoost(("good morning",)), PhraseBoost(("x" * 90,)))


@given(st.lists(st.integers(1, 3 * RECORD_BYTES), max_size=30))
def test_records_are_read_whole_in_pieces_of_any_size(sizes: list[int]) -> None:
    mine, theirs = socket.socketpair()
    links = EngineLinks()
    links.add(mine)
    data = b"".join(
        [
            pack_chunk(1, 2, 3, 1, 0, 0.5),
            pack_lease(7, 2, -1, ()),
            pack_chunk(2, 2, 4, 0, 1, 0.5),
            pack_lease(8, 1, 5, BOOSTS),
            pack_release(1, 2),
            pack_chunk(3, 1, 5, 2, 0, 0.5),
        ]
    )
    intakes: list[Intake] = []
    for size in [*sizes, len(data)]:
        if data:
            theirs.send(data[:size])
            data = data[size:]
            intakes.append(links.read())
    theirs.close()
    intakes.append(links.read())
    assert [tuple(c)[:3] for i in intakes for c in i.chunks.tolist()] == [(1, 2, 3), (2, 2, 4), (3, 1, 5)]
    requests = [request for intake in intakes for _, request in intake.leases]
    assert [(r.request, r.slots, r.prompt, r.boosts) for r in requests] == [(7, 2, -1, ()), (8, 1, 5, BOOSTS)]
    assert [one for intake in intakes for one in intake.releases] == [(1, 2)]
    assert [one for intake in intakes for one in intake.closed] == [0]


def test_waiting_ends_when_something_comes(wire: tuple[EngineLinks, socket.socket]) -> None:
    links, theirs = wire
    links.wait(0.0)
    theirs.send(pack_release(1, 1))
    links.wait(None)
    assert links.read().releases == [(1, 1)]
    other, end = socket.socketpair()
    with other, end:
        links.watch(end.fileno())
        other.send(b"x")
        links.wait(None)
        assert not links.read().releases
