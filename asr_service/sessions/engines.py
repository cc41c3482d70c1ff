"""The engines that a front end's streams may use, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from asr_service.core.lease import EngineLink
from asr_service.core.model import ModelInfo
from asr_service.recognition.vocabulary import Vocabulary


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
    def room(self) -> float:
        """How much of what it admits is free, in [0, 1]."""
        limit = self.numbers.limit
        return max(0.0, 1 - self.numbers.leased / limit) if limit else 0.0


class Engines:
    """The engines by number; one that is started again takes its own place."""

    def __init__(self) -> None:
        self._engines: dict[int, LinkedEngine] = {}

    def add(self, engine: LinkedEngine) -> None:
        """Takes a newly linked engine."""
        self._engines[engine.number] = engine

    @property
    def first(self) -> LinkedEngine | None:
        """The engine that was declared first of those which are known, whether it runs now or not."""
        return self._engines[min(self._engines)] if self._engines else None

    @property
    def is_any_running(self) -> bool:
        """Whether there is one that streams can use now."""
        return any(engine.is_running for engine in self._engines.values())

    def by_room(self) -> list[LinkedEngine]:
        """Returns those that run, the one with most room first; full ones too, since each has the last word itself."""
        running: Iterable[LinkedEngine] = (one for one in self._engines.values() if one.is_running)
        return sorted(running, key=lambda one: (-one.room, one.numbers.load, one.number))
