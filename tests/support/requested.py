"""A null model that is stepped by requests, for models of tests that do something else with some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_service.core.step import ChunkFlags, StepAnswers, StepBatch, chunk_offset
from asr_service.core.values import PhraseBoost
from asr_service.model.null import NullModel
from testbed.by_request import StepRequest, StepResult, step


class RequestedModel(NullModel):
    """A null model whose batches go through its method `step`, which subclasses override.

    Args:
        slots, att_context: see `NullModel`.
    """

    def __init__(self, *, slots: int, att_context: tuple[int, int] = (70, 1)) -> None:
        super().__init__(slots=slots, att_context=att_context)
        self._inner = NullModel(slots=slots, att_context=att_context)
        self._opened: dict[int, tuple[int, tuple[PhraseBoost, ...]]] = {}
        self._before: dict[int, int] = {}
        self._answers: StepAnswers | None = None

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps the given slots together."""
        return step(self._inner, requests)

    def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
        """See `BatchStepper.open`."""
        self._opened[slot] = (prompt, tuple(boosts))

    def submit(self, batch: StepBatch) -> None:
        """See `BatchStepper.submit`."""
        assert self._answers is None
        requests = [self._request(batch, row) for row in range(len(batch))]
        results = self.step(requests)
        self._answers = self._lay_out(requests, results)

    def collect(self) -> StepAnswers:
        """See `BatchStepper.collect`."""
        answers, self._answers = self._answers, None
        assert answers is not None
        return answers

    def _request(self, batch: StepBatch, row: int) -> StepRequest:
        slot, flags, count = int(batch.slots[row]), int(batch.flags[row]), int(batch.counts[row])
        start = chunk_offset(
            flags, first_chunk_samples=self.info.first_chunk_samples, chunk_samples=self.info.chunk_samples
        )
        samples = batch.audio[batch.rows[row], start : start + count].copy()
        is_first = bool(flags & ChunkFlags.FIRST)
        prompt, boosts = self._opened.get(slot, (-1, ())) if is_first else (-1, ())
        return StepRequest(slot, samples, is_first, bool(flags & ChunkFlags.LAST), boosts, prompt)

    def _lay_out(self, requests: Sequence[StepRequest], results: Sequence[StepResult]) -> StepAnswers:
        places: list[int] = []
        for request, result in zip(requests, results, strict=False):
            before = 0 if request.is_first else self._before.get(request.slot, 0)
            self._before[request.slot] = before + result.frames
            places += [frame - before for frame in result.token_frames]
        return StepAnswers(
            frames=np.array([result.frames for result in results], np.int32),
            counts=np.array([len(result.tokens) for result in results], np.int32),
            broken=np.array([result.broken for result in results], bool),
            tokens=np.array([token for result in results for token in result.tokens], np.int32),
            token_frames=np.array(places, np.int32),
            probs=np.array([prob for result in results for prob in result.token_probs], np.float32),
        )
