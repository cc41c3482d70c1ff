"""The engines that a front end's streams may use, and what is known of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from asr_service.core.errors import Unavailable
from asr_service.core.lease import ChunkAnswers, EngineLink, Lease
from asr_service.core.model import ModelInfo, StepKind
from asr_service.core.values import PhraseBoost
from asr_service.recognition.vocabulary import Vocabulary
from asr_service.sessions.routes import Room, Routes, Served, by_room

_GONE_RETRY_S = 5.0
# Steps take less; one that takes longer makes its engine the last that is asked, no more.
_SILENT_S = 3.0


class EngineNumbers(Protocol):
    """What an engine tells everybody of itself, as of now."""

    @property
    def is_running(self) -> bool:
        """Whether its model is warm."""
        ...

    @property
    def leased(self) -> int:
        """Slots that streams have."""
        ...

    @property
    def limit(self) -> int:
        """Streams that it admits."""
        ...

    @property
    def load(self) -> float:
        """How long live chunks take, over their duration."""
        ...

    @property
    def step_kind(self) -> int:
        """How its steps run, a `StepKind`."""
        ...

    @property
    def beat(self) -> float:
        """Monotonic time of its last sign of life."""
        ...


@dataclass(frozen=True, slots=True)
class LinkedEngine:
    """An engine that this front end is linked to.

    Attributes:
        number: among all engines.
        info: of its model.
        vocabulary: of its model.
        finalize_silence_ms: see `Stream`.
        link: leases its slots.
        numbers: that it tells.
    """

    number: int
    info: ModelInfo
    vocabulary: Vocabulary
    finalize_silence_ms: int
    link: EngineLink
    numbers: EngineNumbers

    @property
    def is_running(self) -> bool:
        """Whether it may be asked for slots."""
        return self.link.is_open and self.numbers.is_running

    @property
    def is_silent(self) -> bool:
        """Whether it seems to hang: who waits for it may wait until it is killed."""
        return time.monotonic() - self.numbers.beat > _SILENT_S


class NoLink:
    """Stands for the link to an engine that is away: an `EngineLink`."""

    is_open = False

    async def lease(
        self, streams: Sequence[ChunkAnswers], prompt: int = -1, boosts: Sequence[PhraseBoost] = ()
    ) -> Sequence[Lease]:
        """See `EngineLink.lease`; it always raises Unavailable."""
        raise Unavailable("the engine has stopped", retry_after_s=_GONE_RETRY_S)


class Engines:
    """The engines by number; one that is started again takes its own place.

    Args:
        count: how many there are to be.

    Attributes:
        count: as given.
        routes: what they serve; None until all of them were linked once, or known.
    """

    def __init__(self, count: int) -> None:
        self.routes: Routes | None = None
        self.count = count
        self._engines: dict[int, LinkedEngine] = {}
        # Streams that slots were asked for, and that no engine has counted yet.
        self._asked: Counter[int] = Counter()

    def add(self, engine: LinkedEngine) -> None:
        """Takes a newly linked engine."""
        self._engines[engine.number] = engine
        if len(self._engines) == self.count:
            in_order = sorted(self._engines.items())
            self.routes = Routes(Served(number, one.info.name, one.info) for number, one in in_order)

    @property
    def is_any_running(self) -> bool:
        """Whether there is one that streams can use now."""
        return any(engine.is_running for engine in self._engines.values())

    def running(self, numbers: Iterable[int]) -> list[LinkedEngine]:
        """Returns those of these that run, the one with most room first and those that seem to hang last.

        Full ones too: each has the last word.
        """
        running = [number for number in numbers if self._engines[number].is_running]
        in_order = [self._engines[number] for number in by_room(running, self.room)]
        return sorted(in_order, key=lambda engine: engine.is_silent)

    def room(self, number: int) -> Room:
        """Returns how much room an engine has; none while it is away."""
        engine = self._engines[number]
        if not engine.is_running:
            return Room(0, 0, 0.0)
        told = engine.numbers
        steps = StepKind(told.step_kind).name.lower()
        return Room(told.leased + self._asked[number], told.limit, told.load, steps)

    @contextmanager
    def asking(self, number: int, streams: int) -> Iterator[None]:
        """Counts streams for which an engine is being asked for slots."""
        self._asked[number] += streams
        try:
            yield
        finally:
            self._asked[number] -= streams
