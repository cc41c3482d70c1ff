"""Streams beside each other in the real engine: each as if it were alone, and every slot comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_service.core.values import Result, StreamConfig
from asr_service.model.null import NullModel
from tests.support.engines import Audio, Bench, Cancel, Command, Finalize, HalfClose, Open, running
from tests.support.streams import SignallingModel, new_stream
from tests.unit.recognition.test_packets import MODELS, Script, configs, play, scripts

SLOTS = 6
IDS = count(1)


@pytest.fixture(
    scope="module",
    params=[(NullModel, 1, 0.0), (NullModel, 4, 0.0), (NullModel, 4, 0.01), (SignallingModel, 4, 0.0)],
    ids=["one", "four", "four, gathered", "four, with signals"],
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    make, max_batch, tick_s = request.param
    with running(lambda: make(slots=SLOTS), max_batch=max_batch, tick_s=tick_s) as made:
        yield made


def commands_of(
    stream: int, config: StreamConfig, script: Script, packet: int, *, cancel: bool
) -> list[Command]:
    commands: list[Command] = [Open(stream, config)]
    for part in script:
        if isinstance(part, str):
            commands.append(Finalize(stream, part))
        else:
            commands += [Audio(stream, part[start : start + packet]) for start in range(0, len(part), packet)]
    return [*commands, Cancel(stream) if cancel else HalfClose(stream)]


def comparable(results: list[Result]) -> list[tuple[object, ...]]:
    return [
        (r.text, r.reason, r.utterance, r.words, r.confidence, r.audio_ms, r.tag, r.language) for r in results
    ]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(configs, scripts(), st.integers(300, 5_000), st.booleans()), min_size=1, max_size=SLOTS
    ),
    st.randoms(use_true_random=False),
)
def test_every_stream_is_as_if_it_were_alone(
    bench: Bench, plans: list[tuple[StreamConfig, Script, int, bool]], order: random.Random
) -> None:
    ids = [next(IDS) for _ in plans]  # never reused; slots are, with what the last stream left there
    queues = [
        commands_of(stream, config, script, packet, cancel=cancel)
        for stream, (config, script, packet, cancel) in zip(ids, plans, strict=True)
    ]
    turns = [number for number, queue in enumerate(queues) for _ in queue]
    order.shuffle(turns)
    bench.submit(*(queues[number].pop(0) for number in turns))
    bench.wait_ended(*ids)
    model = MODELS["words and signals" if bench.info.prompts else "words"][1]
    for stream, (config, script, _, cancel) in zip(ids, plans, strict=True):
        assert bench.ended[stream].error is None
        results = comparable(bench.results.get(stream, []))
        alone = comparable(play(new_stream(model, config), model, script, [10**9], patient=True))
        assert results == (alone[: len(results)] if cancel else alone)
    bench.wait_counts(leased=0, free=SLOTS, ready=0)
