"""A running engine for tests, and models that misbehave in a given way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

from asr_service.core.commands import Audio, Command, Consumed, Ended, Event, HalfClose, Open, TimedCommand
from asr_service.core.model import StepRequest, StepResult, StreamingModel
from asr_service.core.values import Result, StreamConfig
from asr_service.engine.contract import EngineMetrics, EngineSettings, EngineState
from asr_service.engine.engine import Engine
from asr_service.model.null import NullModel
from tests.support.process import PATIENCE_S


class EngineThread:
    """An engine in a thread of this process, with a queue for its inbox.

    Attributes:
        engine: may be read while the thread runs.
    """

    def __init__(
        self,
        make_model: Callable[[], StreamingModel],
        *,
        max_batch: int,
        tick_s: float,
        probe: bool = False,
        finalize_silence_ms: int | None = 0,
        **options: Any,
    ) -> None:
        """As `Engine`, but for the inbox."""
        self._inbox: SimpleQueue[TimedCommand] = SimpleQueue()
        settings = EngineSettings(max_batch, tick_s, probe, finalize_silence_ms)
        self.engine = Engine(make_model, settings, inbox=self._inbox, **options)
        self._thread = threading.Thread(target=self.engine.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, *commands: Command) -> None:
        """Hands commands over in order."""
        for command in commands:
            self._inbox.put((time.monotonic(), command))

    def stop(self) -> None:
        """Ends it after its current step; one that has ended stays as it is."""
        self._inbox.put((time.monotonic(), None))
        self.join()

    def join(self) -> None:
        """Returns once the thread has ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class Bench:
    """An engine and what it delivered, by stream."""

    def __init__(
        self,
        load: Callable[[], StreamingModel],
        *,
        max_batch: int,
        tick_s: float,
        metrics: EngineMetrics | None,
        probe: bool,
    ) -> None:
        self.delivered: SimpleQueue[tuple[Event, ...]] = SimpleQueue()
        self.states: list[EngineState] = []
        self.settled = threading.Event()  # running, failed or stopped
        self.thread = EngineThread(
            load, max_batch=max_batch, tick_s=tick_s, deliver=self.delivered.put, metrics=metrics, probe=probe
        )
        self.engine, self.submit = self.thread.engine, self.thread.submit
        self.engine.on_state(self._note)
        self.results: dict[int, list[Result]] = {}
        self.consumed: dict[int, int] = {}
        self.ended: dict[int, Ended] = {}

    def _note(self, state: EngineState) -> None:
        self.states.append(state)
        if state not in (EngineState.MAKING_MODEL, EngineState.WARMING):
            self.settled.set()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Takes deliveries until the condition holds."""
        while not condition():
            for event in self.delivered.get(timeout=PATIENCE_S):
                match event:
                    case Result():
                        self.results.setdefault(event.stream, []).append(event)
                    case Consumed():
                        self.consumed[event.stream] = self.consumed.get(event.stream, 0) + event.audio_bytes
                    case Ended():
                        assert event.stream not in self.ended
                        self.ended[event.stream] = event

    def wait_ended(self, *streams: int) -> None:
        """Takes deliveries until these streams have ended."""
        self.wait_for(lambda: all(stream in self.ended for stream in streams))

    def run_stream(self, stream: int, data: bytes, config: StreamConfig | None = None) -> list[Result]:
        """A whole stream: its results."""
        self.submit(Open(stream, config or StreamConfig("test")), Audio(stream, data), HalfClose(stream))
        self.wait_ended(stream)
        return self.results.get(stream, [])

    def finals(self, stream: int) -> list[Result]:
        """The finals of a stream; of one that asks for no interims the engine makes some, for its session to keep."""
        return [result for result in self.results.get(stream, []) if result.reason is not None]


@contextmanager
def running(
    load: Callable[[], StreamingModel] = lambda: NullModel(slots=4),
    *,
    max_batch: int = 4,
    tick_s: float = 0.0,
    metrics: EngineMetrics | None = None,
    probe: bool = False,
) -> Iterator[Bench]:
    """An engine that runs, or has failed to; stopped afterwards."""
    bench = Bench(load, max_batch=max_batch, tick_s=tick_s, metrics=metrics, probe=probe)
    bench.thread.start()
    assert bench.settled.wait(PATIENCE_S)
    try:
        yield bench
    finally:
        bench.thread.stop()


class PoisonedModel(NullModel):
    """Raises at a step in which some audio starts with the poison: a full-scale negative sample."""

    POISON = np.full(800, -32768, "<i2").tobytes()

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps, unless poisoned."""
        if any(request.samples[:1] == -1.0 for request in requests):
            raise FloatingPointError("not a number in the encoder's output")
        return super().step(requests)


class GatedModel(NullModel):
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
