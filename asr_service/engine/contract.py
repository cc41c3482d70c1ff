"""The types between an engine and the program that runs it: its settings, its states, its inbox and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from asr_service.core.commands import TimedCommand


class EngineState(Enum):
    """The states of an engine, in their order; it ends in one of the last two."""

    MAKING_MODEL = "making model"
    WARMING = "warming"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of how an engine steps its streams.

    Attributes:
        max_batch: most streams in a step.
        tick_s: for how long ready streams are gathered; see `Scheduler`.
        probe: whether to measure how many streams the machine sustains, once the model is warm and while it serves.
        finalize_silence_ms: see `Stream`; None for what suits the model.
    """

    max_batch: int
    tick_s: float
    probe: bool = False
    finalize_silence_ms: int | None = 0


class EngineMetrics(Protocol):
    """Takes what an engine reports of its work, in the engine's thread; must be quick and must not raise."""

    def step_begins(self, at: float) -> None:
        """Takes the monotonic time at which a step begins; it is over once one of the next three is called."""
        ...

    def step(self, *, seconds: float, audio_s: float, waits_s: Sequence[float]) -> None:
        """Counts a step that was made.

        Args:
            seconds: that the model took.
            audio_s: seconds of audio in it, over all its streams.
            waits_s: for each stream, seconds from when its chunk was due until the step began; 0 for uploads.
        """
        ...

    def step_failed(self, streams: int) -> None:
        """Counts a step that raised, and so ended this many streams."""
        ...

    def probe_over(self) -> None:
        """Takes that the step was one of a probe: no stream was in it, and it does not count."""
        ...

    def load_measured(self) -> None:
        """Publishes the engine's new `load`, `capacity` and `readings`.

        At most four times a second; once a second while idle.
        """
        ...


class Inbox(Protocol):
    """A queue of `TimedCommand` that an engine takes its commands from."""

    def qsize(self) -> int:
        """Returns the number of commands that are there."""
        ...

    def get_nowait(self) -> TimedCommand:
        """Takes the next command; only called when `qsize` has said that there is one."""
        ...

    def get(self, *, timeout: float) -> TimedCommand:
        """Waits for the next command. Raises queue.Empty if there is none for so many seconds."""
        ...
