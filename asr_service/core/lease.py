"""A stream's lease of an engine's slot, as sessions use it: chunks go out through it, and answers come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asr_service.core.errors import AsrError
from asr_service.core.values import PhraseBoost, Samples


class ChunkAnswers(Protocol):
    """Takes what an engine answers to one stream's chunks, on the event loop."""

    def answer(
        self, tokens: list[int], token_frames: list[int], probs: list[float], frames: int, ended: float
    ) -> None:
        """Takes the answer to the oldest chunk that has none yet.

        Args:
            tokens: new token ids.
            token_frames: encoder frame that each was emitted at, counted from the chunk's first.
            probs: probability of each in [0, 1].
            frames: encoder frames decoded.
            ended: monotonic time at which the step ended.
        """
        ...

    def lost(self, error: AsrError) -> None:
        """Takes that no answer follows: the step has failed, or the engine is gone. The lease is to be released."""
        ...


class Lease(Protocol):
    """One slot of an engine, leased to one stream until it is released. For the event loop's thread."""

    def send(self, samples: Samples, *, is_first: bool, is_last: bool, due: float) -> None:
        """Sends a chunk; never waits. At most two may be unanswered.

        Args:
            samples: at the model's rate, float32 [n], as a model takes them (`StepBatch`).
            is_first: whether a segment begins with it.
            is_last: whether the segment ends with it.
            due: monotonic time as of which its step is due.
        """
        ...

    def release(self) -> None:
        """Gives the slot back at once; no answer comes after that. Does nothing the second time."""
        ...


class EngineLink(Protocol):
    """A front end's way to one engine, for the event loop's thread."""

    @property
    def is_open(self) -> bool:
        """Whether the engine is there."""
        ...

    async def lease(
        self, streams: Sequence[ChunkAnswers], prompt: int = -1, boosts: Sequence[PhraseBoost] = ()
    ) -> Sequence[Lease]:
        """Leases a slot for each stream of a call, or none at all.

        Args:
            streams: take the answers.
            prompt: index of the language prompt, -1 for none.
            boosts: phrases that are boosted.

        Raises:
            AtCapacity: the engine has not so many slots left.
            Overloaded: it has, and takes no more streams all the same.
            InvalidArgument: a phrase cannot be boosted.
            Unavailable: the engine is gone.
        """
        ...
