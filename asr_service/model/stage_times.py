"""Adds up how long the stages of steps take: by the device's own clock where the host does not wait for it."""

from __future__ import annotations

import time
from typing import Any

import torch

STAGES = ("features", "encoder", "decoder", "step")
"""Of steps of fixed shapes, which are one to the host, the last one alone, without further rounds of decoding."""


class StageTimes:
    """Times the stages of steps.

    Args:
        device: where the stages run.

    Attributes:
        seconds: of each stage, in all steps that were counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began: Any = None
        self._spans: list[tuple[str, Any, Any]] = []
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def begin(self) -> None:
        """A stage begins."""
        self._began = self._mark()

    def end(self, stage: str) -> None:
        """A stage ends, and the next one begins."""
        ended = self._mark()
        self._spans.append((stage, self._began, ended))
        self._began = ended

    def forget(self) -> None:
        """Forgets what is not counted yet: its step has failed."""
        self._spans.clear()

    def count(self) -> None:
        """Counts a step's stages; waits until the device has done them."""
        if self._on_gpu and self._spans:
            # The host has waited for what came of the step, which may be there a moment before the mark.
            self._spans[-1][2].synchronize()
        for stage, began, ended in self._spans:
            self.seconds[stage] += began.elapsed_time(ended) / 1000 if self._on_gpu else ended - began
        self._spans.clear()

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
