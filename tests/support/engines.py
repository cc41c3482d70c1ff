"""A running engine for tests with a front end's sessions at the other end of a real link, and models that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from asr_service.core.errors import AsrError
from asr_service.core.model import ModelInfo, StreamingModel
from asr_service.core.values import Result, StreamConfig
from asr_service.engine.contract import EngineMetrics, EngineSettings, EngineState
from asr_service.engine.engine import Engine
from asr_service.engine.engine_links import EngineLinks
from asr_service.engine.front_link import FrontLink
from asr_service.engine.sample_pool import SamplePool
from asr_service.model.null import NullModel
from asr_service.recognition.languages import prompt_index
from asr_service.recognition.stream import Stream
from asr_service.recognition.vocabulary import Vocabulary
from asr_service.sessions.session import Ended, Session
from testbed.by_request import StepRequest, StepResult
from tests.support.process import PATIENCE_S
from tests.support.requested import RequestedModel


@dataclass(frozen=True)
class Open:
    """Starts a stream."""

    stream: int
    config: StreamConfig


@dataclass(frozen=True)
class Audio:
    """Gives a stream audio bytes."""

    stream: int
    data: bytes


@dataclass(frozen=True)
class Finalize:
    """Asks for a final."""

    stream: int
    tag: str


@dataclass(frozen=True)
class HalfClose:
    """Ends a stream's input."""

    stream: int


@dataclass(frozen=True)
class Cancel:
    """Ends a stream whose client is gone."""

    stream: int


Command = Open | Audio | Finalize | HalfClose | Cancel


class SlotCounts(NamedTuple):
    """The engine's slots as of its last turn."""

    slots: int
    leased: int
    free: int
    fresh: int
    running: int
    ready: int
    max_batch: int


class Record(SimpleNamespace):
    """An `EngineRecord` of this process alone.

    Args:
        on_change: called after each turn of the engine, and at each change of its load.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        names = "state slots limit leased ready running measured batch_limit step_kind load busy_since beat".split()
        super().__init__(**dict.fromkeys(names, 0))
        self.on_change = on_change

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # A turn writes the first of these last.
        if name in ("running", "busy_since") and "on_change" in self.__dict__:
            self.on_change()


class EngineThread:
    """An engine in a thread of this process.

    Attributes:
        engine, record: may be read while the thread runs.
        info, pool: of its model, once that is made.
    """

    def __init__(
        self,
        make_model: Callable[[], StreamingModel],
        settings: EngineSettings,
        *,
        on_made: Callable[[], None],
        on_state: Callable[[EngineState], None] = lambda _: None,
        on_change: Callable[[], None] = lambda: None,
        metrics: EngineMetrics | None = None,
    ) -> None:
        self.record = Record(on_change)
        self.info: ModelInfo
        self.pool: SamplePool
        self._links = EngineLinks()
        self._new_links: list[socket.socket] = []
        self._on_made = on_made
        # Wakes the engine.
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._links.watch(self._woken.fileno())
        self.engine = Engine(
            make_model,
            settings,
            links=self._links,
            record=self.record,
            on_made=self._made,
            on_state=on_state,
            on_watched=self._on_watched,
            metrics=metrics,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _made(self, info: ModelInfo, pool: SamplePool) -> None:
        self.info, self.pool = info, pool
        self._on_made()

    def _run(self) -> None:
        try:
            self.engine.run()
        finally:
            # As the end of its process does.
            for number in self._links.numbers():
                self._links.close(number)
            for end in (*self._new_links, self._woken, self._waker):
                end.close()

    def _on_watched(self) -> None:
        while self._new_links:
            self._links.add(self._new_links.pop())
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(1000)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def start(self) -> None:
        self._thread.start()

    def connect(self) -> FrontLink:
        """Makes a front end's link to it, for the event loop that runs; from any thread."""
        mine, theirs = socket.socketpair()
        link = FrontLink(theirs, self.pool)
        self._new_links.append(mine)
        self._wake()
        return link

    def stop(self) -> None:
        """Ends it after its current step; one that has ended stays as it is."""
        self.engine.stop()
        self._wake()
        self.join()

    def join(self) -> None:
        """Returns once the thread has ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class RecordedSession(Session):
    """A session that also notes each result, coalesced or not."""

    def __init__(self, stream: Stream, note: Callable[[Result | Ended], None]) -> None:
        super().__init__(stream, inbox_bytes=1 << 40)
        self._note = note
        self.on_end = note

    def _take_result(self, result: Result) -> None:
        self._note(result)
        super()._take_result(result)


class Bench:
    """An engine, a front end's sessions in another thread, and what they gave, by stream."""

    def __init__(
        self,
        load: Callable[[], StreamingModel],
        settings: EngineSettings,
        *,
        metrics: EngineMetrics | None,
        read_ahead: int,
    ) -> None:
        self.states: list[EngineState] = []
        self.settled = threading.Event()  # running, failed or stopped
        self.results: dict[int, list[Result]] = {}
        self.ended: dict[int, Ended] = {}
        self._read_ahead = read_ahead
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._queues: dict[int, asyncio.Queue[Command]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: FrontLink
        self._front = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._front.start()
        self.thread = EngineThread(
            load,
            settings,
            on_made=self._on_made,
            on_state=self._on_state,
            on_change=self.notify,
            metrics=metrics,
        )
        self.engine, self.record = self.thread.engine, self.thread.record

    @property
    def state(self) -> EngineState:
        """State of the engine."""
        return EngineState(self.record.state)

    @property
    def info(self) -> ModelInfo:
        """Of the model."""
        return self.thread.info

    def counts(self) -> SlotCounts:
        """The engine's slots as of its last turn."""
        r = self.record
        return SlotCounts(
            r.slots, r.leased, r.slots - r.leased, r.leased - r.running, r.running, r.ready, r.batch_limit
        )

    # In the engine's thread.

    def _on_made(self) -> None:
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result(PATIENCE_S)

    def _on_state(self, state: EngineState) -> None:
        if state is EngineState.MAKING_MODEL:
            return
        self.states.append(state)
        if state is not EngineState.WARMING:
            self.settled.set()
        self.notify()

    # In the front end's thread.

    async def _connect(self) -> None:
        self._link = self.thread.connect()
        self._vocabulary = Vocabulary(self.info.pieces)

    def _take(self, command: Command) -> None:
        if isinstance(command, Open):
            self._queues[command.stream] = asyncio.Queue()
            task = self._loop.create_task(self._serve(command))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif command.stream in self._queues:
            self._queues[command.stream].put_nowait(command)

    async def _serve(self, opening: Open) -> None:
        number, config = opening.stream, opening.config
        queue = self._queues[number]
        try:
            stream = Stream(
                config, self.info, self._vocabulary, time.monotonic(), read_ahead=self._read_ahead
            )
            session = RecordedSession(stream, lambda event: self._note(number, event))
            (lease,) = await self._link.lease(
                [session], prompt_index(config.language, self.info), config.boosts
            )
        except AsrError as error:
            self._note(number, Ended(error))
            return
        session.start(lease)
        while session.ended is None:
            match await queue.get():
                case Audio(data=data):
                    await session.send_audio(data)
                case Finalize(tag=tag):
                    session.finalize(tag)
                case HalfClose():
                    session.half_close()
                case Cancel():
                    session.cancel()

    def _note(self, stream: int, event: Result | Ended) -> None:
        with self._changed:
            if isinstance(event, Ended):
                assert stream not in self.ended
                self.ended[stream] = event
            else:
                self.results.setdefault(stream, []).append(event)
            self._changed.notify_all()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # In the test's thread.

    def notify(self) -> None:
        """Makes `wait_for` look again; from any thread."""
        with self._changed:
            self._changed.notify_all()

    def submit(self, *commands: Command) -> None:
        """Hands commands over; those of one stream are carried out in order."""
        for command in commands:
            self._loop.call_soon_threadsafe(self._take, command)

    def open(self, *streams: int, config: StreamConfig | None = None) -> None:
        """Opens streams, and waits until they have their slots."""
        before = self.record.leased
        self.submit(*(Open(stream, config or StreamConfig("test")) for stream in streams))
        self.wait_for(lambda: self.record.leased == before + len(streams))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds; looks after each event and each turn of the engine."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S)

    def wait_counts(self, **expected: int) -> None:
        """Waits until the engine's slots are so."""
        self.wait_for(lambda: all(getattr(self.counts(), name) == count for name, count in expected.items()))

    def wait_sent(self) -> None:
        """Waits until what was submitted has reached the engine's link."""

        async def settle() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(settle(), self._loop).result(PATIENCE_S)

    def wait_ended(self, *streams: int) -> None:
        """Waits until these streams have ended."""
        self.wait_for(lambda: all(stream in self.ended for stream in streams))

    def run_stream(self, stream: int, data: bytes, config: StreamConfig | None = None) -> list[Result]:
        """A whole stream: its results."""
        self.submit(Open(stream, config or StreamConfig("test")), Audio(stream, data), HalfClose(stream))
        self.wait_ended(stream)
        return self.results.get(stream, [])

    def finals(self, stream: int) -> list[Result]:
        """The finals of a stream."""
        return [result for result in self.results.get(stream, []) if result.reason is not None]

    def close(self) -> None:
        """Stops both threads."""
        self.thread.stop()
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._front.join(PATIENCE_S)
        self._loop.close()


@contextmanager
def running(
    load: Callable[[], StreamingModel] = lambda: NullModel(slots=4),
    *,
    max_batch: int = 4,
    tick_s: float = 0.0,
    metrics: EngineMetrics | None = None,
    probe: bool = False,
    read_ahead: int = 2,
) -> Iterator[Bench]:
    """An engine that runs, or has failed to; stopped afterwards."""
    settings = EngineSettings(max_batch, tick_s, max_streams=None if probe else 1 << 20)
    bench = Bench(load, settings, metrics=metrics, read_ahead=read_ahead)
    bench.thread.start()
    try:
        assert bench.settled.wait(PATIENCE_S)
        yield bench
    finally:
        bench.close()


class PoisonedModel(RequestedModel):
    """Raises at a step in which some audio starts with the poison: a full-scale negative sample."""

    POISON = np.full(800, -32768, "<i2").tobytes()

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps, unless poisoned."""
        if any(request.samples[:1] == -1.0 for request in requests):
            raise FloatingPointError("not a number in the encoder's output")
        return super().step(requests)


class GatedModel(RequestedModel):
    """Each step waits until it is let through; notes the slots of each."""

    def __init__(self, *, slots: int) -> None:
        super().__init__(slots=slots)
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps once the gate opens."""
        self.batches.append([request.slot for request in requests])
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        return super().step(requests)
