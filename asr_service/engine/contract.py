"""The types between an engine and the process that runs it: its settings, its states, its record and its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

# The supervisor, which imports this, has no use for it.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class EngineState(IntEnum):
    """The states of an engine, in their order; it ends in one of the last two."""

    MAKING_MODEL = 0
    WARMING = 1
    RUNNING = 2
    FAILED = 3
    STOPPED = 4


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of how an engine steps its slots.

    Attributes:
        max_batch: most slots in a step.
        tick_s: for how long ready slots are gathered; see `SlotScheduler`.
        max_streams: streams that are admitted; None for as many as the machine is measured to sustain, once the model
            is warm and while it serves.
        max_load: load above which no stream is admitted; 0 for no limit.
    """

    max_batch: int
    tick_s: float
    max_streams: int | None = None
    max_load: float = 0.0


class EngineRecord(Protocol):
    """What an engine tells all processes of itself: it alone writes, each number at once.

    Attributes:
        state: one of `EngineState`.
        slots: of the model.
        limit: streams that it admits: slots, or as many as the machine was measured to sustain.
        leased, ready: slots that streams have, and those whose chunk waits for a step.
        running: slots whose segment has begun.
        measured: streams that the machine was measured to sustain, 0 if that is not known.
        batch_limit: most slots in a step.
        step_kind: one of `asr_service.core.model.StepKind`.
        load: how long live chunks take, over their duration; see `load.Load`.
        busy_since: monotonic time at which the step now running began, 0 between steps.
        beat: monotonic time of its last sign of life.
    """

    state: Any
    slots: Any
    limit: Any
    leased: Any
    ready: Any
    running: Any
    measured: Any
    batch_limit: Any
    step_kind: Any
    load: Any
    busy_since: Any
    beat: Any


class EngineMetrics(Protocol):
    """Takes what an engine reports of its steps, in the engine's thread; must be quick and must not raise."""

    def step(self, *, seconds: float, audio_s: float, waits_s: npt.NDArray[np.float64]) -> None:
        """Counts a step that was made.

        Args:
            seconds: that the model took.
            audio_s: seconds of audio in it, over all its slots.
            waits_s: for each slot, seconds from when its chunk was due until the step began; 0 for uploads.
        """
        ...

    def step_failed(self, slots: int) -> None:
        """Counts a step that raised, and so ended the streams of this many slots."""
        ...
