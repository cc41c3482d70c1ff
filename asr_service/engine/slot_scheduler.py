"""Decides which slots are stepped next. Pure: the clock is an argument, and slots are indices of arrays.

Every ready slot has a due time. Slots that are due are live: they are stepped oldest first, gathered for at most one
tick. A slot whose due time lies ahead has an upload: it was sent faster than it was spoken. Uploads fill the places
that live slots leave, run without waiting for a tick when no live slot is ready, and share the machine evenly, since
the due time of each goes on by the audio that was stepped. So that a large batch of uploads does not keep the next live
slot waiting, they join only as far as a step is expected to stay within a budget.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Of the time in which a batch is likely to become full.
_SURE_SHARE = 0.75

Indices = npt.NDArray[np.integer[Any]]


class SlotScheduler:
    """Orders the ready slots and takes batches of them, by a few operations on arrays whatever their number.

    Args:
        slots: how many there are.
        max_batch: most slots in a step, at least 1.
        tick_s: for how long live slots are gathered, counted from the start of the previous step with one; 0 for not
            at all.
        upload_budget_s: how long a step with uploads in it should take at most.

    Attributes:
        max_batch: as given; may be changed at any time.
        due: monotonic time at which each slot's chunk is due, float64 [slots]; infinite for a slot that is not ready.
            For reading only.
    """

    def __init__(self, slots: int, *, max_batch: int, tick_s: float, upload_budget_s: float) -> None:
        self.max_batch = max_batch
        self.due = np.full(slots, np.inf)
        self._ready = 0
        self._tick_s = tick_s
        self._upload_budget_s = upload_budget_s
        # Slots with which a step is expected to stay within the budget.
        self._affordable = 1
        # When the last step with a live slot started.
        self._live_start = float("-inf")

    def __len__(self) -> int:
        """Returns the number of ready slots."""
        return self._ready

    def add(self, slots: Indices, due: npt.NDArray[np.float64]) -> None:
        """Adds slots that have become ready and were not so before, each once."""
        self.due[slots] = due
        self._ready += len(slots)

    def remove(self, slot: int) -> None:
        """Removes a slot, whether it is ready or not."""
        if self.due[slot] < np.inf:
            self.due[slot] = np.inf
            self._ready -= 1

    def take_batch(self, now: float) -> Indices:
        """Takes the slots of the step that starts now, in no particular order; none if it is better to wait."""
        if self.wait(now) != 0:
            return np.zeros(0, np.intp)
        ready = np.flatnonzero(self.due < np.inf)
        due = self.due[ready]
        live = min(int(np.count_nonzero(due <= now)), self.max_batch)
        if live:
            self._live_start = now
        size = min(self.max_batch, max(live + 1, self._affordable), len(ready))
        # Due times of live slots are the smallest, so that uploads have the places they leave.
        batch = ready if size == len(ready) else ready[np.argpartition(due, size - 1)[:size]]
        self.due[batch] = np.inf
        self._ready -= size
        return batch

    def wait(self, now: float) -> float | None:
        """Returns in how many seconds a step should start unless something comes first; None if nothing is ready."""
        if not self._ready:
            return None
        if self._ready >= self.max_batch or self.due.min() > now:
            return 0.0
        return max(0.0, self._live_start + self._tick_s - now)

    def filling_s(self, now: float) -> float:
        """Returns for how long the batch that is being gathered will surely not be full; 0 while none is.

        It is most of the time in which it would be, were slots ready as often as since the last live step.
        """
        if not self._ready:
            return 0.0
        return _SURE_SHARE * (self.max_batch - self._ready) * (now - self._live_start) / self._ready

    def add_step_time(self, slots: int, seconds: float) -> None:
        """Takes how long a step of so many slots took, which decides how many uploads join the next ones."""
        spare = self._upload_budget_s / max(seconds, 1e-9)
        if slots >= self._affordable or spare < 1:
            self._affordable = max(1, int(slots * min(2.0, spare)))
