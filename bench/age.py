"""Measures whether old streams cost more than young ones, and whether memory grows.

    python -m bench.age --quick --json build/age.json

- Cost: streams are really fed an hour of audio (`--minutes`). Then they take turns with as many streams that have just
  begun, on the same audio, step by step for a minute of audio each: what the machine does besides meets both alike.
  `ratio` is the median step of the old over the median step of the young in the same run, the baseline; their first
  eight seconds, in which the cache fills, do not count. `first_minute_ms` and `last_minute_ms` are the old streams'
  own, an hour of audio apart.
- Memory: 200,000 steps of a small model while streams come, go and share batches at random; resident memory before and
  after, and the most in between, from a twentieth of the way on.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from asr_service.core.model_settings import ModelSettings
from asr_service.core.values import Samples
from asr_service.model import make_model
from asr_service.model.streaming import NemoStreamingModel
from bench.kept import random_model
from bench.options import write_report
from testbed.by_request import StepRequest, step
from testbed.models import babble

LOOP_S = 61.0
FILLING_S = 8.0
PAGE = 4096
COMING_AND_GOING = 24


class Group:
    """Steps streams together that go on for ever over looped audio, one a slot."""

    def __init__(self, model: NemoStreamingModel, slots: Sequence[int], audio: Samples) -> None:
        self._model = model
        self._slots = slots
        self._audio = np.concatenate([audio, audio[: model.info.chunk_samples]])
        self._length = len(audio)
        self._place = 0
        self.steps = 0

    def step(self) -> float:
        """Steps all of them by one chunk; returns the milliseconds it took."""
        info = self._model.info
        first = self.steps == 0
        size = info.first_chunk_samples if first else info.chunk_samples
        requests = []
        for slot in self._slots:
            start = (self._place + 31_231 * slot) % self._length
            requests.append(StepRequest(slot, self._audio[start : start + size], first, False))
        self._place += size
        self.steps += 1
        begun = time.perf_counter()
        step(self._model, requests)
        return 1000 * (time.perf_counter() - begun)


def cost(name: str, model: NemoStreamingModel, batch: int, minutes: float) -> dict[str, object]:
    """Feeds `batch` streams so many minutes of audio each, then compares them with fresh ones.

    The model has twice as many slots as the batch has streams.
    """
    chunk_s = model.info.chunk_ms / 1000
    audio = babble(LOOP_S, 5)
    minute, filling = int(60 / chunk_s), int(FILLING_S / chunk_s)
    # The same places in the audio for both groups: slots differ by a whole number of loops.
    old = Group(model, range(batch), audio)
    took = [old.step() for _ in range(int(60 * minutes / chunk_s))]
    young = Group(model, range(batch, 2 * batch), audio)
    young._place = old._place - 31_231 * batch
    pairs = [(old.step(), young.step()) for _ in range(minute)][filling:]
    aged, fresh = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "model": name,
        "look_ahead": "{},{}".format(*model.info.att_context),
        "precision": model.info.precision,
        "batch": batch,
        "minutes": minutes,
        "old_ms": round(aged, 3),
        "young_ms": round(fresh, 3),
        "ratio": round(aged / fresh, 4),
        "first_minute_ms": round(statistics.median(took[filling:minute]), 3),
        "last_minute_ms": round(statistics.median(took[-minute:]), 3),
    }


def resident_mb() -> float:
    """Reads the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def memory(model: NemoStreamingModel, steps: int) -> dict[str, object]:
    """Steps random batches of streams that come and go, and reads the resident memory on the way."""
    rng = random.Random(1)
    info = model.info
    audio = babble(LOOP_S, 6)
    free, live = list(range(model.slots)), dict[int, int]()  # slot: steps taken
    marks: list[float] = []
    streams = 0
    for number in range(steps):
        if number % (steps // 20) == 0:
            marks.append(resident_mb())
        if free and (not live or rng.random() < 0.3):
            live[free.pop(rng.randrange(len(free)))] = 0
            streams += 1
        requests = []
        for slot in rng.sample(sorted(live), rng.randint(1, min(8, len(live)))):
            first, last = live[slot] == 0, rng.random() < 0.03
            size = info.first_chunk_samples if first else info.chunk_samples
            size = rng.randrange(size) if last else size
            start = rng.randrange(len(audio) - size)
            requests.append(StepRequest(slot, audio[start : start + size], first, last))
            live[slot] += 1
            if last:
                del live[slot]
                free.append(slot)
        step(model, requests)
    marks.append(resident_mb())
    return {
        "steps": steps,
        "streams": streams,
        "resident_mb_early": round(marks[1], 1),
        "resident_mb_end": round(marks[-1], 1),
        "resident_mb_most": round(max(marks[1:]), 1),
        "growth_mb": round(marks[-1] - marks[1], 1),
    }


def _make(name: str, batch: int, precision: str, threads: int | None) -> NemoStreamingModel:
    model = make_model(
        ModelSettings(name=name, device="cpu", precision=precision, slots=batch, threads=threads)
    )
    assert isinstance(model, NemoStreamingModel)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one minute of audio, 2,000 steps, no 114M model"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--minutes", type=float, default=60.0, help="of audio for the demo model (60)")
    parser.add_argument(
        "--large-minutes", type=float, default=20.0, help="of audio for the 114M shape, batch of 4, bf16 (20)"
    )
    parser.add_argument("--steps", type=int, default=200_000, help="for the memory (200,000)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    options = parser.parse_args(arguments)
    minutes, large, steps = options.minutes, options.large_minutes, options.steps
    if options.quick:
        minutes, large, steps = 1.0, 0.0, 2_000
    console = Console()
    held = memory(_make(str(random_model("tiny")), COMING_AND_GOING, "fp32", options.threads), steps)
    console.print(held)
    costs = [cost("demo", _make("demo", 64, "fp32", options.threads), 32, minutes)]
    console.print(costs[-1])
    if large:
        costs.append(cost("114M", _make(str(random_model("large")), 8, "bf16", options.threads), 4, large))
        console.print(costs[-1])
    report = {"baseline": "streams that have just begun, same run", "cost": costs, "memory": held}
    write_report(options.json, report)
    lines = [
        "| model | batch | fed, minutes | old, ms | young, ms | old / young |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        "| {model}, {precision} | {batch} | {minutes} | {old_ms} | {young_ms} | {ratio} |".format(**row)
        for row in costs
    ]
    print("\n".join(lines))
    print(
        "\nResident memory over {steps} steps and {streams} streams: {resident_mb_early} MB after a twentieth of them, "
        "{resident_mb_end} MB at the end, at most {resident_mb_most} MB.".format(**held)
    )


if __name__ == "__main__":
    main()
