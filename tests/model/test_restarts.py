"""A model that says that an utterance is over starts anew, and then hears what a new stream would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from asr_service.core.model import ModelInfo, StreamingModel
from asr_service.core.values import FinalReason, PhraseBoost, Result, StreamConfig
from asr_service.model.streaming import NemoStreamingModel
from asr_service.recognition.vocabulary import Vocabulary
from testbed.by_request import StepRequest, StepResult, step
from testbed.models import babble
from testbed.stepped_stream import SteppedStream
from tests.support.streams import UNIX_MS

CONFIG = StreamConfig("test", interim_results=False, word_times=True, boosts=(PhraseBoost(("ba",)),))
PCM = (babble(9.0, 41) * 32767).astype("<i2").tobytes()


class Ending:
    """A model of random weights, one of whose tokens means that the utterance is over: it is the last one of a step."""

    def __init__(self, model: StreamingModel, token: int) -> None:
        self._model, self._token = model, token
        pieces = list(model.info.pieces)
        pieces[token] = "<EOU>"
        self.info: ModelInfo = replace(model.info, pieces=tuple(pieces))

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        return [self._until_over(answer) for answer in step(self._model, requests)]

    def _until_over(self, answer: StepResult) -> StepResult:
        if self._token not in answer.tokens:
            return answer
        count = answer.tokens.index(self._token) + 1
        return StepResult(
            answer.tokens[:count], answer.token_frames[:count], answer.token_probs[:count], answer.frames
        )


def hear(model: Ending, data: bytes, slot: int) -> list[tuple[int, Result]]:
    """The results of a whole stream, each with the samples that were stepped before it."""
    stream = SteppedStream(CONFIG, model.info, Vocabulary(model.info.pieces), slot=slot)
    stream.audio(data, 0.0)
    results, samples = [(0, result) for result in stream.half_close(0.0, UNIX_MS)], 0
    while stream.ready_at is not None:
        request = stream.request()
        samples += len(request.samples)
        results += [(samples, result) for result in stream.take(model.step([request])[0], 0.0, UNIX_MS)]
    return results


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("context", [(70, 0), (70, 1), (70, 6)])
def test_after_its_end_of_an_utterance_a_model_hears_what_a_new_stream_would(
    streaming: Callable[..., NemoStreamingModel], context: tuple[int, int], decoder: str
) -> None:
    model = streaming("tiny", context, decoder=decoder, slots=2)
    size = model.info.first_chunk_samples
    audio = np.frombuffer(PCM, "<i2").astype(np.float32) * np.float32(1 / 32768)
    tokens: Counter[int] = Counter(step(model, [StepRequest(0, audio[:size], True, False)])[0].tokens)
    while size + model.info.chunk_samples <= len(audio):
        chunk = audio[size : size + model.info.chunk_samples]
        size += len(chunk)
        tokens.update(step(model, [StepRequest(0, chunk, False, False)])[0].tokens)
    ending = Ending(model, tokens.most_common(2)[1][0])
    told = hear(ending, PCM, 0)
    ends = [n for n, (_, result) in enumerate(told) if result.reason is FinalReason.END_OF_UTTERANCE]
    assert len(ends) > 1
    for number in (ends[0], ends[len(ends) // 2], ends[-1]):
        place = told[number][0]
        later, alone = told[number + 1 :], hear(ending, PCM[2 * place :], 1)
        assert [(at - place, r.text, r.reason) for at, r in later] == [
            (at, r.text, r.reason) for at, r in alone
        ]
        words = [[word.text for word in r.words] for _, r in later]
        assert words == [[word.text for word in r.words] for _, r in alone]
