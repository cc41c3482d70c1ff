"""Decides which streams are stepped next. Pure: the clock is an argument, streams are ids.

Every ready stream has a due time. Streams that are due are live: they are stepped oldest first, gathered for at most
one tick. A stream whose due time lies ahead is an upload: it was sent faster than it was spoken. Uploads fill the
places that live streams leave, run without waiting for a tick when no live stream is ready, and share the machine
evenly, since the due time of each goes on by the audio that was stepped. So that a large batch of uploads does not keep
the next live stream waiting, they join only as far as a step is expected to stay within a budget.
"""

from __future__ import annotations

from heapq import heappop, heappush


class Scheduler:
    """Orders the ready streams and takes batches of them; O(log n) for each stream that is added or taken.

    Args:
        max_batch: most streams in a step, at least 1.
        tick_s: for how long live streams are gathered, counted from the start of the previous step with one; 0 for
            not at all.
        upload_budget_s: how long a step with uploads in it should take at most.

    Attributes:
        max_batch: as given; may be changed at any time.
    """

    def __init__(self, *, max_batch: int, tick_s: float, upload_budget_s: float) -> None:
        self.max_batch = max_batch
        self._tick_s = tick_s
        self._upload_budget_s = upload_budget_s
        # Streams with which a step is expected to stay within the budget.
        self._affordable = 1
        # Due times of the ready streams; the heap also has entries of streams that were removed.
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        # When the last step with a live stream started.
        self._live_start = float("-inf")

    def __len__(self) -> int:
        """Returns the number of ready streams."""
        return len(self._due)

    def add(self, stream: int, due: float) -> None:
        """Adds a stream that has become ready and was not so before."""
        self._due[stream] = due
        heappush(self._heap, (due, stream))

    def remove(self, stream: int) -> None:
        """Removes a stream, whether it is ready or not."""
        self._due.pop(stream, None)

    def take_batch(self, now: float) -> list[int]:
        """Takes the streams of the step that starts now; none if it is better to wait."""
        if self.wait(now) != 0:
            return []
        batch: list[int] = []
        while len(batch) < self.max_batch and self._oldest_due() <= now:
            batch.append(self._pop())
        if batch:
            self._live_start = now
        places = min(self.max_batch, max(len(batch) + 1, self._affordable))
        while len(batch) < places and self._due:
            self._oldest_due()
            batch.append(self._pop())
        return batch

    def wait(self, now: float) -> float | None:
        """Returns in how many seconds a step should start unless something comes first; None if nothing is ready."""
        if not self._due:
            self._heap.clear()
            return None
        if self._oldest_due() > now or len(self._due) >= self.max_batch:
            return 0.0
        return max(0.0, self._live_start + self._tick_s - now)

    def add_step_time(self, streams: int, seconds: float) -> None:
        """Takes how long a step of so many streams took, which decides how many uploads join the next ones."""
        spare = self._upload_budget_s / max(seconds, 1e-9)
        if streams >= self._affordable or spare < 1:
            self._affordable = max(1, int(streams * min(2.0, spare)))

    def _oldest_due(self) -> float:
        """Brings the oldest ready stream to the top of the heap; returns its due time, infinity without one."""
        heap = self._heap
        while heap:
            due, stream = heap[0]
            if self._due.get(stream) == due:
                return due
            heappop(heap)
        return float("inf")

    def _pop(self) -> int:
        """Takes the stream at the top of the heap, which has to be a ready one."""
        stream = heappop(self._heap)[1]
        del self._due[stream]
        return stream
