"""Measures how many streams the bare batched step sustains, with nothing around it.

    python -m bench.bare_step --model large.nemo --wav babble.wav

Prints JSON: the most streams whose step takes no longer than the audio it covers, and the step time of each batch
tried. Where that is all of --slots, more of them may find more.

With --follow it stays and steps when asked to: for each line of its input, a number of streams and for how many seconds
of audio, it steps them in real time and prints, as JSON, when each step ended and how late after its audio, in seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from asr_service.core.model import StreamingModel
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.core.values import Samples
from asr_service.model import make_model
from asr_service.observability import log
from clients.wav import read_wav
from testbed.by_request import StepRequest, step

WARM_STEPS = 3


class Batch:
    """Steps so many streams together, on and on, each at another place of the same audio."""

    def __init__(self, model: StreamingModel, audio: Samples, streams: int) -> None:
        self._model = model
        self._audio = audio
        self._places = [7919 * index % audio.size for index in range(streams)]
        self._first = True

    def step(self) -> float:
        """Steps every stream by one chunk; returns the seconds it took."""
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
        began = time.perf_counter()
        step(self._model, requests)
        return time.perf_counter() - began


def step_ms(model: StreamingModel, audio: Samples, streams: int, seconds: float) -> float:
    """Measures the mean time of a step with so many streams, over about `seconds`."""
    batch = Batch(model, audio, streams)
    for _ in range(WARM_STEPS):
        batch.step()
    times: list[float] = []
    while sum(times) < seconds:
        times.append(batch.step())
    return 1000 * sum(times) / len(times)


def capacity(model: StreamingModel, audio: Samples, seconds: float) -> tuple[int, dict[int, float]]:
    """Finds by bisection the most streams whose mean step fits into a chunk's duration; and what was measured.

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


def in_real_time(
    batch: Batch,
    chunk_s: float,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[tuple[float, float]]:
    """Steps a batch each time its next chunk would be complete, or as soon after that as the step before has ended.

    Returns:
        When each step ended, seconds from the start, and how long after its chunk was complete.
    """
    batch.step()  # the first is another size
    began = clock()
    ended: list[tuple[float, float]] = []
    for number in range(1, int(seconds / chunk_s) + 1):
        due = began + number * chunk_s
        if (ahead := due - clock()) > 0:
            sleep(ahead)
        batch.step()
        now = clock()
        ended.append((now - began, now - due))
    return ended


def main() -> None:
    """Runs the command line."""
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
    model = make_model(
        ModelSettings(
            name=args.model,
            att_context=parse_att_context(args.att_ctx),
            decoder=args.decoder,
            device="cpu",
            slots=args.slots,
        )
    )
    audio: Samples = np.frombuffer(read_wav(args.wav), "<i2").astype(np.float32) / np.float32(32768)
    if args.follow:
        for line in sys.stdin:
            streams, seconds = line.split()
            batch = Batch(model, audio, int(streams))
            print(json.dumps(in_real_time(batch, model.info.chunk_ms / 1000, float(seconds))), flush=True)
        return
    streams, measured = capacity(model, audio, args.seconds)
    result = {"streams": streams, "chunk_ms": model.info.chunk_ms, "step_ms": dict(sorted(measured.items()))}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
