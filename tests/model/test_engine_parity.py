"""From packets to text: every stream of the real engine says what NeMo's offline reference says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from asr_service.core.values import StreamConfig
from asr_service.model.streaming import NemoStreamingModel
from testbed.models import SHAPES, babble
from tests.model import reference
from tests.support.engines import Audio, Command, HalfClose, Open, running

SECONDS = [3.3, 0.0, 0.004, 0.5, 2.21, 0.16, 4.99, 1.5, 0.64, 3.44, 2.0, 0.3, 1.01, 0.777, 2.2, 0.075]
SPLITS: dict[str, Callable[[random.Random], int]] = {
    "one odd byte at a time, in bursts": lambda rng: rng.choice([1, 1, 1, 999]),
    "20 ms": lambda rng: 640,
    "odd sizes": lambda rng: 1237,
    "a second": lambda rng: 32_000,
    "anything": lambda rng: rng.randint(1, 9_000),
    "all at once": lambda rng: 1 << 30,
}


def _packets(data: bytes, split: Callable[[random.Random], int], rng: random.Random) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        size = split(rng)
        yield data[place : place + size]
        place += size


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize(
    ("shape", "context"),
    [(shape, context) for shape in ("tiny", "odd") for context in SHAPES[shape].look_aheads],
)
def test_text_equals_the_reference_for_any_packets(
    nemo_model: Callable[[str], Any], streaming: Callable[..., NemoStreamingModel], shape: str,
    context: tuple[int, int], decoder: str,
) -> None:  # fmt: skip
    loaded = nemo_model(shape)
    pcm = [(babble(5.0, 300 + n)[: int(16_000 * s)] * 32767).astype(np.int16) for n, s in enumerate(SECONDS)]
    rng = random.Random(11)
    ids = itertools.count(1)
    said: dict[int, list[str]] = {n: [] for n in range(len(pcm))}
    with running(lambda: streaming(shape, context, decoder=decoder, slots=16), max_batch=16) as bench:
        for split in SPLITS.values():
            streams = [next(ids) for _ in pcm]
            queues: list[list[Command]] = [
                [
                    Open(stream, StreamConfig("x", interim_results=False)),
                    *(Audio(stream, packet) for packet in _packets(samples.tobytes(), split, rng)),
                    HalfClose(stream),
                ]
                for stream, samples in zip(streams, pcm, strict=True)
            ]
            rng.shuffle(queues)
            while queues:
                queue = rng.choice(queues)
                for command in queue[:40]:
                    bench.submit(command)
                del queue[:40]
                queues = [q for q in queues if q]
            bench.wait_ended(*streams)
            for number, stream in enumerate(streams):
                (final,) = bench.finals(stream)
                said[number].append(final.text)
    encoded = [
        reference.encode(loaded, samples.astype(np.float32) / np.float32(32768), context) for samples in pcm
    ]
    for number, tokens in enumerate(reference.decode(loaded, encoded, decoder)):
        assert said[number] == [loaded.tokenizer.ids_to_text(tokens)] * len(SPLITS), f"stream {number}"
    assert len({texts[0] for texts in said.values()}) > 8
