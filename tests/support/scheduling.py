"""The scheduler of slots, one slot at a time."""

from __future__ import annotations

import numpy as np

from asr_service.engine.slot_scheduler import SlotScheduler


class Scheduler(SlotScheduler):
    """A `SlotScheduler` whose slots come and go one by one."""

    def __init__(self, *, max_batch: int, tick_s: float, upload_budget_s: float) -> None:
        super().__init__(4096, max_batch=max_batch, tick_s=tick_s, upload_budget_s=upload_budget_s)

    def add_one(self, slot: int, due: float) -> None:
        """Adds a slot."""
        self.add(np.array([slot]), np.array([due]))

    def take(self, now: float) -> list[int]:
        """Takes the slots of the step that starts now, the one that is due first before the others."""
        due = self.due.copy()
        return sorted(self.take_batch(now).tolist(), key=lambda slot: (due[slot], slot))
