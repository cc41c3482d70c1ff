"""Models whose steps take a time that the test decides, on a clock that the test reads: no time passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from testbed.by_request import StepRequest, StepResult
from tests.support.requested import RequestedModel


class TimedModel(RequestedModel):
    """A null model that says how long each step has taken.

    Args:
        slots: streams that can be open at the same time.
        seconds: how long a step takes, by its number of streams; may be changed at any time.

    Attributes:
        now: seconds; each step moves it on.
        seconds: as given.
        batches: the slots of each step.
    """

    def __init__(self, *, slots: int, seconds: Callable[[int], float], att_right: int = 1) -> None:
        super().__init__(slots=slots, att_context=(70, att_right))
        self.now = 0.0
        self.seconds = seconds
        self.batches: list[list[int]] = []

    def clock(self) -> float:
        """Reads the clock."""
        return self.now

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps, and moves the clock on."""
        self.batches.append([request.slot for request in requests])
        self.now += self.seconds(len(requests))
        return super().step(requests)
