"""Who is stepped next. Pure: the clock is an argument, streams are ids.

A stream is ready with a due time. Due streams are live: oldest first, gathered for at most one tick. A stream whose
due time lies ahead is an upload: it was sent faster than it was spoken. Uploads fill the places that live streams
leave, run without waiting for a tick when no live stream is ready, and share the machine evenly, since each is due by
how much of it was stepped. So that a large batch of uploads does not keep the next live stream waiting, they join only
as far as a step is expected to stay within a budget.
"""

from __future__ import annotations

from heapq import heappop, heappush


class Scheduler:
    """The ready set; O(log n) for each stream that becomes ready or is taken.

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
        self._rows = 1  # streams with which a step is expected to stay within the budget
        self._due: dict[int, float] = {}  # the ready streams
        self._heap: list[
            tuple[float, int]
        ] = []  # the same by due time, and entries of streams that were removed
        self._live_start = float("-inf")  # start of the last step with a live stream

    def __len__(self) -> int:
        """Ready streams."""
        return len(self._due)

    def add(self, stream: int, due: float) -> None:
        """A stream has become ready. It is not ready already."""
        self._due[stream] = due
        heappush(self._heap, (due, stream))

    def remove(self, stream: int) -> None:
        """A stream is gone, whether it was ready or not."""
        self._due.pop(stream, None)

    def take(self, now: float) -> list[int]:
        """Streams of the step that starts now, no longer ready; none if it is better to wait."""
        if self.wait(now) != 0:
            return []
        batch: list[int] = []
        while len(batch) < self.max_batch and self._top() <= now:
            batch.append(self._pop())
        if batch:
            self._live_start = now
        places = min(self.max_batch, max(len(batch) + 1, self._rows))
        while len(batch) < places and self._due:
            self._top()
            batch.append(self._pop())
        return batch

    def wait(self, now: float) -> float | None:
        """Seconds until a step should start unless something comes first; None if nothing is ready."""
        if not self._due:
            self._heap.clear()
            return None
        if self._top() > now or len(self._due) >= self.max_batch:
            return 0.0
        return max(0.0, self._live_start + self._tick_s - now)

    def stepped(self, streams: int, seconds: float) -> None:
        """Tells how long a step of so many streams took."""
        spare = self._upload_budget_s / max(seconds, 1e-9)
        if streams >= self._rows or spare < 1:
            self._rows = max(1, int(streams * min(2.0, spare)))

    def _top(self) -> float:
        """Due time of the oldest ready stream, infinity without one."""
        heap = self._heap
        while heap:
            due, stream = heap[0]
            if self._due.get(stream) == due:
                return due
            heappop(heap)
        return float("inf")

    def _pop(self) -> int:
        stream = heappop(self._heap)[1]
        del self._due[stream]
        return stream
