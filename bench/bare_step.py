"""The bare batched step: how many streams it sustains with nothing around it.

    python -m bench.bare_step --model large.nemo --wav babble.wav

Prints JSON: the most streams whose step takes no longer than the audio it covers, and the step time of each batch
tried. Where that is all of --slots, more of them may find more.

With --follow it stays and measures when asked to: for each line of its input, a number of streams near the answer and
for how many seconds, it prints how many streams would fill a chunk's duration now.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from asr_service import log
from asr_service.core import Samples, StepRequest, StreamingModel
from asr_service.model import load_model
from clients.wav import load_wav

WARM_STEPS = 3
FEWEST_STEPS = 3


class Batch:
    """So many streams that all step together, each at another place of the same audio, on and on."""

    def __init__(
        self,
        model: StreamingModel,
        audio: Samples,
        streams: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._model = model
        self._audio = audio
        self._places = [7919 * index % audio.size for index in range(streams)]
        self._first = True

    def step(self) -> float:
        """Steps every stream by one chunk; seconds."""
        info = self._model.info
        size = info.first_chunk_samples if self._first else info.chunk_samples
        requests = [
            StepRequest(
                slot, np.take(self._audio, range(place, place + size), mode="wrap"), self._first, False
            )
            for slot, place in enumerate(self._places)
        ]
        self._places = [place + size for place in self._places]
        self._first = False
        began = self._clock()
        self._model.step(requests)
        return self._clock() - began


def step_ms(model: StreamingModel, audio: Samples, streams: int, seconds: float) -> float:
    """Mean time of a step with so many streams, measured over about `seconds`."""
    batch = Batch(model, audio, streams)
    for _ in range(WARM_STEPS):
        batch.step()
    times: list[float] = []
    while sum(times) < seconds:
        times.append(batch.step())
    return 1000 * sum(times) / len(times)


def capacity(model: StreamingModel, audio: Samples, seconds: float) -> tuple[int, dict[int, float]]:
    """The most streams whose mean step fits into a chunk's duration, by bisection; and what was measured.

    As many as the model has slots: it may sustain more.
    """
    measured: dict[int, float] = {}

    def fits(streams: int) -> bool:
        measured[streams] = round(step_ms(model, audio, streams, seconds), 2)
        return measured[streams] <= model.info.chunk_ms

    low, high = 0, 2
    while high <= model.slots and fits(high):
        low, high = high, high * 2
    high = min(high, model.slots + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, measured


def sustained_now(
    model: StreamingModel,
    audio: Samples,
    near: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """How many streams would fill a chunk's duration at this moment.

    On the line through the mean step times of a smaller and a larger batch, measured in turns over about `seconds`:
    what the machine's speed does meanwhile happens to both.
    """
    low = min(max(1, round(0.85 * near)), model.slots - 1)
    high = min(max(low + 1, round(1.1 * near)), model.slots)
    batches = [Batch(model, audio, streams, clock) for streams in (low, high)]
    for batch in batches:
        batch.step()
    times: list[list[float]] = [[], []]
    until = clock() + seconds
    while clock() < until or len(times[0]) < FEWEST_STEPS:
        for batch, taken in zip(batches, times, strict=True):
            taken.append(1000 * batch.step())
    small, large = map(statistics.mean, times)
    if large <= small:
        return model.info.chunk_ms / large * high
    return low + (model.info.chunk_ms - small) * (high - low) / (large - small)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.bare_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="as ASR_MODEL")
    parser.add_argument("--wav", required=True, help="what the streams hear")
    parser.add_argument("--att-ctx", default="70,1")
    parser.add_argument("--decoder", default="rnnt")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each batch size (default 4)")
    parser.add_argument("--follow", action="store_true", help="measure when asked to, see above")
    args = parser.parse_args()
    log.set_up("error", "text")
    model = load_model(
        model=args.model,
        att_context=args.att_ctx,
        decoder=args.decoder,
        device="cpu",
        precision="fp32",
        encoder="fast",
        slots=args.slots,
        threads=None,
    )
    audio: Samples = np.frombuffer(load_wav(args.wav), "<i2").astype(np.float32) / np.float32(32768)
    if args.follow:
        for line in sys.stdin:
            near, seconds = map(float, line.split())
            print(sustained_now(model, audio, near, seconds), flush=True)
        return
    streams, measured = capacity(model, audio, args.seconds)
    result = {"streams": streams, "chunk_ms": model.info.chunk_ms, "step_ms": dict(sorted(measured.items()))}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
