"""How many streams a device carries in real time: the largest batch by the 99th percentile, and rounds of batches.

Streams are paced as live ones are: each has a chunk complete once a chunk's duration, all of them at different times.
What is due goes into a batch, the oldest first, up to the largest batch, for which a tick is waited at most; a second
batch is submitted beside the first where the model takes two. That is what the engine does; no packets are there, so
the figures are what the device and the thread that feeds it carry.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.model.loading import assemble
from asr_service.model.reading import ModelParts
from asr_service.model.streaming import NemoStreamingModel
from bench.gpu import Section
from bench.gpu_search import most_carried
from testbed.babble import babble
from testbed.random_parts import random_parts
from testbed.shapes import SHAPES

LOOK_AHEAD = (70, 1)
TICK_S = 0.02
"""As ASR_STEP_MS has it."""
# Share of real time by which streams may fall behind in a try.
_SHORT = 0.02


@dataclass(frozen=True)
class Extent:
    """What is measured.

    Attributes:
        shape: of the model.
        slots: streams at most, as far as the device has memory for them.
        batches: whose steps are timed, ascending.
        limits: the largest batches of rounds, by precision.
        steps: of each batch that are timed.
        try_s: how long streams are carried in a try.
    """

    shape: str
    slots: int
    batches: tuple[int, ...]
    limits: dict[str, tuple[int, ...]]
    steps: int
    try_s: float


FULL = Extent(
    "large", 8192, (128, 256, 512, 1024, 1536, 2048), {"bf16": (2048, 512, 128), "fp32": (512,)}, 100, 1.6
)
QUICK = Extent("tiny", 96, (8, 32), {"fp32": (32,)}, 20, 0.8)


def measure(section: Section, extent: Extent | None = None) -> None:
    """Measures each precision's batches and rounds."""
    extent = extent or (QUICK if section.quick else FULL)
    device = torch.device(section.device)
    made: list[ModelParts] = []
    if not section.attempt("weights", lambda: made.append(random_parts(SHAPES[extent.shape], device)[0])):
        return
    shares = len(extent.limits)
    for number, precision in enumerate(extent.limits):
        ends_at = time.monotonic() + section.left_s / (shares - number)
        section.attempt(precision, partial(_precision, section, extent, made[0], precision, device, ends_at))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _precision(
    section: Section, extent: Extent, parts: ModelParts, precision: str, device: torch.device, ends_at: float
) -> None:
    settings = ModelSettings(extent.shape, LOOK_AHEAD, precision=precision)
    slots = extent.slots
    while True:
        # By halves, as the service does where there is no memory for so many.
        try:
            model = assemble(parts, settings, device, slots)
            break
        except torch.OutOfMemoryError:
            slots //= 2
    streams = PacedStreams(model)
    chunk_ms = model.info.chunk_ms
    step_ms: dict[int, float] = {}
    largest = 0
    began = time.monotonic()
    model.warm_up(min(slots, extent.batches[-1]), lambda _: None)
    section.row(
        "warm", precision=precision, slots=slots, seconds=round(time.monotonic() - began, 1),
        recorded=",".join(map(str, model.readings().recorded or ())) or "no",
    )  # fmt: skip
    section.row(
        "encoder", precision=precision, between_products=getattr(model._encoder, "kernels", "compiled")
    )
    for batch in extent.batches:
        # A third of the time; rounds need the rest.
        if batch > slots or (step_ms and time.monotonic() > began + (ends_at - began) / 3):
            break
        times = streams.steps(batch, extent.steps)
        step_ms[batch] = percentile(times, 0.5)
        p99 = percentile(times, 0.99)
        largest = batch if p99 <= chunk_ms else largest
        section.row(
            "batch", precision=precision, batch=batch, p50_ms=round(step_ms[batch], 2), p99_ms=round(p99, 2),
            chunk_ms=chunk_ms, fits=p99 <= chunk_ms,
        )  # fmt: skip
    section.row("largest batch by p99", precision=precision, batch=largest)
    for number, limit in enumerate(extent.limits[precision]):
        share_s = (ends_at - time.monotonic()) / (len(extent.limits[precision]) - number)
        near = min(step_ms, key=lambda batch: abs(batch - limit))
        expected = 0.8 * chunk_ms / step_ms[near] * near
        row = most_streams(streams, min(limit, slots), expected, extent.try_s, time.monotonic() + share_s)
        section.row(
            "rounds", precision=precision, largest_batch=limit, step_ms=round(step_ms[near], 2), **row
        )


def most_streams(
    streams: PacedStreams, limit: int, expected: float, try_s: float, ends_at: float
) -> dict[str, Any]:
    """Finds how many streams are carried in rounds of batches of at most `limit`, in the time there is.

    Args:
        streams: that are tried.
        limit: of a batch.
        expected: to begin with.
        try_s: of each try.
        ends_at: monotonic time after which no try begins.

    Returns:
        `streams` that were carried, 0 for none, and the least that were `not_carried`; the number of `tries`; latencies
        of the most that were carried, from a chunk's end to its answer.
    """
    tries = 0
    found: dict[str, Any] = {}

    def carry(level: int) -> bool:
        nonlocal tries, found
        tries += 1
        one = streams.carry(level, limit, try_s)
        keeps_up = bool(one.pop("keeps_up"))
        found = one if keeps_up else found
        return keeps_up

    low, high = most_carried(
        carry, int(expected), streams.slots, lambda: time.monotonic() + 1.5 * try_s < ends_at
    )
    not_carried = high if high <= streams.slots else "no more slots"
    return {"streams": low, "not_carried": not_carried, "tries": tries} | found


class PacedStreams:
    """Streams of a model that are stepped as their chunks come, or one batch after the other.

    Args:
        model: warm.
    """

    def __init__(self, model: NemoStreamingModel) -> None:
        self._model = model
        self.slots = model.slots
        info = model.info
        self._size, self._chunk_s = info.chunk_samples, info.chunk_ms / 1000
        audio = babble(30.0, 5)
        # A chunk from each of many places of some babble; streams go through them in turn.
        places = np.arange(0, len(audio) - self._size, self._size // 3)
        self._chunks = np.stack([audio[place : place + self._size] for place in places])
        self._first = self._chunks.copy()
        self._first[:, : self._size - info.first_chunk_samples] = 0.0
        self._turns = np.arange(self.slots) * 7
        for slot in range(self.slots):
            model.open(slot, info.first_prompt)

    def _submit(self, slots: npt.NDArray[np.int64], *, is_first: bool = False) -> None:
        count = self._model.info.first_chunk_samples if is_first else self._size
        self._turns[slots] += 3
        rows = (self._turns[slots] % len(self._chunks)).astype(np.int32)
        self._model.submit(
            StepBatch(
                slots.astype(np.int32),
                self._first if is_first else self._chunks,
                rows,
                np.full(len(slots), count, np.int32),
                np.full(len(slots), ChunkFlags.FIRST if is_first else 0, np.uint8),
            )
        )

    def begin(self, streams: int, limit: int) -> None:
        """Puts so many streams behind their first chunk."""
        for at in range(0, streams, limit):
            self._submit(np.arange(at, min(streams, at + limit)), is_first=True)
            self._model.collect()

    def steps(self, batch: int, count: int) -> list[float]:
        """Steps a batch again and again; returns how long each step took, ms."""
        self.begin(batch, batch)
        rows, times = np.arange(batch), []
        for number in range(count + 3):
            began = time.perf_counter()
            self._submit(rows)
            self._model.collect()
            if number >= 3:
                times.append(1000 * (time.perf_counter() - began))
        return times

    def carry(self, streams: int, limit: int, seconds: float) -> dict[str, Any]:
        """Carries streams in real time for so long; returns whether they keep up, and latencies in ms."""
        self.begin(streams, limit)
        in_flight: deque[npt.NDArray[np.int64]] = deque()
        late: list[npt.NDArray[Any]] = []
        at: list[float] = []
        taken, sizes, waited_until = 0, 0, 0.0
        began = time.perf_counter()
        while (now := time.perf_counter() - began) < seconds:
            # Chunks are numbered as they are complete: streams one after the other, round and round.
            due = min(int(now / self._chunk_s * streams), taken + limit, taken + streams)
            is_due = due > taken and (due - taken == min(limit, streams) or now >= waited_until)
            if is_due:
                numbers = np.arange(taken, due)
                self._submit(numbers % streams)
                in_flight.append(numbers)
                taken, sizes, waited_until = due, sizes + len(numbers), now + TICK_S
            if in_flight and (not is_due or len(in_flight) >= self._model.most_submitted):
                numbers = in_flight.popleft()
                self._model.collect()
                ended = time.perf_counter() - began
                late.append(1000 * (ended - numbers * (self._chunk_s / streams)))
                at.append(ended)
            elif not is_due:
                time.sleep(max(0.0, min(waited_until - now, 0.002)))
        while in_flight:
            in_flight.popleft()
            self._model.collect()
        return self._judge(late, at, seconds) | {"mean_batch": round(sizes / max(1, len(late)))}

    def _judge(self, late: list[npt.NDArray[Any]], at: list[float], seconds: float) -> dict[str, Any]:
        """Judges a try by what came after its first quarter."""
        settled = [one for one, ended in zip(late, at, strict=True) if ended >= seconds / 4]
        if not settled:
            return {"keeps_up": False}
        found = {f"p{q}_ms": round(percentile(np.concatenate(settled), q / 100), 1) for q in (50, 95, 99)}
        half = len(settled) // 2
        grown = (
            float(np.median(np.concatenate(settled[half:])))
            - float(np.median(np.concatenate(settled[:half])))
            if half
            else 0.0
        )
        keeps_up = found["p99_ms"] <= 1000 * self._chunk_s and grown <= 1000 * _SHORT * seconds
        return {"keeps_up": keeps_up} | found


def percentile(values: Any, share: float) -> float:
    """Returns the value below which so large a share lies, by the nearest rank."""
    ordered = np.sort(np.asarray(values))
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])
