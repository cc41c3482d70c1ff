"""Boosted streams through the whole engine: packets, slots, segments and neighbours change nothing of what they say."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from asr_service.core.values import PhraseBoost, StreamConfig
from asr_service.model.streaming import NemoStreamingModel
from testbed.models import babble
from tests.model import reference
from tests.support.audio import cut
from tests.support.engines import Audio, Command, Finalize, HalfClose, Open, running

CONTEXT = (70, 1)
SECONDS = (3.3, 0.5, 2.21, 4.0)
SIZES = (640, 1237, 32_000, 1 << 20)


def commands(stream: int, packets: list[bytes], boosts: tuple[PhraseBoost, ...]) -> list[Command]:
    """A stream that says its audio twice, with a finalize between."""
    config = StreamConfig("x", interim_results=False, boosts=boosts)
    audio = [Audio(stream, packet) for packet in packets]
    return [Open(stream, config), *audio, Finalize(stream, ""), *audio, HalfClose(stream)]


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_text_is_the_same_for_any_packets_slot_and_neighbours(
    nemo_model: Callable[[str], Any], streaming: Callable[..., NemoStreamingModel], decoder: str
) -> None:
    loaded = nemo_model("tiny")
    pcm = [(babble(4.0, 700 + n)[: int(16_000 * s)] * 32767).astype(np.int16) for n, s in enumerate(SECONDS)]
    plain = [
        loaded.tokenizer.ids_to_text(
            reference.tokens(loaded, one.astype(np.float32) / np.float32(32768), CONTEXT, decoder)
        )
        for one in pcm
    ]
    words = sorted({word for text in plain for word in text.split()})
    boosts = (PhraseBoost(tuple(words[::2]), 3.0), PhraseBoost((words[1],), 6.0))
    rng = random.Random(4)
    ids = itertools.count(1)
    said: dict[tuple[int, bool], set[str]] = {}
    with running(lambda: streaming("tiny", CONTEXT, decoder=decoder, slots=8), max_batch=8) as bench:
        for size in SIZES:
            streams = {
                next(ids): (number, boosted) for number in range(len(pcm)) for boosted in (False, True)
            }
            queues = [
                commands(stream, cut(pcm[number].tobytes(), size), boosts if boosted else ())
                for stream, (number, boosted) in streams.items()
            ]
            rng.shuffle(queues)
            while queues:
                queue = rng.choice(queues)
                bench.submit(*queue[:20])
                del queue[:20]
                queues = [queue for queue in queues if queue]
            bench.wait_ended(*streams)
            for stream, key in streams.items():
                first, second = bench.finals(stream)
                assert first.text == second.text, "phrases are there after a finalize, at their beginnings"
                said.setdefault(key, set()).add(first.text)
    for number, text in enumerate(plain):
        assert said[number, False] == {text}
        assert len(said[number, True]) == 1
    assert sum(said[number, True] != {text} for number, text in enumerate(plain)) >= 2
