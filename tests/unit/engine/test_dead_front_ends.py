"""An engine whose front ends die at the worst moment."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from asr_service.core.errors import AsrError, Unavailable
from tests.support.engines import GatedModel, running
from tests.support.process import PATIENCE_S


class Stream:
    """A stream that nobody listens to."""

    def answer(
        self, tokens: list[int], token_frames: list[int], probs: list[float], frames: int, ended: float
    ) -> None:
        """See `ChunkAnswers.answer`."""

    def lost(self, error: AsrError) -> None:
        """See `ChunkAnswers.lost`."""


async def test_a_front_end_that_dies_while_it_asks_a_full_engine_is_given_nothing() -> None:
    """Its own slots are what makes room for its request; nobody would ever give them back."""
    model = GatedModel(slots=1)
    with running(lambda: model) as bench:
        dying = bench.thread.connect()
        (lease,) = await asyncio.wait_for(dying.lease([Stream()]), PATIENCE_S)
        samples = np.zeros(model.info.first_chunk_samples, np.float32)
        lease.send(samples, is_first=True, is_last=False, due=0.0)
        await asyncio.sleep(0)
        assert model.entered.acquire(timeout=PATIENCE_S)
        asking = asyncio.ensure_future(dying.lease([Stream()]))
        await asyncio.sleep(0)
        dying.close(Unavailable("killed"))
        with pytest.raises(Unavailable):
            await asking
        model.gate.release()
        bench.wait_for(lambda: bench.record.leased == 0)
        other = bench.thread.connect()
        (lease,) = await asyncio.wait_for(other.lease([Stream()]), PATIENCE_S)
        lease.release()
        other.close(Unavailable("over"))
