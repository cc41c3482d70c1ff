"""The engine with NeMo's real code and random weights: streams beside each other are as they are alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from asr_service.core.model_settings import ModelSettings
from asr_service.core.values import EndpointingConfig, Result, StreamConfig
from asr_service.model import make_model
from tests.support.engines import Audio, Bench, Command, Finalize, HalfClose, Open, running
from tests.support.streams import silence, speech

SLOTS = 8
IDS = count(1)


@pytest.fixture(scope="module", params=["rnnt", "ctc"])
def bench(request: pytest.FixtureRequest, compiled: None, tiny_nemo: Path) -> Iterator[Bench]:
    settings = ModelSettings(name=str(tiny_nemo), decoder=request.param, device="cpu", slots=SLOTS, threads=1)
    with running(
        lambda: make_model(settings),
        max_batch=5,
    ) as made:
        yield made


def plan(seed: int) -> tuple[StreamConfig, list[bytes | str]]:
    rng = random.Random(seed)
    rate = rng.choice([8_000, 16_000, 44_100])
    endpointing = EndpointingConfig(300, 2_000) if rng.random() < 0.5 else None
    script: list[bytes | str] = []
    for part in range(rng.randint(1, 3)):
        script.append(
            speech(rng.uniform(0.01, 2.5), rate, seed * 10 + part) + silence(rng.uniform(0, 0.5), rate)
        )
        if rng.random() < 0.6:
            script.append(f"turn {part}")
    return StreamConfig("test", sample_rate=rate, word_times=True, endpointing=endpointing), script


def commands(stream: int, config: StreamConfig, script: Sequence[bytes | str], packet: int) -> list[Command]:
    made: list[Command] = [Open(stream, config)]
    for part in script:
        if isinstance(part, str):
            made.append(Finalize(stream, part))
        else:
            made += [Audio(stream, part[start : start + packet]) for start in range(0, len(part), packet)]
    return [*made, HalfClose(stream)]


def told(results: list[Result]) -> list[tuple[object, ...]]:
    return [
        (r.text, r.reason, r.utterance, r.audio_ms, r.tag, [(w.text, w.start_ms, w.end_ms) for w in r.words])
        for r in results
    ]


def test_streams_beside_each_other_are_as_they_are_alone(bench: Bench) -> None:
    plans = [plan(seed) for seed in range(SLOTS)]
    ids = [next(IDS) for _ in plans]
    queues = [
        commands(stream, *made, packet=997 + 640 * stream) for stream, made in zip(ids, plans, strict=True)
    ]
    turns = [number for number, queue in enumerate(queues) for _ in queue]
    random.Random(1).shuffle(turns)
    bench.submit(*(queues[number].pop(0) for number in turns))
    bench.wait_ended(*ids)
    assert {bench.ended[stream].error for stream in ids} == {None}
    for stream, (config, script) in reversed(list(zip(ids, plans, strict=True))):  # other slots than before
        alone = next(IDS)
        bench.submit(*commands(alone, config, script, packet=10**9))
        bench.wait_ended(alone)
        assert told(bench.results[stream]) == told(bench.results[alone])
    texts = {result.text for stream in ids for result in bench.results[stream] if result.reason}
    assert len(texts - {""}) >= SLOTS
    bench.wait_counts(free=SLOTS)


def test_finalize_splits_a_stream_into_segments_that_are_as_if_alone(bench: Bench) -> None:
    parts = [speech(1.3, seed=1), speech(0.37, seed=2), speech(2.0, seed=3)]
    finals = []
    scripts: list[Sequence[bytes | str]] = [
        [parts[0], "", parts[1], "", parts[2]],
        *([part] for part in parts),
    ]
    for script in scripts:
        stream = next(IDS)
        bench.submit(*commands(stream, StreamConfig("test", interim_results=False), script, packet=640))
        bench.wait_ended(stream)
        finals.append([result.text for result in bench.finals(stream)])
    whole, *alone = finals
    assert whole == [text for texts in alone for text in texts]
    assert any(whole)
