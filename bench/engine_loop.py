"""Measures what an engine's loop takes for a stream's step, beside the model: over real links, live chunks, no text."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import socket
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from asr_service.core.errors import AsrError
from asr_service.core.model import ModelInfo
from asr_service.core.step import StepAnswers, StepBatch
from asr_service.engine.contract import EngineSettings
from asr_service.engine.engine import Engine
from asr_service.engine.engine_links import EngineLinks
from asr_service.engine.front_link import FrontLink, SlotLease
from asr_service.engine.sample_pool import PLACES, SamplePool
from asr_service.model.null import NullModel

LINKS = 3
"""Front ends that the streams come from."""
_WARM_S = 1.0


class _TimedModel(NullModel):
    """The null model, and the CPU time that its steps take."""

    spent_s = 0.0
    steps = chunks = 0

    def submit(self, batch: StepBatch) -> None:
        """See `BatchStepper.submit`."""
        began = time.thread_time()
        super().submit(batch)
        self.spent_s += time.thread_time() - began
        self.steps += 1
        self.chunks += len(batch)

    def collect(self) -> StepAnswers:
        """See `BatchStepper.collect`."""
        began = time.thread_time()
        answers = super().collect()
        self.spent_s += time.thread_time() - began
        return answers


class _LiveStream:
    """A stream without audio's decoding and text: sends a chunk each time that one has been spoken."""

    def __init__(self) -> None:
        self.answered = 0

    def answer(
        self, tokens: list[int], token_frames: list[int], probs: list[float], frames: int, ended: float
    ) -> None:
        """Counts the answer."""
        self.answered += 1

    def lost(self, error: AsrError) -> None:
        """Fails: no stream is to be lost here."""
        raise error


def measure_loop(streams: int, seconds: float) -> dict[str, Any]:
    """Returns the CPU time in microseconds that an engine's loop takes for a chunk, beside the model's step."""
    pairs = [socket.socketpair() for _ in range(LINKS)]
    told, tell = os.pipe()
    pool = SamplePool.new(
        streams, first_chunk_samples=_info().first_chunk_samples, chunk_samples=_info().chunk_samples
    )
    pid = os.fork()
    if pid == 0:
        _run_engine([mine for mine, _ in pairs], pool, streams, tell)
    for mine, _ in pairs:
        mine.close()
    os.close(tell)
    try:
        cpu_s = asyncio.run(_drive([theirs for _, theirs in pairs], pool, streams, seconds, pid, told))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
    return {"streams": streams, **cpu_s}


def _info() -> ModelInfo:
    return NullModel(slots=1).info


def _run_engine(links: list[socket.socket], pool: SamplePool, slots: int, tell: int) -> None:
    """Runs the engine in a forked process; at SIGUSR1 it tells what its model has taken so far."""
    model = _TimedModel(slots=slots)
    ends = EngineLinks()
    names = (
        "state slots limit leased ready running measured batch_limit step_kind load busy_since beat".split()
    )
    record = SimpleNamespace(**dict.fromkeys(names, 0))

    def on_signal(_number: int, _frame: object) -> None:
        os.write(tell, pickle.dumps((time.process_time(), model.spent_s, model.steps, model.chunks)))

    signal.signal(signal.SIGUSR1, on_signal)
    for link in links:
        ends.add(link)
    settings = EngineSettings(max_batch=1024, tick_s=0.02, max_streams=slots)
    engine = Engine(lambda: model, settings, links=ends, record=record, on_made=lambda *_: None)
    # The pool that the other side has.
    SamplePool.new = lambda *_, **__: pool  # type: ignore[method-assign]
    engine.run()
    os._exit(1)


async def _drive(
    links: list[socket.socket], pool: SamplePool, streams: int, seconds: float, pid: int, told: int
) -> dict[str, Any]:
    info = _info()
    fronts = [FrontLink(link, pool) for link in links]
    live = [_LiveStream() for _ in range(streams)]
    leases: list[SlotLease] = []
    for number, stream in enumerate(live):
        leases += await fronts[number % LINKS].lease([stream])
    audio = (np.random.default_rng(1).standard_normal(info.chunk_samples) * 0.1).astype(np.float32)
    chunk_s = info.chunk_samples / info.sample_rate
    rng = random.Random(1)
    stopped = False

    async def speak(stream: _LiveStream, lease: SlotLease) -> None:
        loop = asyncio.get_running_loop()
        at, is_first, sent = loop.time() + rng.uniform(0, chunk_s), True, 0
        while not stopped:
            await asyncio.sleep(at - loop.time())
            if sent - stream.answered >= PLACES:
                # The engine is late: this chunk is left out.
                at += chunk_s
                continue
            sent += 1
            samples = audio[: info.first_chunk_samples] if is_first else audio
            lease.send(samples, is_first=is_first, is_last=False, due=time.monotonic())
            at, is_first = at + chunk_s, False

    tasks = [asyncio.create_task(speak(*one)) for one in zip(live, leases, strict=True)]
    await asyncio.sleep(_WARM_S)
    before = _ask(pid, told)
    await asyncio.sleep(seconds)
    after = _ask(pid, told)
    stopped = True
    await asyncio.gather(*tasks)
    cpu_s, model_s, steps, chunks = (new - old for old, new in zip(before, after, strict=True))
    for lease in leases:
        lease.release()
    for front in fronts:
        front.close(AsrError("over"))
    return {
        "us": round(1e6 * (cpu_s - model_s) / chunks, 2),
        "model_us": round(1e6 * model_s / chunks, 2),
        "batch": chunks / steps,
    }


def _ask(pid: int, told: int) -> tuple[float, ...]:
    os.kill(pid, signal.SIGUSR1)
    numbers: tuple[float, ...] = pickle.loads(os.read(told, 4096))
    return numbers
