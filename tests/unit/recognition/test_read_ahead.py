"""What is cut before the last chunk is answered changes no result, wherever the model starts anew."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_service.core.values import Result, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.states import Work
from testbed.by_request import StepRequest, StepResult, step
from testbed.stepped_stream import SteppedStream
from tests.support.streams import UNIX_MS, new_stream, speech
from tests.unit.recognition.test_packets import MODELS, Script, configs, play, scripts

DEPTH = 2


class Engine:
    """A slot's queue in front of a model, and answers on their way back; both move at random moments."""

    def __init__(self, stream: SteppedStream, model: NullModel, rng: random.Random) -> None:
        self._stream, self._model, self._rng = stream, model, rng
        self._queue: deque[StepRequest] = deque()
        self._answers: deque[StepResult] = deque()
        self.steps = self.restarts = 0

    def move(self, *, surely: bool = False) -> list[Result]:
        """Perhaps steps a chunk, and perhaps lets an answer arrive; returns what came of it."""
        for chunk in self._stream.take_chunks():
            prompts = self._model.info.prompts
            prompt = prompts[0][1] if prompts and chunk.is_first else -1
            self._queue.append(StepRequest(0, chunk.samples, chunk.is_first, chunk.is_last, (), prompt))
        assert len(self._queue) + len(self._answers) <= DEPTH
        if self._queue and (surely or self._rng.random() < 0.4):
            self._answers += step(self._model, [self._queue.popleft()])
            self.steps += 1
        if self._answers and (surely or self._rng.random() < 0.4):
            results = self._stream.take(self._answers.popleft(), 0.0, UNIX_MS)
            self.restarts += self._stream.restarted
            return results
        return []


def play_ahead(
    stream: SteppedStream, model: NullModel, script: Script, packets: list[int], rng: random.Random
) -> tuple[list[Result], Engine]:
    """All results of a script, and the engine that made them."""
    engine, results, count = Engine(stream, model, rng), list[Result](), 0
    for part in script:
        if isinstance(part, str):
            results += stream.finalize(part, float(count), UNIX_MS)
            continue
        start = 0
        while start < len(part):
            size = packets[count % len(packets)]
            stream.audio(part[start : start + size], float(count))
            start, count = start + size, count + 1
            for _ in range(rng.randrange(3)):
                results += engine.move()
    results += stream.half_close(float(count), UNIX_MS)
    while stream.work is not Work.ENDED:
        results += engine.move(surely=True)
    # Of a chunk that was put back, the answer may come after all results.
    engine.move(surely=True)
    return results, engine


@settings(deadline=None, max_examples=150)
@given(
    configs,
    scripts(),
    st.sampled_from([model for models in MODELS.values() for model in models]),
    st.lists(st.integers(1, 7_000), min_size=1, max_size=5),
    st.sampled_from([0, 80, 320]),
    st.randoms(use_true_random=False),
)
def test_results_are_those_of_a_stream_that_waits_for_each_answer(
    config: StreamConfig,
    script: Script,
    model: NullModel,
    packets: list[int],
    silence_ms: int,
    rng: random.Random,
) -> None:
    waits = new_stream(model, config, finalize_silence_ms=silence_ms)
    expected = play(waits, model, script, [10**9], patient=True)
    ahead = new_stream(model, config, finalize_silence_ms=silence_ms, read_ahead=DEPTH)
    assert play_ahead(ahead, model, script, packets, rng)[0] == expected


@given(st.integers(0, 10**6))
@example(0)
@settings(deadline=None, max_examples=20)
def test_a_chunk_that_was_cut_ahead_of_an_end_of_an_utterance_is_heard_once_and_in_its_place(
    seed: int,
) -> None:
    """An upload, so that there always is one."""
    model = MODELS["words and signals"][1]
    script: Script = [speech(4.0, seed=seed)]
    expected = play(new_stream(model), model, script, [10**9], patient=True)
    waiting, ahead = new_stream(model, read_ahead=1), new_stream(model, read_ahead=DEPTH)
    results, patient = play_ahead(waiting, model, script, [10**9], random.Random(seed))
    results_ahead, eager = play_ahead(ahead, model, script, [10**9], random.Random(seed))
    assert results == results_ahead == expected
    # Each time that the model starts anew, one step at most was for nothing.
    assert patient.steps <= eager.steps <= patient.steps + patient.restarts
    assert patient.restarts == eager.restarts
